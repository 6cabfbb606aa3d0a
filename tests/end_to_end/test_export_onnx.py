from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from metaq import BucketGrid, compress
from metaq.lab import nets, runs
from metaq.lab.data import load, to_float
from metaq.model import checkpoint

from .conftest import refused, run_metaq

MODELS = Path(__file__).parents[2] / "models"


def outputs(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])


@pytest.fixture(scope="module")
def images():
    return to_float(load("digits").test.images)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--fold",)])
def test_a_shipped_model_becomes_a_small_network_that_does_the_same(tmp_path, images, options):
    file, out = MODELS / "lenet5-mnist.metaq", tmp_path / "model.onnx"
    told = run_metaq("export", file, "--net", "lenet5", *options, "-o", out, "--json")
    assert told.status == 0, told.err
    assert told.err == ""
    assert told.json["file"] == str(out)
    assert told.json["file_bytes"] == out.stat().st_size < told.json["float_bytes"] / 6
    assert told.json["integers"]["fc1.weight"] == "int4"
    assert told.json["weight_difference"] == 0
    assert told.json["output_difference"] < 1e-6
    assert told.json["is_batch_free"]
    assert (told.json["weights"] < 20_000) == bool(options) == (told.json["units"] is not None)
    with torch.no_grad():
        expected = runs.build("lenet5", checkpoint.read(file)).eval()(images)
    torch.testing.assert_close(outputs(out, images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert onnx.load(out).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}


def test_the_network_that_a_file_names_is_taken_and_a_table_is_shown(tmp_path):
    out = tmp_path / "model.onnx"
    shown = run_metaq("export", MODELS / "lenet300-mnist.metaq", "-o", out)
    assert shown.status == 0, shown.err
    for part in (
        "266,610",
        f"{out.stat().st_size:,} bytes",
        "tensors as int4",
        "tensors as int8",
        "batch × 1 × 28 × 28",
    ):
        assert part in shown.out


def test_without_onnxruntime_it_is_said_that_nothing_was_compared(tmp_path, monkeypatch, checkpoint):
    monkeypatch.setattr("metaq.onnx.exporting.find_spec", lambda name: None if name == "onnxruntime" else object())
    told = run_metaq("export", checkpoint, "-o", tmp_path / "model.onnx", "--json")
    assert told.status == 0, told.err
    assert "onnxruntime is not installed" in told.err
    assert told.json["output_difference"] is None
    assert told.json["integers"] == {}


NETS = """
import torch
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4 * 4, 10))


def make_narrow():
    return make().bfloat16()


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.layer(inputs if inputs.sum() > 0 else -inputs)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(50, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 40)

    def forward(self, ids, mask):
        return {"tags": self.head(self.layer(self.words(ids))[0]) * mask[..., None], "count": 3}


class Unrolled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(40, 40)

    def forward(self, series):
        found = series[:, 0]
        for place in range(int(series.shape[1])):
            found = torch.tanh(self.layer(found + series[:, place]))
        return found


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(40, 20)

    def forward(self, left, right):
        return self.layer(torch.cat([left, right], 1))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Names of a user's networks with a file of quantised weights for each."""
    (tmp_path / "tiny_onnx_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    files = {}
    for factory in ("make", "Choosing", "Two", "Words", "Unrolled"):
        files[factory] = tmp_path / f"{factory}.metaq"
        state_dict = nets.create(f"tiny_onnx_nets:{factory}").state_dict()
        grids = dict.fromkeys(state_dict, BucketGrid(center=0.0, radius=0.5, count=15))
        compress(state_dict, grids=grids).save(files[factory])
    yield files
    sys.modules.pop("tiny_onnx_nets", None)


def test_a_network_of_ones_own_needs_the_shapes_of_its_inputs(tmp_path, own):
    net, out = ("--net", "tiny_onnx_nets:make"), tmp_path / "out.onnx"
    told = run_metaq("export", own["make"], *net, "--input-shape", "3, 6,6", "-o", out, "--json")
    assert told.status == 0, told.err
    assert told.json["integers"]["3.weight"] == "int4"
    two = ("--net", "tiny_onnx_nets:Two", "--input-shape", "30", "--input-shape", "10")
    told = run_metaq("export", own["Two"], *two, "-o", out, "--force", "--json")
    assert told.status == 0, told.err
    assert told.json["integers"] == {"layer.weight": "int4"}
    out.unlink()
    assert refused(run_metaq("export", own["make"], *net, "-o", out), "--input-shape")
    for shape in ("", "3,,6", "a", "3,-6,6", "0,6,6"):
        assert refused(run_metaq("export", own["make"], *net, "--input-shape", shape, "-o", out), "--input-shape")
    for shape in ("3,7,7", "3,6"):
        options = (*net, "--input-shape", shape)
        assert refused(run_metaq("export", own["make"], *options, "-o", out), "does not take inputs of shape")
    assert not out.exists()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("shape", ["3,6,6", "3,6,6:bfloat16"])
def test_networks_in_bfloat16_compute_in_float32(tmp_path, shape):
    net = nets.create("tiny_onnx_nets:make").bfloat16()
    grids = {"3.weight": BucketGrid(center=0.0, radius=0.5, count=15)}
    packed, out = tmp_path / "narrow.metaq", tmp_path / "out.onnx"
    compress(net.state_dict(), grids=grids).save(packed)
    options = ("--net", "tiny_onnx_nets:make_narrow", "--input-shape", shape, "-o", out, "--json")
    told = run_metaq("export", packed, *options)
    assert told.status == 0, told.err
    assert "the file computes in float32" in told.err
    assert told.json["integers"]["3.weight"] == "int4"
    net.load_state_dict(checkpoint.read(packed))
    inputs = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(outputs(out, inputs), net.float()(inputs), atol=1e-5, rtol=0)


def test_integers_as_inputs_and_free_lengths(tmp_path, own):
    out = tmp_path / "out.onnx"
    net = ("--net", "tiny_onnx_nets:Words", "--input-shape", "7:int64", "--input-shape", "7:float32")
    told = run_metaq("export", own["Words"], *net, "-o", out, "--json")
    assert told.status == 0, told.err
    assert told.err == ""
    assert told.json["inputs"] == {"ids": ["batch", "length"], "mask": ["batch", "length"]}
    assert told.json["integers"].keys() >= {"words.weight", "layer.weight_ih_l0", "head.weight"}
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    ids, mask = torch.randint(0, 50, (3, 14)), torch.ones(3, 14)
    found = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0]
    model = runs.build("tiny_onnx_nets:Words", checkpoint.read(own["Words"])).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(ids, mask)["tags"], rtol=1e-4, atol=1e-5)
    for shape in ("7:int6", "7:", ":int64", "7:int64:int64", "7:complex64"):
        options = (*net[:2], "--input-shape", shape)
        assert refused(run_metaq("export", own["Words"], *options, "-o", out, "--force"), f"--input-shape {shape}")
    options = (*net[:2], "--input-shape", "7", "--input-shape", "7")
    assert refused(run_metaq("export", own["Words"], *options, "-o", out, "--force"), "7 float32", "shapes and types")


