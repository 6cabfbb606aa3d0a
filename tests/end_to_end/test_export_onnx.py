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
    for part in ("266,610", f"{out.stat().st_size:,} bytes", "tensors as int4", "tensors as int8", "of any size"):
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


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.layer(inputs if inputs.sum() > 0 else -inputs)


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
    for factory in ("make", "Choosing", "Two"):
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
