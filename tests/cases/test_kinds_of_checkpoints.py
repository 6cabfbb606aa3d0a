"""Checkpoints and other model files as people have them: told apart by content, and restored as what they were."""

from __future__ import annotations

import argparse
import gzip
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metaq import compress, load
from metaq.compression.restoring import origin, restore_file
from metaq.errors import FormatError
from metaq.model import checkpoint
from metaq.model.opened import open_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)).eval()


def outputs_of(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(torch.linspace(-1, 1, 64).reshape(2, 32))
    return found


def is_near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).norm() < 0.05 * wanted.norm())


def wrapped() -> dict[str, dict[str, torch.Tensor]]:
    state = network().state_dict()
    return {
        "compiled": torch.compile(network(), backend="eager").state_dict(),
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
        "both": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        "averaged": torch.optim.swa_utils.AveragedModel(network()).state_dict(),
    }


@pytest.mark.parametrize("kind", wrapped())
def test_weights_of_a_wrapped_network_load_into_the_plain_one(tmp_path, kind):
    state = wrapped()[kind]
    torch.save(state, tmp_path / "c.pth")
    found = compress(tmp_path / "c.pth")
    found.save(tmp_path / "c.metaq")
    assert any("names begin with" in note for note in found.notes)
    plain = network()
    plain.load_state_dict(load(tmp_path / "c.metaq"))
    assert is_near(outputs_of(plain), outputs_of(network()))
    # What it was had the names of the wrapper.
    checkpoint.restore_as(tmp_path / "c.metaq", tmp_path / "back.pth")
    assert torch.load(tmp_path / "back.pth").keys() == state.keys() - {"n_averaged"}


