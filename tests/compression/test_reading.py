from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metaq.errors import FormatError
from metaq.model.folder import open_folder
from metaq.model.opened import open_model
from metaq.tensors.quantized import Dtype

from .conftest import INDEX, tensors

FIRST = "model-00001-of-00003.safetensors"


def change_index(folder: Path, **changes: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= changes
    (folder / INDEX).write_text(json.dumps(index))


def header_of(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_raw(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def change_header(path: Path, name: str, **changes: object) -> None:
    header, data = header_of(path)
    header[name] |= changes
    write_raw(path, json.dumps(header).encode(), data)


def test_all_tensors_and_small_files_are_found(folder):
    found = open_model(folder)
    expected = tensors()
    assert [tensor.name for tensor in found.tensors] == sorted(expected)
    assert {tensor.name: tensor.shape for tensor in found.tensors} == {n: tuple(t.shape) for n, t in expected.items()}
    assert sum(t.size_bytes for t in found.tensors) == sum(t.numel() * t.element_size() for t in expected.values())
    files = [file.name for file in found.rest.files]
    assert sorted(files) == ["file:1_Pooling/config.json", "file:config.json", "file:empty.txt", "file:short.txt"]
    assert found.rest.left_out == {"pytorch_model.bin": "holds weights in another form"}


def test_one_file_needs_no_index_and_comes_before_one(tmp_path):
    save_file({"w": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    (tmp_path / INDEX).write_text("not even JSON")
    (only,) = open_model(tmp_path).tensors
    assert (only.name, only.dtype, only.shape) == ("w", Dtype.bfloat16, (3,))


def damage(folder: Path, kind: str) -> None:
    index, first = folder / INDEX, folder / FIRST
    header, data = header_of(first)
    names = sorted(name for name in header if name != "__metadata__")
    name = names[0]
    start, stop = header[name]["data_offsets"]
    actions = {
        "missing shard": first.unlink,
        "no index": index.unlink,
        "index is no JSON": lambda: index.write_text("{"),
        "index is deep": lambda: index.write_text("[" * 100_000),
        "index is a list": lambda: index.write_text("[]"),
        "index without map": lambda: index.write_text("{}"),
        "index leads out": lambda: change_index(folder, extra="../other.safetensors"),
        "index leads to the root": lambda: change_index(folder, extra="/etc/other.safetensors"),
        "index names a number": lambda: change_index(folder, extra=3),
        "index names a pickle": lambda: change_index(folder, extra="pytorch_model.bin"),
        "tensor not in its shard": lambda: change_index(folder, extra=FIRST),
        "tensor not in the index": lambda: save_file({"other": torch.ones(2)}, first),
        "unnamed shard": lambda: shutil.copy(first, folder / "model-00004-of-00004.safetensors"),
        "empty shard": lambda: first.write_bytes(b""),
        "short shard": lambda: first.write_bytes(first.read_bytes()[:-1]),
        "long shard": lambda: first.write_bytes(first.read_bytes() + b"\0"),
        "cut header": lambda: first.write_bytes(first.read_bytes()[:20]),
        "huge header": lambda: first.write_bytes(b"\xff" * 8 + first.read_bytes()[8:]),
        "header is no JSON": lambda: write_raw(first, b"{" * 10, data),
        "header is a list": lambda: write_raw(first, b"[]", data),
        "unknown type": lambda: change_header(first, name, dtype="F4"),
        "negative shape": lambda: change_header(first, name, shape=[-1]),
        "shape of truths": lambda: change_header(first, name, shape=[True]),
        "shape that does not fit": lambda: change_header(first, name, shape=[5]),
        "overlapping tensors": lambda: change_header(first, name, data_offsets=[start + 4, stop + 4]),
        "tensor is a list": lambda: write_raw(first, json.dumps({**header, name: []}).encode(), data),
        "name for a file": lambda: write_raw(first, json.dumps(header).replace(name, "file:x").encode(), data),
        "name is no Unicode": lambda: write_raw(first, json.dumps(header).replace(name, r"\ud800").encode(), data),
    }
    actions[kind]()


KINDS = {
    "missing shard": FIRST,
    "no index": "there is no index",
    "index is no JSON": "JSON",
    "index is deep": "JSON",
    "index is a list": "weight_map",
    "index without map": "weight_map",
    "index leads out": "../other",
    "index leads to the root": "/etc/other",
    "index names a number": "'extra'",
    "index names a pickle": "pytorch_model.bin",
    "tensor not in its shard": "'extra'",
    "tensor not in the index": INDEX,
    "unnamed shard": "model-00004-of-00004",
    "empty shard": "is empty",
    "short shard": "not a readable safetensors file",
    "long shard": "not a readable safetensors file",
    "cut header": "not a readable safetensors file",
    "huge header": "not a readable safetensors file",
    "header is no JSON": "not a readable safetensors file",
    "header is a list": "not a readable safetensors file",
    "unknown type": "not a readable safetensors file",
    "negative shape": "not a readable safetensors file",
    "shape of truths": "not a readable safetensors file",
    "shape that does not fit": "not a readable safetensors file",
    "overlapping tensors": "not a readable safetensors file",
    "tensor is a list": "not a readable safetensors file",
    "name for a file": "says that",
    "name is no Unicode": "not a readable safetensors file",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_sound_is_refused(folder, kind):
    damage(folder, kind)
    with pytest.raises(FormatError) as caught:
        open_model(folder)
    message = str(caught.value)
    assert KINDS[kind] in message
    assert str(folder) in message
    assert message.endswith(".")


def test_a_name_in_two_shards_is_refused(folder):
    save_file({"twice": torch.ones(2)}, folder / FIRST)
    save_file({"twice": torch.ones(2)}, folder / FIRST.replace("1", "2", 1))
    with pytest.raises(FormatError, match=r"'twice' is in model-00001.* and in model-00002"):
        open_folder(folder)


def test_names_kept_for_files_are_refused(tmp_path):
    save_file({"file:x": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"'file:x' begins like those kept for files"):
        open_model(tmp_path)
    # A state dict has no files beside it.
    assert [tensor.name for tensor in open_model(tmp_path / "model.safetensors").tensors] == ["file:x"]


def test_a_name_twice_in_a_header_is_refused(tmp_path):
    described = '"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    write_raw(tmp_path / "model.safetensors", f"{{{described}, {described}}}".encode(), bytes(4))
    with pytest.raises(FormatError, match="occurs twice"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (["__0_0.distcp"], "dcp_to_torch"),
        (["model.gguf"], "quantised already"),
        (["flax_model.msgpack"], "save_pretrained"),
        (["part/model.safetensors"], "one of its folders: part"),
        ([], "save_pretrained made"),
    ],
)
def test_a_folder_without_weights_gets_advice(tmp_path, files, advice):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FormatError, match=advice):
        open_folder(tmp_path)


def test_links_stay_in_the_folder_or_in_the_cache_it_is_a_snapshot_of(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"w": torch.ones(3)}, blobs / "weights")
    (blobs / "config").write_text("{}")
    (tmp_path / "secret.txt").write_text("secret")
    (snapshot / "model.safetensors").symlink_to(blobs / "weights")
    (snapshot / "config.json").symlink_to(blobs / "config")
    (snapshot / "same.json").symlink_to("config.json")
    (snapshot / "secret.txt").symlink_to(tmp_path / "secret.txt")
    (snapshot / "all").symlink_to(tmp_path)
    found = open_folder(snapshot).carried
    assert sorted(found.checksums) == ["config.json", "same.json"]
    assert sorted(found.left_out) == ["all", "secret.txt"]


def test_files_with_unsafe_names_and_large_ones_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("metaq.model.folder.MAX_FILE_BYTES", 1000)
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    for name, size in (("a:b.txt", 1), ("con.txt", 1), ("large.json", 1001), ("fits.json", 1000)):
        (tmp_path / name).write_bytes(bytes(size))
    found = open_folder(tmp_path).carried
    assert list(found.checksums) == ["fits.json"]
    assert sorted(found.left_out) == ["a:b.txt", "con.txt", "large.json"]
