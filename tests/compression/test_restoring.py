from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from metaq import container, load
from metaq.compression.compressed import Goal
from metaq.compression.compressing import compress_to_file
from metaq.compression.restoring import origin, restore_folder
from metaq.errors import ConfigError, FormatError, OutputError
from metaq.model.opened import open_model
from metaq.tensors.quantized import Dtype, ExactTensor, Tensor

from .conftest import INDEX, tensors


@pytest.fixture(scope="module")
def packed(made_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "model.metaq"
    compress_to_file(open_model(made_folder), out, Goal(), coder="fast")
    return out


def file_of(name: str, content: bytes = b"x") -> ExactTensor:
    return ExactTensor(name=name, values=np.frombuffer(content, dtype=np.uint8), dtype=Dtype.uint8)


WEIGHT = ExactTensor(name="w", values=np.ones(3, dtype="<f4"), dtype=Dtype.float32)


def made(path: Path, *held: Tensor) -> Path:
    container.write(path, [WEIGHT, *held], metadata={"folder": 1})
    return path


def everything_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_folder_comes_back(packed, made_folder, tmp_path):
    assert origin(packed) == "a folder"
    found = restore_folder(packed, tmp_path / "back")
    assert sorted(found.files) == [
        "1_Pooling/config.json",
        "config.json",
        "empty.txt",
        "model.safetensors",
        "short.txt",
    ]
    for name in ("1_Pooling/config.json", "config.json", "empty.txt", "short.txt"):
        assert (tmp_path / "back" / name).read_bytes() == (made_folder / name).read_bytes()
    back, expected = load_file(tmp_path / "back" / "model.safetensors"), load(packed)
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in expected)
    with safe_open(tmp_path / "back" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_large_weights_are_sharded_with_an_index(packed, tmp_path):
    restore_folder(packed, tmp_path / "back", max_shard_bytes=100_000)
    index = json.loads((tmp_path / "back" / INDEX).read_text())
    expected = load(packed)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in expected.values())
    assert index["weight_map"].keys() == expected.keys()
    shards = sorted((tmp_path / "back").glob("model-*.safetensors"))
    assert {path.name for path in shards} == set(index["weight_map"].values())
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert len(shards) > 2
    for shard in shards:
        for name, tensor in load_file(shard).items():
            assert index["weight_map"][name] == shard.name
            assert torch.equal(tensor, expected[name])
    again = open_model(tmp_path / "back")
    assert [tensor.name for tensor in again.tensors] == sorted(tensors())