def test_a_fixed_length_is_noted(tmp_path, own):
    net = ("--net", "tiny_onnx_nets:Unrolled", "--input-shape", "6,40")
    told = run_metaq("export", own["Unrolled"], *net, "-o", tmp_path / "out.onnx", "--json")
    assert told.status == 0, told.err
    assert "input series: dimension 1 is 6 in the file, although the network takes other sizes too" in told.err
    assert told.json["fixed"] == {"series": [1]}
    assert told.json["inputs"] == {"series": ["batch", 6, 40]}


@pytest.mark.usefixtures("own")
def test_fine_grids_are_rounded_unless_exact(tmp_path):
    state_dict = nets.create("tiny_onnx_nets:Two").state_dict()
    grid = BucketGrid(center=0.0, radius=0.5, count=1001)
    compress(state_dict, grids={"layer.weight": grid}).save(tmp_path / "fine.metaq")
    options = ("--net", "tiny_onnx_nets:Two", "--input-shape", "30", "--input-shape", "10", "-o", tmp_path / "out.onnx")
    told = run_metaq("export", tmp_path / "fine.metaq", *options, "--json")
    assert told.status == 0, told.err
    assert told.json["integers"] == {"layer.weight": "int8"}
    assert told.json["rounded"] == ["layer.weight"]
    assert 0 < told.json["rounding_difference"] < 0.02
    shown = run_metaq("export", tmp_path / "fine.metaq", *options, "--force")
    assert "tensors rounded to int8" in shown.out
    told = run_metaq("export", tmp_path / "fine.metaq", *options, "--exact", "--force", "--json")
    assert told.status == 0, told.err
    assert told.json["integers"] == {"layer.weight": "int16"}
    assert told.json["rounded"] == []
    assert told.json["rounding_difference"] == 0
    assert refused(run_metaq("export", tmp_path / "fine.metaq", "--exact", "-o", tmp_path / "out.pth"), "--exact")


