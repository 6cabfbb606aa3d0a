"""Which files of a model folder travel with its weights, and which do not, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from metaq.container.carried import is_safe_path, tensor_name
from metaq.errors import FormatError
from metaq.model.stored import StoredTensor
from metaq.tensors.quantized import Dtype

MAX_FILE_BYTES = 64 << 20
MAX_ALL_BYTES = 256 << 20
MAX_FILES = 1000

PYTORCH_SUFFIXES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))
OTHER_SUFFIXES = frozenset(
    (".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot", ".npz", ".pb", ".metaq")
)
WEIGHT_ENDINGS = (".safetensors.index.json", ".bin.index.json")
SNAPSHOTS, BLOBS = "snapshots", "blobs"
"""Folders of a cache of Hugging Face's hub: files of the first are links into the second beside it."""


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Files that are carried, as tensors of bytes; SHA-256 of each by its path; paths of the others, each with the
    reason.
    """

    files: tuple[StoredTensor, ...]
    checksums: dict[str, str]
    left_out: dict[str, str]


def carried_files(folder: Path, weights: frozenset[str]) -> Carried:
    """Files of `folder` but for `weights`, which hold its tensors; :class:`FormatError` if one cannot be read."""
    files: list[StoredTensor] = []
    checksums: dict[str, str] = {}
    left_out: dict[str, str] = {}
    total = 0
    try:
        found = list(_walk(folder))
    except OSError as error:
        raise FormatError(f"{folder}: cannot be read ({error.strerror or error}).") from error
    for path in found:
        relative = path.relative_to(folder).as_posix()
        if relative in weights:
            continue
        try:
            reason = _refusal(folder, path, relative, total, len(files))
            if reason is not None:
                left_out[relative] = reason
                continue
            content = path.read_bytes()
        except OSError as error:
            raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error
        total += len(content)
        checksums[relative] = sha256(content).hexdigest()
        name = tensor_name(relative)
        files.append(StoredTensor(name=name, dtype=Dtype.uint8, shape=(len(content),), place=path))
    return Carried(files=tuple(files), checksums=checksums, left_out=left_out)


def holds_weights(path: str) -> bool:
    """Whether a file, by its path in the folder, is likely to hold the weights in another form."""
    suffix = PurePosixPath(path).suffix.lower()
    # In a folder of its own a safetensors file has the weights of another module, such as a projection.
    is_second_model = suffix == ".safetensors" and "/" not in path
    return suffix in PYTORCH_SUFFIXES | OTHER_SUFFIXES or is_second_model or path.endswith(WEIGHT_ENDINGS)


def _walk(folder: Path) -> Iterator[Path]:
    """Files, and links to folders, in order of their names; hidden ones are passed over in silence."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _refusal(folder: Path, path: Path, relative: str, total: int, number: int) -> str | None:
    """Why a file is not carried, or None if it is."""
    if holds_weights(relative):
        return "holds weights in another form"
    if not path.is_file():
        return "is no regular file"
    if path.is_symlink() and not _is_inside(folder, path):
        return "is a link out of the folder"
    if not is_safe_path(relative):
        return "has a name that is not safe on every system"
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES or total + size_bytes > MAX_ALL_BYTES or number >= MAX_FILES:
        return f"is too large or one too many ({size_bytes:,} bytes)"
    return None


def _is_inside(folder: Path, path: Path) -> bool:
    """Whether a link stays in the folder, or in the blobs of the hub's cache that the folder is a snapshot of."""
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / BLOBS
    return target.is_relative_to(home) or (home.parent.name == SNAPSHOTS and target.parent == blobs)