@pytest.mark.parametrize(
    "path",
    [
        "../evil.txt",
        "/tmp/evil.txt",
        "a/../../evil.txt",
        "a//b",
        "",
        ".hidden",
        ".git/config",
        "C:evil.txt",
        "a\\b",
        "nul.txt",
        "end.",
        "x" * 300,
        "a/b/c/d/e/f/g/h/i",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "other.safetensors",
        "pytorch_model.bin",
        "optimizer.pt",
        "line\nbreak",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, path):
    (tmp_path / "in").mkdir()
    source = made(tmp_path / "m.metaq", file_of(f"file:{path}"))
    with pytest.raises(FormatError, match="carried file"):
        restore_folder(source, tmp_path / "in" / "back")
    assert everything_in(tmp_path) == ["in", "m.metaq"]


def test_the_index_of_weights_is_not_a_carried_file_where_weights_are_written_anew(tmp_path):
    source = made(tmp_path / "m.metaq", file_of(f"file:{INDEX}"))
    with pytest.raises(FormatError, match="weight file is not safe"):
        restore_folder(source, tmp_path / "back")
    assert everything_in(tmp_path) == ["m.metaq"]


@pytest.mark.parametrize(
    "names", [("a.txt", "A.txt"), ("a", "a/b"), ("A/b.txt", "a/B.txt"), ("a/b/c", "A/B")], ids=lambda names: names[0]
)
def test_names_that_meet_are_refused(tmp_path, names):
    source = made(tmp_path / "m.metaq", *(file_of(f"file:{name}") for name in names))
    with pytest.raises(FormatError, match="name of another"):
        restore_folder(source, tmp_path / "back")
    assert everything_in(tmp_path) == ["m.metaq"]


def test_a_file_that_is_no_run_of_bytes_is_refused(tmp_path):
    floats = ExactTensor(name="file:a", values=np.ones(3, dtype="<f4"), dtype=Dtype.float32)
    square = ExactTensor(name="file:a", values=np.ones((3, 3), dtype="u1"), dtype=Dtype.uint8)
    for held in (floats, square):
        with pytest.raises(FormatError, match="run of bytes"):
            restore_folder(made(tmp_path / "m.metaq", held), tmp_path / "back")


def test_too_large_and_too_many_files_are_refused(tmp_path, monkeypatch):
    source = made(tmp_path / "m.metaq", *(file_of(f"file:{n}", bytes(100)) for n in range(5)))
    for limit, most in (("MAX_FILE_BYTES", 99), ("MAX_ALL_BYTES", 499), ("MAX_FILES", 4)):
        with monkeypatch.context() as patched:
            patched.setattr(f"metaq.compression.restoring.{limit}", most)
            with pytest.raises(FormatError, match="more files"):
                restore_folder(source, tmp_path / "back")
    assert restore_folder(source, tmp_path / "back").weights == 3


def test_a_file_of_no_folder_is_no_folder(tmp_path):
    container.write(tmp_path / "m.metaq", [WEIGHT, file_of("file:config.json")])
    assert origin(tmp_path / "m.metaq") is None
    with pytest.raises(FormatError, match="made of a state dict"):
        restore_folder(tmp_path / "m.metaq", tmp_path / "back")
    assert "file:config.json" in load(tmp_path / "m.metaq")


def test_types_that_safetensors_lacks_are_named(tmp_path):
    odd = ExactTensor(name="odd", values=np.ones(9, dtype="<c16"), dtype=Dtype.complex128)
    with pytest.raises(FormatError, match=r"odd.*complex128"):
        restore_folder(made(tmp_path / "m.metaq", odd), tmp_path / "back")
    assert everything_in(tmp_path) == ["m.metaq"]


def test_a_damaged_file_leaves_nothing(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    (tmp_path / "m.metaq").write_bytes(bytes(data))
    with pytest.raises(FormatError, match="damaged"):
        restore_folder(tmp_path / "m.metaq", tmp_path / "back")
    assert everything_in(tmp_path) == ["m.metaq"]


def test_nothing_is_replaced_without_force_and_nothing_else_with_it(packed, tmp_path):
    out = tmp_path / "back"
    restore_folder(packed, out)
    before = everything_in(out)
    with pytest.raises(ConfigError, match="--force"):
        restore_folder(packed, out)
    (out / "config.json").write_text("old")
    restore_folder(packed, out, force=True)
    assert everything_in(out) == before
    assert (out / "config.json").read_text() != "old"
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        restore_folder(packed, out, force=True)
    assert (out / "thesis.txt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_links_in_the_way_are_not_followed(packed, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "back").symlink_to(elsewhere)
    for force in (False, True):
        with pytest.raises(ConfigError, match="back"):
            restore_folder(packed, tmp_path / "back", force=force)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists already"):
        restore_folder(packed, tmp_path / "dangling")
    assert list(elsewhere.iterdir()) == []


def test_a_disk_without_room_is_said_before_anything_is_written(packed, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match="1,000 are free"):
        restore_folder(packed, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_old_folder(packed, tmp_path, monkeypatch):
    out = tmp_path / "back"
    restore_folder(packed, out)
    (out / "config.json").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        restore_folder(packed, out, force=True)
    assert (out / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_a_place_that_is_not_there(packed, tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        restore_folder(packed, tmp_path / "nowhere" / "back")
