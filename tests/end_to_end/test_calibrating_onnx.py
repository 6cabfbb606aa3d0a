"""Calibration of ONNX files from the command line, on arrays and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from .conftest import refused, run_metaq

onnxruntime = pytest.importorskip("onnxruntime")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz")
WIDTH = 32


def save_graph(path: Path, nodes: list[Any], inputs: list[Any], output: str, weights: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs,
        [onnx.ValueInfoProto(name=output)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A convolution and two products; it takes pictures, and a number that it adds to all outputs."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["pixels", "filter", "shift"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "first"], ["d"]),
        helper.make_node("Tanh", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "second"], ["f"], transB=1),
        helper.make_node("Add", ["f", "offset"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8]),
        helper.make_tensor_value_info("offset", onnx.TensorProto.FLOAT, []),
    ]
    weights = {
        "filter": 0.3 * generator.standard_normal((16, 3, 3, 3)),
        "shift": 0.3 * generator.standard_normal(16),
        "first": 0.08 * generator.standard_normal((256, 64)),
        "second": 0.2 * generator.standard_normal((10, 64)),
    }
    return save_graph(tmp_path / "classifier.onnx", nodes, inputs, "logits", weights)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    np.savez(tmp_path / "pictures.npz", pixels=generator.standard_normal((160, 3, 8, 8)), offset=np.float32(0.5))
    return tmp_path / "pictures.npz"


def logits(path: Path) -> np.ndarray:
    """Outputs for pictures that calibration has not seen."""
    pixels = np.random.default_rng(2).standard_normal((200, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": pixels, "offset": np.array(0, dtype=np.float32)})
    return np.asarray(found)


def score(before: np.ndarray, after: np.ndarray) -> float:
    return float(1 - np.square(after - before).sum() / np.square(before - before.mean(axis=0)).sum() / 2)


def test_a_quality_of_the_outputs_is_kept(tmp_path, classifier, pictures):
    out, back = tmp_path / "m.metaq", tmp_path / "back.onnx"
    told = run_metaq("compress", classifier, "-o", out, "--calibrate", pictures, "--keep", 0.99, "--json")
    assert told.status == 0, told.err
    assert 0.99 <= told.json["kept"] < 0.995
    assert told.json["bytes"] == out.stat().st_size
    assert run_metaq("decompress", out, "-o", back).status == 0
    assert 0.98 < score(logits(classifier), logits(back)) < 0.997


def test_calibration_makes_outputs_better_at_the_same_size(tmp_path, classifier, pictures):
    scores = {}
    for name, options in {"plain": (), "calibrated": ("--calibrate", pictures)}.items():
        out, back = tmp_path / f"{name}.metaq", tmp_path / f"{name}.onnx"
        told = run_metaq("compress", classifier, "-o", out, "--target-bytes", 9000, *options, "--json")
        assert told.status == 0, told.err
        assert told.json["bytes"] <= 9000
        assert run_metaq("decompress", out, "-o", back).status == 0
        scores[name] = score(logits(classifier), logits(back))
    assert 1 - scores["calibrated"] < 0.8 * (1 - scores["plain"])


def test_other_parts_of_the_file_stay_as_they_are(tmp_path, classifier, pictures):
    out, back = tmp_path / "m.metaq", tmp_path / "back.onnx"
    told = run_metaq("compress", classifier, "-o", out, "--calibrate", pictures, "--exclude", "second")
    assert told.status == 0, told.err
    assert "expect of the outputs" in told.out
    assert run_metaq("decompress", out, "-o", back).status == 0
    before, after = onnx.load(classifier), onnx.load(back)
    kept = {tensor.name: tensor for tensor in before.graph.initializer}
    for tensor in after.graph.initializer:
        same = tensor.raw_data == kept[tensor.name].raw_data
        assert same == (tensor.name == "second")
        tensor.raw_data = kept[tensor.name].raw_data
    assert before.SerializeToString() == after.SerializeToString()


def text_folder(path: Path) -> Path:
    """An ONNX network of tokens with a tokenizer beside it, whose embeddings are means over positions."""
    transformers = pytest.importorskip("transformers")
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["a"]),
        helper.make_node("Gather", ["kinds", "token_type_ids"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("MatMul", ["c", "up"], ["d"]),
        helper.make_node("Tanh", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "down"], ["last_hidden_state"]),
    ]
    names = ("input_ids", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "length"]) for name in names]
    weights = {
        "words": generator.standard_normal((len(WORDS), WIDTH)),
        "kinds": generator.standard_normal((2, WIDTH)),
        "up": 0.3 * generator.standard_normal((WIDTH, 3 * WIDTH)),
        "down": 0.2 * generator.standard_normal((3 * WIDTH, WIDTH)),
    }
    save_graph(path / "model.onnx", nodes, inputs, "last_hidden_state", weights)
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
    (path / "modules.json").write_text(json.dumps([{"type": kind} for kind in kinds]))
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(list(WORDS[5:]), generator.integers(3, 12))) for _ in range(160)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "texts.txt"


def embeddings(folder: Path, lines: list[str]) -> np.ndarray:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found = []
    for line in lines:
        tokens = tokenizer(line, return_tensors="np")
        (hidden,) = session.run(None, {name: tokens[name] for name in ("input_ids", "token_type_ids")})
        mean = np.asarray(hidden)[0].mean(axis=0)
        found.append(mean / np.linalg.norm(mean))
    return np.stack(found)


def test_a_folder_with_a_tokenizer_is_calibrated_on_texts(tmp_path, texts):
    folder, out = text_folder(tmp_path / "texts"), tmp_path / "m.metaq"
    told = run_metaq("compress", folder, "-o", out, "--calibrate", texts, "--keep", 0.99, "--json")
    assert told.status == 0, told.err
    assert 0.99 <= told.json["kept"] < 0.995
    assert run_metaq("decompress", out, "-o", tmp_path / "back").status == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(path.name for path in folder.iterdir())
    lines = texts.read_text().splitlines()
    assert 0.98 < score(embeddings(folder, lines), embeddings(tmp_path / "back", lines)) < 0.998


def test_a_folder_is_calibrated_on_arrays(tmp_path):
    folder, out = text_folder(tmp_path / "texts"), tmp_path / "m.metaq"
    generator = np.random.default_rng(0)
    ids = generator.integers(5, len(WORDS), (90, 7), dtype=np.int32)
    np.savez(tmp_path / "ids.npz", input_ids=ids, token_type_ids=np.zeros_like(ids))
    options = ("--calibrate", tmp_path / "ids.npz", "--target-bits-per-weight", 6, "--json")
    told = run_metaq("compress", folder, "-o", out, *options)
    assert told.status == 0, told.err
    assert told.json["kept"] > 0.9


def test_states_go_in_beside_samples(tmp_path):
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "hn", "cn"], hidden_size=24),
        helper.make_node("Squeeze", ["y"], ["out"]),
    ]
    shapes = {"x": ["length", 1, 16], "h": [1, 1, 24], "c": [1, 1, 24]}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    sizes = {"w": (1, 96, 16), "r": (1, 96, 24), "b": (1, 192)}
    weights = {name: 0.4 * generator.standard_normal(shape) for name, shape in sizes.items()}
    path = save_graph(tmp_path / "recurrent.onnx", nodes, inputs, "out", weights)
    states = {name: generator.standard_normal((24, 1, 1, 24)) for name in ("h", "c")}
    np.savez(tmp_path / "x.npz", x=generator.standard_normal((24, 9, 1, 16)), **states)
    out = tmp_path / "m.metaq"
    told = run_metaq("compress", path, "-o", out, "--calibrate", tmp_path / "x.npz", "--keep", 0.99, "--json")
    assert told.status == 0, told.err
    assert 0.99 <= told.json["kept"] < 0.997


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_what_does_not_fit_is_said(tmp_path, classifier, pictures, texts):
    out = tmp_path / "m.metaq"

    def result(inputs: Path, *options: object) -> Any:
        return run_metaq("compress", classifier, "-o", out, "--calibrate", inputs, *options)

    pixels = np.zeros((40, 3, 8, 8))
    assert refused(result(saved(tmp_path / "one.npz", pixels=pixels)), "one.npz", "lacks offset")
    shaped = saved(tmp_path / "shaped.npz", pixels=np.zeros((40, 3, 9, 8)), offset=np.float32(0))
    assert refused(result(shaped), "shaped.npz", "[batch, 3, 8, 8]")
    assert refused(result(texts), "texts.txt", "numpy.savez")
    assert refused(result(tmp_path / "nobody.npz"), "nobody.npz")
    assert refused(result(pictures, "--recalibrate-norms"), "--recalibrate-norms")
    model = onnx.load(classifier)
    model.opset_import[0].version = 999
    onnx.save(model, classifier)
    assert refused(result(pictures), "classifier.onnx", "onnxruntime cannot run it")
    assert not out.exists()


def test_tokens_that_the_network_does_not_have_are_refused(tmp_path):
    folder = text_folder(tmp_path / "texts")
    ids = np.full((40, 5), 1000)
    inputs = saved(tmp_path / "ids.npz", input_ids=ids, token_type_ids=np.zeros_like(ids))
    told = run_metaq("compress", folder, "-o", tmp_path / "m.metaq", "--calibrate", inputs)
    assert refused(told, "ids.npz", "cannot run the network on a batch", "1000")
    ids[:35] = 5
    late = saved(tmp_path / "late.npz", input_ids=ids, token_type_ids=np.zeros_like(ids))
    assert refused(run_metaq("compress", folder, "-o", tmp_path / "m.metaq", "--calibrate", late), "on a batch", "1000")


def test_weights_that_all_lie_in_a_loop_are_not_calibrated(tmp_path):
    weights = np.random.default_rng(0).normal(0, 0.2, (32, 32)).astype(np.float32)
    kinds = {"i": (onnx.TensorProto.INT64, []), "go": (onnx.TensorProto.BOOL, []), "a": (onnx.TensorProto.FLOAT, None)}
    results = {"on": (onnx.TensorProto.BOOL, []), "c": (onnx.TensorProto.FLOAT, None)}
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["a", "w"], ["b"]),
            helper.make_node("Tanh", ["b"], ["c"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in results.items()],
        [numpy_helper.from_array(weights, "w")],
    )
    constants = [numpy_helper.from_array(np.array(value), name) for name, value in (("n", 3), ("go", True))]
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "go", "x"], ["y"], body=body)],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        constants,
    )
    path, inputs = tmp_path / "loop.onnx", tmp_path / "inputs.npy"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.save(inputs, np.random.default_rng(1).normal(size=(40, 32)).astype(np.float32))
    command = ("compress", path, "-o", tmp_path / "m.metaq", "--calibrate", inputs, "--keep", "0.99")
    assert refused(run_metaq(*command), "all weights lie in loops or branches")
    assert run_metaq("compress", path, "-o", tmp_path / "m.metaq").status == 0
