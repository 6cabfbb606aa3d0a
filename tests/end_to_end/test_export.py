from __future__ import annotations

import sys

import pytest
import safetensors.torch
import torch

from metaq import BucketGrid, compress
from metaq.lab import data, nets, runs
from metaq.lab.data import to_float
from metaq.model import checkpoint as checkpoints

from .conftest import refused, run_metaq, trained

UNITS = {
    "lenet5": {"conv1": (6, 4), "conv2": (16, 13), "fc1": (120, 90), "fc2": (84, 70)},
    "lenet300": {"fc1": (300, 240), "fc2": (100, 60)},
}
"""Units of every layer that other layers read, and how many of them neither are constant nor go unread."""

NEXT = {
    "lenet5": {"conv1": "conv2", "conv2": "fc1", "fc1": "fc2", "fc2": "fc3"},
    "lenet300": {"fc1": "fc2", "fc2": "fc3"},
}


@pytest.fixture(scope="module", params=sorted(UNITS))
def sparse(request):
    """Name of a network, and weights on a grid in which some units are constant and some unread."""
    name = request.param
    state_dict = {key: (tensor * 64).round() / 64 for key, tensor in trained(name).items()}
    for layer, (units, kept) in UNITS[name].items():
        constant = (units - kept) // 2
        state_dict[f"{layer}.weight"][:constant] = 0
        following = state_dict[f"{NEXT[name][layer]}.weight"]
        columns = following.shape[1] // units
        following[:, constant * columns : (units - kept) * columns] = 0
    return name, {key: tensor + 0.0 for key, tensor in state_dict.items()}


@pytest.fixture(params=["model.pth", "model.metaq"])
def file(tmp_path, request, sparse):
    """The same weights as a file."""
    name, state_dict = sparse
    path = tmp_path / request.param
    if path.suffix == ".metaq":
        grid = BucketGrid(center=0.0, radius=1023 / 128, count=1023)
        compress(state_dict, grids=dict.fromkeys(state_dict, grid), metadata={"net": name}).save(path)
    else:
        torch.save(state_dict, path)
    return path


def outputs(net, path):
    model = runs.build(net, checkpoints.read(path)).double()
    with torch.no_grad():
        return model(to_float(data.load("digits").test.images).double())


def counted(path):
    return sum(tensor.numel() for tensor in checkpoints.read(path).values())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_folded_file_is_smaller_and_does_the_same(tmp_path, sparse, file, suffix):
    name, _ = sparse
    dense, folded = tmp_path / f"dense{suffix}", tmp_path / f"folded{suffix}"
    assert run_metaq("export", file, "-o", dense).status == 0
    told = run_metaq("export", file, "--fold", "--net", name, "-o", folded, "--json")
    assert told.status == 0, told.err
    assert {layer: tuple(units) for layer, units in told.json["units"].items()} == UNITS[name]
    assert told.json["file"] == str(folded)
    assert told.json["weights"] == counted(folded) < counted(dense)
    assert folded.stat().st_size < dense.stat().st_size
    torch.testing.assert_close(outputs(name, folded), outputs(name, dense), rtol=1e-6, atol=1e-6)
    before, after = (run_metaq("evaluate", path, "--net", name, "--json") for path in (file, folded))
    assert after.status == 0, after.err
    assert after.json["accuracy"] == before.json["accuracy"] > 40
    assert after.json["weights"] == counted(folded)


def test_without_fold_the_weights_are_written_bit_for_bit(tmp_path, sparse, file):
    _, state_dict = sparse
    out = tmp_path / "dense.safetensors"
    told = run_metaq("export", file, "-o", out, "--json")
    assert told.status == 0, told.err
    assert told.json == {"units": None, "weights": counted(file), "file": str(out)}
    written = safetensors.torch.load_file(out)
    assert written.keys() == state_dict.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in state_dict.items())


def test_a_network_without_fold_is_refused(tmp_path, file):
    assert refused(run_metaq("export", file, "--net", "lenet5", "-o", tmp_path / "out.pth"), "--net", "--fold")


