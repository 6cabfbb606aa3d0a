"""The page that searches by meaning, in a headless browser, with a tiny encoder; and its tokenizer."""

from __future__ import annotations

import json
import random
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_hand import CHROMIUM, needs_browser, needs_node

import metaq
from metaq import container
from metaq.compression.restoring import restore_folder

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
WIDTH = 32
QUERIES = ["the cat was ill", "Stars, and planets!", "naïve café 漢字", "money " * 40, "zzz"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = 3000


OTHER_CATEGORY_SINCE = frozenset("\u166d\u1734\u1885\u1886")
"""Letters that later versions of Unicode put into other categories than the tables of tokenizers do."""


def node(script: str, *arguments: str, value: Any) -> Any:
    """What a script of web/testing makes of a value, both in JSON."""
    done = subprocess.run(
        ["node", str(WEB / "testing" / script), *arguments],
        input=json.dumps(value),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def vocabulary() -> dict[str, int]:
    """Letters alone, inside words and in pairs, punctuation, ideographs, and the tokens of BERT."""
    pairs = [f"{first}{second}" for first in LETTERS for second in "aeiou"]
    pieces = [*LETTERS, *pairs, *map(str, range(10)), *"αβγδжшзא", "the", "star", "money", "cat", "ß"]
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *pieces,
        *(f"##{piece}" for piece in pieces),
        *".,!?'[]-漢字한",
    ]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def make_tokenizer(path: Path, *, max_tokens: int = 24) -> Any:
    """A tokenizer of BERT with a small vocabulary, also written as JSON."""
    tokenizers = pytest.importorskip("tokenizers")
    known = vocabulary()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(known, unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, known[token]) for token in ("[CLS]", "[SEP]")]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.enable_truncation(max_tokens)
    tokenizer.save(str(path))
    return tokenizer


def texts() -> list[str]:
    """Plain and strange texts: letters of all categories, accents, ideographs, control characters, special tokens."""
    generator = random.Random(0)
    letters: dict[str, list[str]] = {}
    # Later letters are of categories that depend on who knows which version of Unicode.
    for letter in map(chr, range(0x110000)):
        category = unicodedata.ucd_3_2_0.category(letter)
        if category not in ("Cn", "Cs") and letter not in OTHER_CATEGORY_SINCE:
            letters.setdefault(category, []).append(letter)
    known = [token.removeprefix("##") for token in vocabulary()]
    between = ["", " ", "-", "\u3000", "\u0301", "\u200b", "\t", "\r\n", "\0", "\x85", "\xad", "\ufffd"]
    found = ["", " ", "ΑΣ İstanbul ẞß ﬁ Ǆ", "[SEP] [sep] [[MASK]]", "a" * 20 + " " + "a" * 21]
    while len(found) < TEXTS:
        strange = [generator.choice(letters[generator.choice(list(letters))]) for _ in range(generator.randrange(12))]
        usual = [generator.choice(known) + generator.choice(between) for _ in range(generator.randrange(12))]
        parts = strange + usual
        generator.shuffle(parts)
        found.append("".join(parts))
    return found


@needs_node
@pytest.mark.parametrize("max_tokens", [24, 10_000])
def test_texts_have_the_tokens_that_hugging_face_gives_them(max_tokens: int, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "tokenizer.json", max_tokens=max_tokens)
    drawn = texts()
    found = node("encode_texts.js", str(tmp_path / "tokenizer.json"), value=drawn)["ids"]
    expected = [encoding.ids for encoding in tokenizer.encode_batch(drawn)]
    wrong = [text for text, ids, others in zip(drawn, found, expected, strict=True) if ids != others]
    assert wrong == []