def layouts() -> dict[str, Any]:
    state = network().state_dict()
    average = {name: tensor + 1 for name, tensor in state.items()}
    optimizer = torch.optim.Adam(network().parameters()).state_dict()
    return {
        "model": {"model": state, "optimizer": optimizer, "model_args": {"n_layer": 2}, "iter_num": 5},
        "state_dict": {"epoch": 1, "state_dict": state, "optimizer_states": [optimizer], "callbacks": {}},
        "state_dict ": {"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1e-3)},
        "state_dict  ": {"state_dict": state, "hyper_parameters": {"data": pathlib.Path("x")}},
        "state_dict   ": {"state_dict": state, "best": np.float64(0.9)},
        "state_dict    ": {"arch": "x", "state_dict": state, "state_dict_ema": average},
        "net": {"net": state, "acc": 93.1, "epoch": 4},
        "params": {"params_ema": average, "params": state},
        "module": {"module": state, "buffer_names": [], "ds_version": "0.1"},
        "weights": {"weights": state, "meta": {"a": 1}},
        "model.state_dict": {"model": {"state_dict": state, "model_args": {"a": 1}}, "epoch": 3},
    }


@pytest.mark.parametrize("kind", layouts())
def test_weights_are_found_in_a_checkpoint_and_the_rest_is_told(tmp_path, kind):
    held, key = layouts()[kind], kind.strip()
    torch.save(held, tmp_path / "c.pth")
    model = open_model(tmp_path / "c.pth")
    assert any(f"'{key}'" in note for note in model.rest.notes)
    assert set(model.rest.left_out) >= held.keys() - {key.partition(".")[0]}
    found = compress(model)
    found.save(tmp_path / "c.metaq")
    plain = network()
    plain.load_state_dict(load(tmp_path / "c.metaq"))
    assert is_near(outputs_of(plain), outputs_of(network()))
    checkpoint.restore_as(tmp_path / "c.metaq", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    for name in key.split("."):
        assert list(back) == [name]
        back = back[name]
    assert back.keys() == network().state_dict().keys()


def test_an_average_beside_the_weights_is_mentioned_and_can_be_chosen(tmp_path):
    torch.save(layouts()["state_dict    "], tmp_path / "c.pth")
    assert any("--key state_dict_ema" in note for note in open_model(tmp_path / "c.pth").rest.notes)
    chosen = open_model(tmp_path / "c.pth", key="state_dict_ema").state_dict()
    assert torch.equal(chosen["0.weight"], network().state_dict()["0.weight"] + 1)


def test_several_models_have_to_be_chosen_from(tmp_path):
    state = network().state_dict()
    torch.save({"generator": state, "discriminator": state}, tmp_path / "gan.pth")
    with pytest.raises(FormatError, match=r"'generator' \(4 tensors\), 'discriminator' \(4 tensors\).*--key"):
        open_model(tmp_path / "gan.pth")
    assert len(open_model(tmp_path / "gan.pth", key="generator").tensors) == 4


def test_what_is_no_tensor_in_a_state_dict_is_told_and_no_reason_to_refuse(tmp_path):
    state = network().state_dict()
    torch.save({**state, "0._extra_state": {"scale": 0.5}, "step": 7, "ema": None}, tmp_path / "c.pth")
    model = open_model(tmp_path / "c.pth")
    assert model.rest.left_out.keys() == {"0._extra_state", "step", "ema"}
    assert len(model.tensors) == 4


def saved(kind: str, path: Path) -> Path:
    """A file of the network of some kind that is more than a state dict."""
    held = network().state_dict()
    if kind == "script":
        torch.jit.script(network()).save(path)
    elif kind == "program":
        torch.export.save(torch.export.export(network(), (torch.zeros(2, 32),)), path)
    elif kind == "npz":
        np.savez(path.with_suffix(".npz"), **{name: tensor.numpy() for name, tensor in held.items()})
        path.with_suffix(".npz").rename(path)
    else:
        torch.save({"model": held, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, path)
    return path


def restored(kind: str, path: Path) -> torch.Tensor:
    """Outputs of the network in such a file."""
    if kind == "script":
        return outputs_of(torch.jit.load(path))
    if kind == "program":
        return outputs_of(torch.export.load(path).module())
    plain = network()
    if kind == "npz":
        plain.load_state_dict({name: torch.from_numpy(array) for name, array in np.load(path).items()})
    else:
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, weights_only=True)
        assert (held["epoch"], held["args"].lr) == (3, 1e-3)
        plain.load_state_dict(held["model"])
    return outputs_of(plain)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["script", "program", "npz", "everything"])
def test_a_file_that_is_more_than_a_state_dict_comes_back_as_what_it_was(tmp_path, kind):
    path = saved(kind, tmp_path / "model.any")
    for lossless in (False, True):
        model = open_model(path, keep_all=kind == "everything", lossless=lossless)
        compress(model, lossless=lossless).save(tmp_path / "m.metaq")
        assert origin(tmp_path / "m.metaq") == "model.any"
        restore_file(tmp_path / "m.metaq", tmp_path / "back.any")
        assert is_near(restored(kind, tmp_path / "back.any"), outputs_of(network()))
        is_same = (tmp_path / "back.any").read_bytes() == path.read_bytes()
        assert is_same == lossless


@pytest.mark.parametrize(("narrow", "named"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_weights_that_are_of_a_narrower_type_inside_are_told(tmp_path, narrow, named):
    torch.manual_seed(0)
    state = {"w": torch.randn(64, 64).to(narrow).float(), "v": torch.randn(64, 64).to(narrow).float()}
    torch.save(state, tmp_path / "c.pth")
    for lossless in (False, True):
        found = compress(tmp_path / "c.pth", lossless=lossless)
        assert f"these are float32 weights that are {named} inside" in found.notes
    assert not compress({"w": torch.randn(64, 64)}).notes


def test_a_packed_file_keeps_what_is_around_its_tensors_when_it_is_packed_again(tmp_path):
    path = saved("npz", tmp_path / "model.npz")
    compress(path, lossless=True).save(tmp_path / "exact.metaq")
    compress(tmp_path / "exact.metaq").save(tmp_path / "small.metaq")
    restore_file(tmp_path / "small.metaq", tmp_path / "back.npz")
    assert is_near(restored("npz", tmp_path / "back.npz"), outputs_of(network()))


def test_without_a_loss_any_file_at_all_is_taken(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 40)
    with pytest.raises(FormatError, match="--lossless"):
        open_model(tmp_path / "model.gguf")
    compress(tmp_path / "model.gguf", lossless=True).save(tmp_path / "m.metaq")
    restore_file(tmp_path / "m.metaq", tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (POINTER.encode(), "git lfs pull"),
        (b"<!doctype html><html>Access denied</html>", "web page"),
        (gzip.compress(b"x" * 100, mtime=0), "unpack it first"),
        (b"", "is empty"),
        (b"GGUF" + bytes(100), "float model"),
        (b"something else entirely", "PyTorch"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, content, named):
    for suffix in ("pth", "safetensors", "bin", "onnx"):
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(content)
        with pytest.raises(FormatError) as caught:
            open_model(path)
        assert str(path) in str(caught.value)
        assert str(caught.value).endswith(".")
        if suffix in ("pth", "bin"):
            assert named in str(caught.value)