def test_folded_weights_keep_their_dtype(tmp_path, sparse):
    name, state_dict = sparse
    torch.save({key: tensor.half() for key, tensor in state_dict.items()}, tmp_path / "half.pth")
    assert run_metaq("export", tmp_path / "half.pth", "--fold", "--net", name, "-o", tmp_path / "out.pth").status == 0
    assert {tensor.dtype for tensor in checkpoints.read(tmp_path / "out.pth").values()} == {torch.float16}


def test_folding_again_changes_nothing(tmp_path, sparse, file):
    name, _ = sparse
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    assert run_metaq("export", file, "--fold", "--net", name, "-o", once).status == 0
    told = run_metaq("export", once, "--fold", "--net", name, "-o", twice, "--json")
    assert told.status == 0, told.err
    assert told.json["units"] == {layer: [kept, kept] for layer, (_, kept) in UNITS[name].items()}
    assert twice.read_bytes() == once.read_bytes()


@pytest.mark.slow
def test_a_folded_network_can_be_compressed(tmp_path, sparse, file):
    name, _ = sparse
    sizes = {}
    for options in ((), ("--fold", "--net", name)):
        out = tmp_path / f"weights{len(options)}.pth"
        assert run_metaq("export", file, *options, "-o", out).status == 0
        packed = out.with_suffix(".metaq")
        assert run_metaq("quantize", out, "-o", packed, "--buckets", 65).status == 0
        assert run_metaq("evaluate", packed, "--net", name).status == 0
        sizes[options] = packed.stat().st_size
    assert sizes["--fold", "--net", name] < sizes[()]


def test_where_nothing_folds_the_weights_stay_as_they_are(tmp_path, checkpoint):
    dense, folded = tmp_path / "dense.safetensors", tmp_path / "folded.safetensors"
    assert run_metaq("export", checkpoint, "-o", dense).status == 0
    told = run_metaq("export", checkpoint, "--fold", "-o", folded, "--json")
    assert told.status == 0, told.err
    assert all(before == after for before, after in told.json["units"].values())
    assert folded.read_bytes() == dense.read_bytes()


def test_export_shows_what_it_did(tmp_path, sparse, file):
    name, _ = sparse
    shown = run_metaq("export", file, "--fold", "--net", name, "-o", tmp_path / "folded.pth")
    assert shown.status == 0, shown.err
    for layer, (units, kept) in UNITS[name].items():
        assert f"units of {layer}" in shown.out
        assert f"{kept} of {units} left" in shown.out
    assert f"{counted(tmp_path / 'folded.pth'):,}" in shown.out
    plain = run_metaq("export", file, "-o", tmp_path / "dense.pth")
    assert "folded" not in plain.out.replace(str(tmp_path), "")


def test_help_of_export_shows_an_example():
    helped = run_metaq("export", "--help")
    assert helped.status == 0
    assert "Example: metaq export" in helped.out
    assert "--json" in helped.out


NETS = """
from torch import nn


def make():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 12), nn.ReLU(), nn.Linear(12, 10))
"""


@pytest.fixture
def own_net(tmp_path, monkeypatch):
    """Name of a user's network, and a file of its weights with three units that fold."""
    (tmp_path / "tiny_export_net.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state_dict = nets.create("tiny_export_net:make").state_dict()
    state_dict["2.weight"][:2] = 0
    state_dict["4.weight"][:, 5] = 0
    torch.save(state_dict, tmp_path / "own.pth")
    yield "tiny_export_net:make", tmp_path / "own.pth"
    sys.modules.pop("tiny_export_net", None)


def test_a_network_of_ones_own_folds(tmp_path, own_net):
    net, file = own_net
    out = tmp_path / "folded.pth"
    told = run_metaq("export", file, "--fold", "--net", net, "-o", out, "--json")
    assert told.status == 0, told.err
    assert told.json["units"] == {"2": [12, 9]}
    assert told.json["weights"] == 9 * (49 + 1) + 10 * (9 + 1)
    torch.testing.assert_close(outputs(net, out), outputs(net, file), rtol=1e-6, atol=1e-6)


def test_without_fold_no_network_need_be_known(tmp_path, own_net):
    _, file = own_net
    assert run_metaq("export", file, "-o", tmp_path / "dense.safetensors").status == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--net", "lenet300"), ("do not fit the network", "conv1.weight")),
        (("--net", "lenet5-caffe"), ("do not fit the network", "fc3.weight")),
        (("--net", "lenet-5"), ("lenet5",)),
        (("--net", "no_such_module:make"), ("no_such_module",)),
    ],
)
def test_weights_of_another_network_are_not_folded(tmp_path, checkpoint, options, named):
    out = tmp_path / "folded.pth"
    assert refused(run_metaq("export", checkpoint, "--fold", *options, "-o", out), *named)
    assert not out.exists()


