import gzip

import h5py
import pytest
import torch
from safetensors.torch import save_file

from metaq.errors import FormatError
from metaq.model.formats.reading import read_file


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_parts_of_distributed_checkpoints_are_told(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(FormatError, match=r"part of a distributed checkpoint.*dcp_to_torch FOLDER FILE"):
        read_file(path)
    assert read_file(path, lossless=True).tensors == ()


PAGE = b"<!doctype html><html>Access denied</html>"
KINDS = {"web page": PAGE, "gzip": gzip.compress(PAGE), "GGUF": b"GGUF" + bytes(60)}


@pytest.mark.parametrize("suffix", [".safetensors", ".h5", ".npy", ".tflite", ".onnx", ".pth"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_model_is_told_whatever_its_name(tmp_path, kind, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(KINDS[kind])
    with pytest.raises(FormatError, match=kind):
        read_file(path)


@pytest.mark.parametrize("length", [0x3C, 0x8B1F])
def test_a_model_may_begin_like_something_else(tmp_path, length):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(3)}, path)
    header = path.read_bytes()[8:-12]
    header = header.ljust(length) if len(header) <= length else b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    elements = bytes(12) if b"F32" in header else bytes(1)
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + elements)
    assert [tensor.name for tensor in read_file(path).tensors] == ["w"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of Git LFS"),
        (PAGE, "is a web page"),
        (b"PK\x03\x04 and so on", "damaged zip archive"),
    ],
)
def test_without_loss_what_is_wrong_is_told(tmp_path, content, told):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    (note,) = read_file(path, lossless=True).notes
    assert note.startswith("all of it is kept as it is: ")
    assert told in note
    assert str(path) not in note


def test_links_out_of_a_group_of_hdf5_are_told(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(9):
            file[f"z{number}"] = h5py.ExternalLink("other.h5", "x")
    with pytest.raises(FormatError, match="external links"):
        read_file(tmp_path / "x.h5")