@needs_node
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"type": "BPE"}}, "its model is no WordPiece"),
        ({"normalizer": None}, "its normalizer is no BertNormalizer"),
        ({"model": {"type": "WordPiece"}}, "is damaged"),
        ({"added_tokens": None}, "is damaged"),
    ],
)
def test_other_tokenizers_are_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    make_tokenizer(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert reason in node("encode_texts.js", str(path), value=["text"])["error"]


@needs_node
@pytest.mark.parametrize(("text", "reason"), [("{", "is no JSON"), ("null", "of another kind"), ("", "is no JSON")])
def test_what_is_no_tokenizer_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    assert reason in node("encode_texts.js", str(path), value=["text"])["error"]


def write_encoder(path: Path) -> None:
    """A network with random weights that reads sentences as the real one does: tokens, layers, mean, length 1."""
    onnx = pytest.importorskip("onnx")
    helper, generator = onnx.helper, np.random.default_rng(0)

    def weights(name: str, *shape: int) -> Any:
        return onnx.numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)

    make = helper.make_node
    nodes = [
        make("Gather", ["embeddings", "input_ids"], ["embedded"]),
        make("MatMul", ["embedded", "inner"], ["between"]),
        make("Tanh", ["between"], ["bent"]),
        make("MatMul", ["bent", "outer"], ["changed"]),
        make("Add", ["embedded", "changed"], ["hidden"]),
        make("Cast", ["attention_mask"], ["mask"], to=onnx.TensorProto.FLOAT),
        make("Unsqueeze", ["mask", "last"], ["weights"]),
        make("Mul", ["hidden", "weights"], ["weighted"]),
        make("ReduceSum", ["weighted", "tokens"], ["summed"], keepdims=0),
        make("ReduceL2", ["summed", "last"], ["length"], keepdims=1),
        make("Div", ["summed", "length"], ["sentence_embedding"]),
    ]
    constants = [
        weights("embeddings", len(vocabulary()), WIDTH),
        weights("inner", WIDTH, 2 * WIDTH),
        weights("outer", 2 * WIDTH, WIDTH),
        onnx.numpy_helper.from_array(np.array([-1]), "last"),
        onnx.numpy_helper.from_array(np.array([1]), "tokens"),
    ]
    integers, floats = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(name, integers, ["n", "m"]) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("sentence_embedding", floats, ["n", WIDTH])]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    # Large tensors lie in a file of their own.
    onnx.save_model(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=10_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder with its tokenizer, as a folder and as a `.metaq` file beside it."""
    made = tmp_path_factory.mktemp("encoder") / "encoder"
    made.mkdir()
    write_encoder(made / "model.onnx")
    make_tokenizer(made / "tokenizer.json")
    metaq.compress(made, coder="fast").save(made.with_suffix(".metaq"))
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What the browser says of the page."""
    packed = folder.with_suffix(".metaq")
    damaged, foreign = folder.with_name("damaged.metaq"), folder.with_name("foreign.metaq")
    damaged.write_bytes(packed.read_bytes()[:-9])
    foreign.write_bytes(container.encode([], metadata={}))
    result: dict[str, Any] = node(
        "check_search.js", str(CHROMIUM), str(packed), str(damaged), str(foreign), value=QUERIES
    )
    return result


def cosines(folder: Path, sentences: list[str]) -> np.ndarray:
    """Cosines of all queries and sentences by onnxruntime in Python, from the model that Python restores."""
    onnxruntime = pytest.importorskip("onnxruntime")
    restored = folder.with_name("restored")
    restore_folder(folder.with_suffix(".metaq"), restored)
    session = onnxruntime.InferenceSession(restored / "model.onnx")
    tokenizer = make_tokenizer(folder / "tokenizer.json")
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch([*QUERIES, *sentences])
    (vectors,) = session.run(
        None,
        {
            "input_ids": np.array([each.ids for each in encodings]),
            "attention_mask": np.array([each.attention_mask for each in encodings]),
        },
    )
    return vectors[: len(QUERIES)] @ vectors[len(QUERIES) :].T


@pytest.mark.slow
@needs_browser
def test_sentences_are_ranked_as_by_python(folder: Path, found: dict[str, Any]) -> None:
    expected = cosines(folder, found["sentences"])
    assert [ranking["query"] for ranking in found["rankings"]] == [query.strip() for query in QUERIES]
    for ranking, others in zip(found["rankings"], expected, strict=True):
        places = [each["place"] for each in ranking["ranking"]]
        values = [each["cosine"] for each in ranking["ranking"]]
        assert sorted(places) == list(range(len(found["sentences"])))
        assert values == sorted(values, reverse=True)
        assert np.abs(np.array(values) - others[places]).max() <= 1e-5


@pytest.mark.slow
@needs_browser
def test_the_page_works_for_everyone(found: dict[str, Any]) -> None:
    """Wide and narrow, light and dark, by keys alone, and without asking anyone else for anything."""
    assert found["complaints"] == []
    assert found["violations"] == []
    assert found["overflowing"] == []
    assert found["outside"] == []
    assert found["focus"] == "query"
    assert found["shown"] == len(found["sentences"])
    assert sorted(found["own"]) == ["A cat sat on a mat.", "Bread needs time.", "Stocks fell again."]
    assert found["withoutJavaScript"].endswith("which is turned off here.")


@pytest.mark.slow
@needs_browser
def test_what_goes_wrong_is_said_in_sentences(found: dict[str, Any]) -> None:
    problems = found["problems"]
    assert problems["missing"].endswith("model.metaq cannot be fetched: the server answers 404.")
    assert problems["damaged"] == "The file is damaged or cut short: its checksum is wrong."
    assert problems["foreign"] == "The file was not made of an ONNX model, or of a folder with one."
    assert found["stopped"] == "Stopped."
