"""A model folder: its tensors, in one safetensors file or in shards, and the files that go with them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from metaq.container.carried import PREFIX, is_safe_path, tensor_name
from metaq.container.fields import utf8
from metaq.errors import FormatError
from metaq.model.stored import StoredTensor, header_checksum, stamp_of, tensors_of
from metaq.tensors.quantized import Dtype

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 28
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

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


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFolder:
    """What is in a folder: tensors in order of their names as UTF-8, and the other files.

    The fingerprint tells that it is still the same: of every weight file its name, size, time of change and a checksum
    of its header; of every carried file its name and checksum.
    """

    tensors: tuple[StoredTensor, ...]
    carried: Carried
    fingerprint: list[list[object]]


def open_folder(path: Path) -> ModelFolder:
    """Read and check everything about a folder but the elements of its tensors.

    Raises :class:`FormatError` if there are no safetensors weights; if a shard is missing, damaged, or not in the
    index; if the index is not valid or names tensors that its shards do not have; if a name is in two shards.
    """
    shards, placed = _shards(path)
    tensors: dict[str, StoredTensor] = {}
    fingerprint: list[list[object]] = []
    for shard in shards:
        for tensor in tensors_of(shard):
            _check_name(shard, tensor.name)
            if tensor.name in tensors:
                other = _file_of(tensors[tensor.name]).name
                raise FormatError(
                    f"{path}: the tensor {tensor.name!r} is in {other} and in {shard.name}; save the model again."
                )
            tensors[tensor.name] = tensor
        fingerprint.append([*stamp_of(shard), header_checksum(shard)])
    _check_index(path, placed, tensors)
    if not tensors:
        raise FormatError(f"{path}: its weight files hold no tensor; save the model again.")
    carried = carried_files(path, frozenset([*(shard.name for shard in shards), INDEX] if placed else [WEIGHTS]))
    fingerprint += [[name, checksum] for name, checksum in carried.checksums.items()]
    ordered = sorted(tensors.values(), key=lambda tensor: utf8(tensor.name))
    return ModelFolder(tensors=tuple(ordered), carried=carried, fingerprint=fingerprint)


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


def _shards(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files, and by name of the tensor the one that the index says it is in; empty without an index."""
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS], {}
    if not (path / INDEX).is_file():
        raise FormatError(f"{path}: has no {WEIGHTS} and no {INDEX}; {_advice(path)}")
    placed = _weight_map(path / INDEX)
    names = sorted(set(placed.values()))
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise FormatError(
            f"{path}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}; get them first."
        )
    unknown = sorted(found.name for found in path.iterdir() if SHARD.fullmatch(found.name) and found.name not in names)
    if unknown:
        raise FormatError(f"{path}: the index does not name {', '.join(unknown[:5])}; take it away, or save again.")
    return [path / name for name in names], placed


def _advice(path: Path) -> str:
    pickled = sorted(found.name for found in path.glob("*.bin")) + sorted(found.name for found in path.glob("*.pt*"))
    if pickled:
        return (
            f"it has {pickled[0]}, which is not safetensors: load the model and save it with save_pretrained, or give "
            "metaq that file itself."
        )
    if any(path.glob("adapter_model.safetensors")):
        return "it is an adapter; merge it into its model and save that."
    return "give a folder that save_pretrained made."


def _weight_map(index: Path) -> dict[str, str]:
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise FormatError(f"{index}: is larger than {MAX_INDEX_BYTES:,} bytes; save the model again.")
        found = json.loads(index.read_bytes())
    except OSError as error:
        raise FormatError(f"{index}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{index}: is not valid JSON ({error}); get it again.") from error
    weight_map = found.get("weight_map") if isinstance(found, Mapping) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index}: has no weight_map; get it again.")
    for name, shard in weight_map.items():
        is_plain = isinstance(shard, str) and "/" not in shard and is_safe_path(shard)
        if not is_plain or not shard.endswith(".safetensors"):
            raise FormatError(f"{index}: {name!r} is said to be in {shard!r}, which is no shard in this folder.")
    return weight_map


def _check_name(shard: Path, name: str) -> None:
    if name.startswith(PREFIX):
        raise FormatError(f"{shard}: the name {name!r} begins with {PREFIX!r}, which is kept for files; rename it.")
    try:
        utf8(name)
    except ValueError as error:
        raise FormatError(f"{shard}: {error}") from error


def _check_index(path: Path, placed: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    for name, shard in placed.items():
        if name not in tensors or _file_of(tensors[name]).name != shard:
            raise FormatError(f"{path / INDEX}: says that {name!r} is in {shard}, but it is not; get both again.")
    unknown = [name for name in tensors if placed and name not in placed]
    if unknown:
        raise FormatError(f"{path / INDEX}: does not name {unknown[0]!r}, which is in a shard; get it again.")


def _file_of(tensor: StoredTensor) -> Path:
    assert isinstance(tensor.place, Path)
    return tensor.place


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
