"""Calibration from the command line on texts, arrays and pictures, to a size or to a quality of the outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import metaq

from .conftest import refused, run_metaq

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz")

NETS = """
from torch import nn


def make():
    return nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 20))


def make_of_tokens():
    return nn.Sequential(nn.Embedding(50, 24), nn.Flatten(), nn.Linear(24 * 6, 10))


def fail():
    raise RuntimeError("no such luck")
"""


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "tiny_calibrated_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("tiny_calibrated_nets", None)


NET, TOKEN_NET = "tiny_calibrated_nets:make", "tiny_calibrated_nets:make_of_tokens"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A checkpoint of a network of one's own."""
    torch.manual_seed(0)
    from tiny_calibrated_nets import make  # type: ignore[import-not-found]

    torch.save(make().state_dict(), tmp_path / "plain.pth")
    return tmp_path / "plain.pth"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(list(WORDS[5:]), generator.integers(3, 12))) for _ in range(160)]
    (tmp_path / "texts.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return tmp_path / "texts.txt"


def bert_folder(path: Path, **options: object) -> Path:
    """A model of Transformers with a tokenizer; the pooler's weights are part of it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes)
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4 if parameter.ndim > 1 else 1
    model.save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab=str(path / "vocab.txt"), **options).save_pretrained(path)
    return path


def gpt2_folder(path: Path, **words: str) -> Path:
    """A decoder without a word for padding, whose file has a prefix less than its class, and half precision."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(WORDS), n_positions=16, n_embd=32, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).to(torch.bfloat16)
    model.save_pretrained(path)
    state = load_file(path / "model.safetensors")
    stored = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words).save_pretrained(path)
    return path


def test_a_folder_is_calibrated_on_texts(tmp_path, texts):
    folder, out = bert_folder(tmp_path / "bert"), tmp_path / "bert.metaq"
    plain = run_metaq("compress", folder, "-o", tmp_path / "plain.metaq", "--json").json
    told = run_metaq("compress", folder, "-o", out, "--calibrate", texts, "--target-ratio", 8, "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == out.stat().st_size <= told.json["float_bytes"] / 8
    assert 0.5 < told.json["kept"] < 1
    assert 0 < told.json["kept_error"] < 0.1
    for key in ("carried", "left_out", "float_bytes", "weights"):
        assert told.json[key] == plain[key]
    assert 0 < told.json["carried_bytes"] == plain["carried_bytes"]
    assert run_metaq("decompress", out, "-o", tmp_path / "back").status == 0
    back, state = (load_file(place / "model.safetensors") for place in (tmp_path / "back", folder))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in back.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in state.items()
    }
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(path.name for path in folder.iterdir())


def test_a_quality_of_embeddings_is_kept(tmp_path, texts):
    transformers = pytest.importorskip("transformers")
    folder, out = bert_folder(tmp_path / "bert"), tmp_path / "bert.metaq"
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true, "pooling_mode_x": false}')
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
    (folder / "modules.json").write_text(json.dumps([{"type": kind} for kind in kinds]))
    told = run_metaq("compress", folder, "-o", out, "--calibrate", texts, "--keep", 0.99)
    assert told.status == 0, told.err
    assert "expect of the outputs" in told.out
    run_metaq("decompress", out, "-o", tmp_path / "back")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lines = [line for line in texts.read_text().splitlines() if line]

    def embeddings(place: Path) -> torch.Tensor:
        model = transformers.AutoModel.from_pretrained(place).eval()
        found = []
        with torch.no_grad():
            for line in lines:
                hidden = model(**tokenizer(line, return_tensors="pt")).last_hidden_state
                found.append(torch.nn.functional.normalize(hidden.mean(dim=1), dim=1))
        return torch.cat(found)

    before, after = embeddings(folder), embeddings(tmp_path / "back")
    score = 1 - (after - before).square().sum() / (before - before.mean(dim=0)).square().sum() / 2
    assert 0.98 < score < 0.997
    # No embedding depends on the pooler, which other users of the model may need.
    pooler = [load_file(place / "model.safetensors")["pooler.dense.weight"] for place in (folder, tmp_path / "back")]
    assert torch.nn.functional.cosine_similarity(*pooler).min() > 0.9


@pytest.mark.parametrize("words", [{"eos_token": "[SEP]"}, {"unk_token": "[UNK]"}, {}], ids=["end", "unknown", "none"])
def test_names_and_types_of_the_file_stay(tmp_path, texts, words):
    folder, out = gpt2_folder(tmp_path / "gpt2", **words), tmp_path / "gpt2.metaq"
    told = run_metaq("compress", folder, "-o", out, "--calibrate", texts, "--keep", 0.99, "--exclude", "wpe*", "--json")
    assert told.status == 0, told.err
    assert 0.99 <= told.json["kept"] < 0.995
    restored, state = metaq.load(out), load_file(folder / "model.safetensors")
    assert restored.keys() == state.keys()
    assert all(restored[name].dtype == tensor.dtype for name, tensor in state.items())
    assert torch.equal(restored["wpe.weight"], state["wpe.weight"])
    assert not torch.equal(restored["wte.weight"], state["wte.weight"])
    reasons = {part["name"]: part["reason"] for part in told.json["not_quantized"]}
    assert reasons["wpe.weight"] == "excluded by wpe*"
    assert reasons["h.0.attn.bias"] == "boolean"


