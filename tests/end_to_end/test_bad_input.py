from __future__ import annotations

import pickle
import resource
import signal

import numpy as np
import pytest
import torch

from metaq.lab import nets

from .conftest import refused, run_metaq, start_metaq


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def damaged_files(folder, checkpoint):
    good = checkpoint.read_bytes()
    files = {
        "empty.pth": b"",
        "empty.metaq": b"",
        "empty.safetensors": b"",
        "truncated.pth": good[: len(good) // 2],
        "foreign.pth": b"GIF89a" + bytes(200),
        "foreign.metaq": b"GIF89a" + bytes(200),
        "foreign.safetensors": b"GIF89a" + bytes(200),
        "huge-header.safetensors": (2**60).to_bytes(8, "little") + b"{}",
        "text.pth": b"hello\n",
        "pickle.pth": pickle.dumps({"weight": Malicious()}),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def test_files_that_are_not_models_are_refused(tmp_path, checkpoint):
    for file in [*damaged_files(tmp_path, checkpoint), tmp_path / "missing.pth", tmp_path / "missing.metaq"]:
        result = run_metaq("compress", file, "-o", tmp_path / "out.metaq")
        assert refused(result, file.name), (file, result)
        assert not (tmp_path / "out.metaq").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("", "-o", "out"), "one of the arguments"),
        (("a.pth", ""), "one of the arguments"),
        (("a.pth", "-o", ""), "-o"),
        (("a.pth", "--out="), "--out"),
        (("a.pth", "-o", "out", "--key", ""), "--key"),
    ],
)
def test_an_empty_argument_is_not_the_folder_one_is_in(tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    for command in ("compress", "decompress"):
        result = run_metaq(command, *arguments)
        assert refused(result, f"{named} is empty"), result
    assert not list(tmp_path.iterdir())


def test_pickled_code_beside_weights_is_never_executed(tmp_path):
    path = tmp_path / "code.pth"
    torch.save({"weight": torch.zeros(3), "extra": Malicious()}, path)
    result = run_metaq("inspect", path)
    assert result.status == 0, result.err
    assert "weight" in result.out
    assert "executed" not in result.out + result.err
    told = run_metaq("compress", path, "-o", tmp_path / "m.metaq")
    assert told.status == 0, told.err
    assert "left out: extra" in told.err
    assert "executed" not in told.out + told.err


@pytest.mark.slow
def test_every_cut_of_a_metaq_file_is_refused_by_the_command(tmp_path, checkpoint):
    packed = tmp_path / "model.metaq"
    run_metaq("quantize", checkpoint, "-o", packed, "--buckets", "9")
    whole = packed.read_bytes()
    for length in (3, 10, len(whole) // 2, len(whole) - 1):
        packed.write_bytes(whole[:length])
        assert refused(run_metaq("decompress", packed, "-o", tmp_path / "x.pth"), "model.metaq")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 16
    packed.write_bytes(bytes(flipped))
    assert refused(run_metaq("evaluate", packed), "model.metaq")
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_kept_exactly_and_named(tmp_path, bad):
    state_dict = nets.create("lenet5").state_dict()
    state_dict["fc2.bias"][3] = bad
    torch.save(state_dict, tmp_path / "bad.pth")
    for command in ("compress", "quantize"):
        told = run_metaq(command, tmp_path / "bad.pth", "-o", tmp_path / f"{command}.metaq", "--json")
        assert told.status == 0, told.err
        reasons = {part["name"]: part["reason"] for part in told.json["not_quantized"]}
        assert reasons == {"fc2.bias": "holds NaN, infinity or numbers near it"}
        run_metaq("decompress", tmp_path / f"{command}.metaq", "-o", tmp_path / "back.pth", "--force")
        back = torch.load(tmp_path / "back.pth", weights_only=True)["fc2.bias"]
        assert back.numpy().tobytes() == state_dict["fc2.bias"].numpy().tobytes()


def test_integers_and_empty_tensors_are_stored_exactly(tmp_path):
    state_dict = {
        "weight": torch.linspace(-1, 1, 100).roll(7),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 4),
        "scalar": torch.tensor(0.5, dtype=torch.float64),
    }
    torch.save(state_dict, tmp_path / "mixed.pth")
    told = run_metaq("compress", tmp_path / "mixed.pth", "-o", tmp_path / "mixed.metaq", "--json")
    assert told.status == 0, told.err
    assert [part["name"] for part in told.json["not_quantized"]] == ["count", "scalar", "mask", "nothing"]
    assert [part["reason"] for part in told.json["not_quantized"]] == [
        "integer",
        "too small to pay",
        "boolean",
        "empty",
    ]
    run_metaq("decompress", tmp_path / "mixed.metaq", "-o", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    for name in ("count", "mask", "nothing"):
        assert torch.equal(back[name], state_dict[name])
        assert back[name].dtype == state_dict[name].dtype


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("quantize", ("--buckets", "1"), "--buckets 1"),
        ("quantize", ("--radius", "0"), "--radius"),
        ("quantize", ("--radius", "-2"), "--radius"),
        ("quantize", ("--grouping", "all"), "--grouping"),
        ("quantize", ("--buckets", "9", "--sweep", "10:20"), "--sweep"),
        ("quantize", ("--include", "conv9*"), "conv9*"),
        ("quantize", ("--coder", "huffman"), "small"),
        ("compress", ("--include", "conv9*"), "conv9*"),
        ("compress", ("--coder", "smal"), "small"),
        ("compress", ("--no-recover",), "--data"),
        ("compress", ("--target-ratio", "5", "--calibration", "100"), "--data"),
        ("compress", ("--target-ratio", "5", "--recalibrate-norms"), "--data"),
        ("compress", ("--target-ratio", "5", "--target-bytes", "9"), "target_bytes, target_ratio"),
        ("compress", ("--target-bits-per-weight", "-1"), "target_bits_per_weight"),
        ("compress", ("--max-drop", "1"), "--data"),
        ("compress", ("--target-bytes", "20"), "target_bytes"),
    ],
)
def test_impossible_options(tmp_path, checkpoint, command, options, named):
    result = run_metaq(command, checkpoint, "-o", tmp_path / "out.metaq", *options)
    assert refused(result, named)
    assert not (tmp_path / "out.metaq").exists()


