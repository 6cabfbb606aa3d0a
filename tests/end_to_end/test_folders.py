"""Model folders through the command line."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from metaq import load

from .conftest import refused, run_metaq, start_metaq


@pytest.fixture
def folder(tmp_path):
    """A model folder with a few small tensors and files."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "model"
    path.mkdir()
    held = {
        "embed.weight": torch.randn(300, 64, generator=generator),
        "layer.weight": torch.randn(64, 64, generator=generator),
        "layer.bias": torch.randn(64, generator=generator),
        "steps": torch.arange(20),
    }
    save_file(held, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (path / "vocab.txt").write_text("hello\n" * 100)
    (path / "flax_model.msgpack").write_bytes(b"x")
    return path


def test_a_folder_there_and_back(tmp_path, folder):
    out = tmp_path / "model.metaq"
    told = run_metaq("compress", folder, "-o", out, "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == out.stat().st_size
    assert told.json["carried"] == ["config.json", "vocab.txt"]
    assert told.json["left_out"] == {"flax_model.msgpack": "holds weights in another form"}
    assert [part["name"] for part in told.json["not_quantized"]] == ["steps"]
    shown = run_metaq("inspect", out, "--json").json
    files = {row["name"]: row for row in shown["tensors"] if row["is_file"]}
    assert sorted(files) == ["config.json", "vocab.txt"]
    assert files["vocab.txt"]["dtype"] == "file"
    assert shown["weights"] == told.json["weights"]
    assert [part["name"] for part in shown["not_quantized"]] == ["steps"]
    assert "vocab.txt" in run_metaq("inspect", out).out
    back = run_metaq("decompress", out, "-o", tmp_path / "back", "--json")
    assert back.json["files"] == ["config.json", "model.safetensors", "vocab.txt"]
    assert (tmp_path / "back" / "vocab.txt").read_text() == "hello\n" * 100
    assert refused(run_metaq("decompress", out, "-o", tmp_path / "back"), "--force")
    assert run_metaq("decompress", out, "-o", tmp_path / "back", "--force").status == 0


def test_weights_alone_come_back_as_a_file(tmp_path, folder):
    out = tmp_path / "model.metaq"
    run_metaq("compress", folder, "-o", out)
    assert run_metaq("decompress", out, "-o", tmp_path / "w.safetensors").status == 0
    assert sorted(load_file(tmp_path / "w.safetensors")) == ["embed.weight", "layer.bias", "layer.weight", "steps"]


def test_the_summary_says_what_was_carried_and_left_out(tmp_path, folder):
    told = run_metaq("compress", folder, "-o", tmp_path / "m.metaq", "--exclude", "layer.*", "--target-ratio", "4")
    assert told.status == 0
    assert "for 2 files carried along" in told.out
    assert "left out: flax_model.msgpack (holds weights in another form)" in told.err
    assert "excluded by layer.*" in told.out
    assert "only" in told.err


def test_a_restored_folder_needs_one_that_was_compressed(tmp_path, checkpoint):
    run_metaq("quantize", checkpoint, "-o", tmp_path / "m.metaq", "--buckets", "9")
    assert refused(run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "folder"), ".safetensors")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--max-drop", "1"), "--max-drop"),
        (("--data", "digits"), "--data"),
        (("--no-recover",), "calibrate"),
        (("--coder", "auto"), "small or fast"),
        (("--coder", "huffman"), "small or fast"),
        (("--target-bytes", "9", "--target-ratio", "2"), "target_ratio"),
        (("--target-bytes", "60"), "60 bytes"),
        (("--include", "nobody*"), "nobody*"),
    ],
)
def test_impossible_options(tmp_path, folder, options, named):
    assert refused(run_metaq("compress", folder, "-o", tmp_path / "m.metaq", *options), named)
    assert not (tmp_path / "m.metaq").exists()


def test_folders_that_are_no_models(tmp_path, folder):
    assert refused(run_metaq("compress", tmp_path, "-o", tmp_path / "m.metaq"), "one of its folders: model")
    (folder / "model.safetensors").write_bytes(b"")
    assert refused(run_metaq("compress", folder, "-o", tmp_path / "m.metaq"), "model.safetensors", "is empty")
    (folder / "model.safetensors").write_bytes(b"damaged, not empty")
    assert refused(run_metaq("compress", folder, "-o", tmp_path / "m.metaq"), "model.safetensors", "not a readable")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert refused(run_metaq("compress", folder, "-o", tmp_path / "m.metaq"), "pytorch_model.bin", "PyTorch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_nothing_is_overwritten_without_force(tmp_path, folder):
    out = tmp_path / "m.metaq"
    out.write_bytes(b"precious")
    assert refused(run_metaq("compress", folder, "-o", out), "--force")
    assert out.read_bytes() == b"precious"
    assert run_metaq("compress", folder, "-o", out, "--force").status == 0


def test_ctrl_c_says_how_to_go_on(tmp_path, folder):
    generator = torch.Generator().manual_seed(0)
    # Enough for an interruption to come in between.
    large = {f"w{n}": torch.randn(1100, 1000, generator=generator) for n in range(4)}
    save_file(large, folder / "model.safetensors")
    out = tmp_path / "m.metaq"
    process = start_metaq("compress", folder, "-o", out)
    journal = tmp_path / ".m.metaq.partial" / "attempt-0" / "journal"
    while process.poll() is None and not (journal.exists() and b"chunk" in journal.read_bytes()):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130, error
    assert "interrupted; nothing half-written was left behind." in error
    assert "the same command goes on" in error
    assert "Traceback" not in error
    assert not out.exists()
    assert journal.exists()


def test_files_that_only_look_like_weights_are_carried(tmp_path, folder):
    """Arrays, pickles and graphs that are called otherwise than the weights are no other form of them."""
    np.savez(folder / "mel_filters.npz", mel_80=np.ones((4, 5), np.float32))
    (folder / "head.pkl").write_bytes(b"\x80\x04}.")
    np.savez(folder / "model.npz", weight=np.ones(3))
    told = run_metaq("compress", folder, "-o", tmp_path / "m.metaq", "--json").json
    assert {"mel_filters.npz", "head.pkl"} <= set(told["carried"])
    assert set(told["left_out"]) == {"flax_model.msgpack", "model.npz"}
    run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "back")
    for name in ("mel_filters.npz", "head.pkl"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("options", [(), ("--lossless",)])
def test_further_files_of_a_folder_may_hold_more_than_weights(tmp_path, folder, options):
    """Tensors beside the weights, tensors without elements, and files whose endings are in capitals."""
    (folder / "sub").mkdir()
    torch.save({"model": {"v": torch.randn(40, 40)}, "optim": {"m": torch.randn(40, 40)}}, folder / "sub" / "e.ckpt")
    torch.save({"w": torch.randn(40, 40), "empty": torch.zeros(0)}, folder / "extra.pt")
    (folder / "x.GGUF").write_bytes(b"x")
    told = run_metaq("compress", folder, "-o", tmp_path / "m.metaq", "--json", *options)
    assert told.status == 0, told.err
    assert "x.GGUF" in told.json["left_out"]
    assert {name for name in load(tmp_path / "m.metaq") if "/" in name} == {"sub/v", "extra/w", "extra/empty"}
    back = run_metaq("decompress", tmp_path / "m.metaq", "-o", tmp_path / "back")
    assert back.status == 0, back.err
    for name in ("sub/e.ckpt", "extra.pt"):
        found, wanted = torch.load(tmp_path / "back" / name), torch.load(folder / name)
        assert found.keys() == wanted.keys()
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