def test_a_file_that_names_no_network_says_so(tmp_path, own):
    for options in ((), ("--input-shape", "3,6,6")):
        told = run_metaq("export", own["make"], *options, "-o", tmp_path / "out.onnx")
        assert refused(told, "make.metaq: names no network", "--net package.module:factory")
    assert refused(run_metaq("export", own["make"], "--fold", "-o", tmp_path / "out.pth"), "names no network")


def test_a_model_of_transformers_needs_no_name(tmp_path):
    transformers = pytest.importorskip("transformers")
    from metaq import hf

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    grids = {
        name: BucketGrid(center=0.0, radius=0.2, count=101) for name, each in model.named_parameters() if each.dim() > 1
    }
    with torch.no_grad():
        for name, grid in grids.items():
            weight = model.get_parameter(name)
            weight.copy_(torch.from_numpy(grid.values_of(grid.assign(weight.numpy()))))
    hf.save_pretrained(model, tmp_path / "bert.metaq", grids=grids)
    out = tmp_path / "bert.onnx"
    shapes = ("--input-shape", "7:int64", "--input-shape", "7:int64")
    told = run_metaq("export", tmp_path / "bert.metaq", *shapes, "-o", out, "--json")
    assert told.status == 0, told.err
    assert {shape[1] for shape in told.json["inputs"].values()} == {"length"}
    assert told.json["integers"]["encoder.layer.0.attention.self.query.weight"] == "int8"
    assert refused(run_metaq("export", tmp_path / "bert.metaq", "-o", out, "--force"), "--input-shape")
    dense = tmp_path / "dense.safetensors"
    assert run_metaq("export", tmp_path / "bert.metaq", "-o", dense).status == 0
    assert not any(name.startswith("file:") for name in checkpoint.read(dense))


def test_what_cannot_be_exported_is_refused_in_a_sentence(tmp_path, own, checkpoint, monkeypatch):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    there = {path.name for path in tmp_path.iterdir()}
    assert refused(run_metaq("export", checkpoint, "-o", out), "--force")
    cases = {
        (own["Choosing"], "--net", "tiny_onnx_nets:Choosing", "--input-shape", "4"): "cannot be traced",
        (own["make"], "--net", "lenet5"): "do not fit the network",
        (own["make"], "--net", "lenet-5"): "lenet5",
        ("missing.metaq",): "no such file",
    }
    for arguments, said in cases.items():
        assert refused(run_metaq("export", *arguments, "-o", out, "--force"), said)
    assert refused(run_metaq("export", checkpoint, "-o", "missing/out.onnx"), "missing/out.onnx", "cannot be written")
    assert refused(run_metaq("export", checkpoint, "--input-shape", "1,28,28", "-o", "out.pth"), "--input-shape")
    monkeypatch.setattr("metaq.config.find_spec", lambda _: None)
    assert refused(run_metaq("export", checkpoint, "-o", out, "--force"), "extra onnx")
    assert out.read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == there - {"__pycache__"}