def test_a_state_dict_that_does_not_fit_the_network(checkpoint):
    assert refused(run_metaq("evaluate", checkpoint, "--net", "lenet300"), "conv1.weight")


def test_a_network_for_photographs_does_not_take_digits(tmp_path):
    out = tmp_path / "r"
    result = run_metaq("train", "--net", "resnet20", "--data", "digits", "--epochs", "1", "--out", out)
    assert refused(result, "images of shape (1, 28, 28)", "3 channels")
    assert not out.exists()


def test_unknown_names_get_the_near_match(tmp_path, checkpoint):
    assert refused(run_metaq("train", "--preset", "lenet5-minst", "--out", tmp_path / "r"), "lenet5-mnist")
    assert refused(run_metaq("evaluate", checkpoint, "--net", "lenet-5"), "lenet5")
    assert refused(run_metaq("evaluate", checkpoint, "--data", "digit"), "digits")
    out = ("--out", tmp_path / "r")
    assert refused(run_metaq("train", "--set", "regularizer.strenght=1", *out), "strength")
    assert refused(run_metaq("train", "--set", "data=digit", *out), "digits")
    digits = ("--preset", "lenet5-digits")
    assert refused(run_metaq("train", *digits, "--set", "validation_count=5000", *out), "validation count: 5000")
    assert not (tmp_path / "r").exists()


def test_no_data_and_no_network(tmp_path, checkpoint, monkeypatch):
    monkeypatch.delenv("METAQ_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    result = run_metaq("evaluate", checkpoint, "--data", "mnist")
    assert refused(result, "MNIST", "METAQ_DATA", "--data digits")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(run_metaq("evaluate", checkpoint, "--data", "mnist", "--data-dir", empty), str(empty))


def test_nothing_is_overwritten_without_force(tmp_path, checkpoint):
    out = tmp_path / "out.metaq"
    out.write_bytes(b"precious")
    assert refused(run_metaq("compress", checkpoint, "-o", out), "--force")
    assert out.read_bytes() == b"precious"
    assert run_metaq("compress", checkpoint, "-o", out, "--force").status == 0
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.metaq").write_bytes(b"precious")
    assert refused(run_metaq("train", "--epochs", "1", "--out", run), "--force")
    assert (run / "model.metaq").read_bytes() == b"precious"


def test_a_full_disk_leaves_nothing_half_written(tmp_path, checkpoint):
    result = run_metaq("compress", checkpoint, "-o", "/dev/full/out.metaq")
    assert refused(result, "/dev/full/out.metaq")
    size_limit = 3000
    out = tmp_path / "out.metaq"
    process = start_metaq("compress", checkpoint, "-o", out, preexec_fn=lambda: _limit_file_size(size_limit))
    _, error = process.communicate()
    assert process.returncode == 2, error
    assert "Traceback" not in error
    assert "out.metaq" in error
    assert ".out.metaq.partial" in error
    assert not out.exists()
    assert run_metaq("compress", checkpoint, "-o", out).status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lenet5.pth", "out.metaq"]


def _limit_file_size(size_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def test_a_run_needs_a_place_and_resuming_needs_a_run(tmp_path):
    assert refused(run_metaq("train"), "--out")
    assert refused(run_metaq("train", "--resume", tmp_path), "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 damaged")
    assert refused(run_metaq("train", "--resume", tmp_path), "checkpoint.pt")


def test_a_network_that_does_not_fit_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 2)\n")
    result = run_metaq("train", "--net", "mine:make", "--epochs", "1", "--out", tmp_path / "r")
    assert refused(result, "--net")


def test_damaged_data(tmp_path, checkpoint):
    folder = tmp_path / "idx"
    folder.mkdir()
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (folder / name).write_bytes(np.arange(40, dtype=np.uint8).tobytes())
    assert refused(run_metaq("evaluate", checkpoint, "--data", folder), "idx")


def test_reproduce_refuses_what_it_does_not_know(checkpoint):
    assert refused(run_metaq("reproduce", "thesys", "--checkpoint", checkpoint), "thesis")