def test_a_folder_is_calibrated_on_token_ids(tmp_path):
    folder = bert_folder(tmp_path / "bert")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(5, 20, (70, 9)))
    options = ("--calibrate", tmp_path / "ids.npy", "--target-ratio", 6, "--json")
    told = run_metaq("compress", folder, "-o", tmp_path / "m.metaq", *options)
    assert told.status == 0, told.err
    assert told.json["ratio"] >= 6


def test_a_folder_is_calibrated_on_pictures(tmp_path):
    transformers = pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    folder = tmp_path / "vit"
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    told = run_metaq("compress", folder, "-o", tmp_path / "m.metaq", "--calibrate", tmp_path / "pictures", "--json")
    assert told.status == 0, told.err
    assert told.json["kept"] > 0.9
    assert refused(
        run_metaq("compress", folder, "-o", tmp_path / "n.metaq", "--calibrate", folder), "vit", "no picture"
    )


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.float32])
def test_a_checkpoint_is_calibrated_on_an_array(tmp_path, plain, kind):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 12)).astype(kind))
    out = tmp_path / "m.metaq"
    options = ("--net", NET, "--calibrate", tmp_path / "x.npy", "--keep", 0.995, "--json")
    told = run_metaq("compress", plain, "-o", out, *options)
    assert told.status == 0, told.err
    assert 0.995 <= told.json["kept"] < 0.9975
    assert metaq.load(out).keys() == torch.load(plain).keys()
    assert told.json["bytes"] == out.stat().st_size


def test_integers_are_token_ids(tmp_path):
    from tiny_calibrated_nets import make_of_tokens

    torch.save(make_of_tokens().state_dict(), tmp_path / "tokens.pth")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 50, (90, 6), dtype=np.int32))
    options = ("--net", TOKEN_NET, "--calibrate", tmp_path / "ids.npy", "--target-ratio", 5)
    told = run_metaq("compress", tmp_path / "tokens.pth", "-o", tmp_path / "m.metaq", *options)
    assert told.status == 0, told.err
    assert "expect of the outputs" in told.out


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((4, 13)), ("x.npy", "shape")),
        (np.full((4, 12), np.nan), ("x.npy", "NaN")),
        (np.full((4, 12), 1e300), ("x.npy", "infinity")),
        (np.zeros((0, 12)), ("x.npy", "(0, 12)")),
        (np.float64(3), ("x.npy", "first dimension")),
        (np.array(["text"]), ("x.npy", "numbers")),
        (np.zeros((4, 12), dtype=np.int64), ("x.npy", "type")),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, plain, array, named):
    path = saved(tmp_path / "x.npy", array)
    assert refused(run_metaq("compress", plain, "-o", tmp_path / "m.metaq", "--net", NET, "--calibrate", path), *named)
    assert not (tmp_path / "m.metaq").exists()


def test_what_does_not_go_together_is_said(tmp_path, plain):
    x = saved(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 12)))

    def result(*options):
        return run_metaq("compress", plain, "-o", tmp_path / "m.metaq", *options)

    assert refused(result("--keep", 0.99), "--keep", "--calibrate")
    assert refused(result("--calibrate", x, "--data", "digits"), "--calibrate, --data")
    assert refused(result("--calibrate", x, "--net", NET, "--keep", 2), "keep")
    assert refused(result("--calibrate", x, "--net", NET, "--max-drop", 1), "--max-drop")
    assert refused(result("--calibrate", x, "--net", NET, "--no-recover"), "--no-recover")
    assert refused(result("--calibrate", x), "--net")
    assert refused(result("--calibrate", x, "--net", "tiny_calibrated_nets:fail"), "no such luck")
    assert refused(result("--calibrate", x, "--net", TOKEN_NET), "do not fit the network")
    assert refused(result("--calibrate", tmp_path / "nobody.npy", "--net", NET), "nobody.npy")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    assert refused(result("--calibrate", tmp_path / "bad.npy", "--net", NET), "bad.npy")
    assert refused(result("--calibrate", tmp_path / "texts.txt", "--net", NET), "array")
    assert not (tmp_path / "m.metaq").exists()


def test_texts_and_folders_that_do_not_fit_are_refused(tmp_path, texts, monkeypatch):
    folder, empty, binary = bert_folder(tmp_path / "bert"), tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00")

    def result(inputs, *options):
        return run_metaq("compress", folder, "-o", tmp_path / "m.metaq", "--calibrate", inputs, *options)

    assert refused(result(empty), "empty.txt", "no text")
    assert refused(result(binary), "binary.txt")
    assert refused(result(tmp_path / "nobody.txt"), "nobody.txt")
    assert refused(result(saved(tmp_path / "x.npy", np.full((3, 4), 1000))), "x.npy")
    assert refused(result(texts, "--data", "digits"), "--calibrate, --data")
    for file in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (folder / file).unlink()
    assert refused(result(texts), "bert", "no tokenizer")
    (folder / "config.json").write_text("{}")
    assert refused(result(texts), "bert", "AutoModel")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refused(result(texts), "transformers is not installed")
    assert not (tmp_path / "m.metaq").exists()