@pytest.mark.parametrize("options", [(), ("--fold",)])
def test_files_that_cannot_be_read_or_written_are_refused(tmp_path, checkpoint, options):
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:1000])
    (tmp_path / "empty.metaq").write_bytes(b"")
    there = {path.name for path in tmp_path.iterdir()}
    for source in ("missing.pth", "missing.metaq", "cut.pth", "empty.metaq"):
        assert refused(run_metaq("export", tmp_path / source, *options, "-o", tmp_path / "out.pth"), source)
    for out in ("missing/out.safetensors", "missing/out.pth"):
        assert refused(run_metaq("export", checkpoint, *options, "-o", tmp_path / out), out)
    for out in ("out.metaq", "out", "out.onnxx"):
        assert refused(run_metaq("export", checkpoint, *options, "-o", tmp_path / out), out, ".safetensors")
    assert {path.name for path in tmp_path.iterdir()} == there


def test_export_needs_an_output_and_overwrites_only_with_force(tmp_path, checkpoint):
    assert run_metaq("export", checkpoint).status == 2
    out = tmp_path / "out.pth"
    out.write_bytes(b"precious")
    assert refused(run_metaq("export", checkpoint, "--fold", "-o", out), "--force")
    assert out.read_bytes() == b"precious"
    assert run_metaq("export", checkpoint, "--fold", "-o", out, "--force").status == 0
    assert counted(out) == counted(checkpoint)


def test_inspect_tells_what_folds(sparse, file):
    name, _ = sparse
    told = run_metaq("inspect", file, "--net", name, "--json")
    assert told.status == 0, told.err
    assert {layer: tuple(units) for layer, units in told.json["folded"].items()} == UNITS[name]
    shown = run_metaq("inspect", file, "--net", name)
    for layer, (units, kept) in UNITS[name].items():
        assert f"units of {layer}" in shown.out
        assert f"{kept} of {units} left" in shown.out


def test_inspect_takes_the_network_that_a_file_names(sparse, file):
    name, _ = sparse
    told = run_metaq("inspect", file, "--json")
    assert told.status == 0, told.err
    if file.suffix == ".metaq":
        assert {layer: tuple(units) for layer, units in told.json["folded"].items()} == UNITS[name]
    else:
        assert told.json["folded"] is None
        assert "units of" not in run_metaq("inspect", file).out


def test_inspect_tells_what_is_left_of_a_folded_file(tmp_path, sparse, file):
    name, _ = sparse
    out = tmp_path / "folded.safetensors"
    assert run_metaq("export", file, "--fold", "--net", name, "-o", out).status == 0
    told = run_metaq("inspect", out, "--net", name, "--json")
    assert told.status == 0, told.err
    assert told.json["folded"] == {layer: [kept, kept] for layer, (_, kept) in UNITS[name].items()}
    assert told.json["weights"] == counted(out)


def test_inspect_refuses_a_network_that_is_not_the_files(checkpoint):
    assert refused(run_metaq("inspect", checkpoint, "--net", "lenet300"), "do not fit the network", "conv1.weight")
    assert refused(run_metaq("inspect", checkpoint, "--net", "lenet-5"), "lenet5")


@pytest.mark.parametrize("named", ["lenet300", "no-such-net", "tiny_export_trap:make", 5])
def test_what_a_file_names_wrongly_is_passed_over_and_never_run(tmp_path, monkeypatch, checkpoint, named):
    (tmp_path / "tiny_export_trap.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.metaq"
    state_dict = checkpoints.read(checkpoint)
    grid = BucketGrid(center=0.0, radius=1.0, count=17)
    compress(state_dict, grids=dict.fromkeys(state_dict, grid), metadata={"net": named}).save(path)
    told = run_metaq("inspect", path, "--json")
    assert told.status == 0, told.err
    assert told.json["metadata"]["net"] == named
    assert told.json["folded"] is None
