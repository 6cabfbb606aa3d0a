"""A model folder: its weights, in whatever files, and the files that go with them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath

from metaq.container.carried import BESIDE, is_safe_path, tensor_name
from metaq.errors import FormatError
from metaq.model.formats import onnx_file
from metaq.model.formats.forms import (
    KERAS,
    OTHER_FORM,
    SAFETENSORS,
    WHOLE_MODELS,
    choose,
    is_index,
    is_shard,
    kind_of_shards,
    stem,
    suffix,
    without_number,
)
from metaq.model.formats.forms import holds_weights as holds_weights
from metaq.model.formats.places import is_inside
from metaq.model.formats.reading import DISTRIBUTED, DISTRIBUTED_SUFFIX, HEAD_BYTES, is_pointer, kept_whole, read_file
from metaq.model.formats.weight_file import WeightFile
from metaq.model.stored import FileRange, StoredTensor
from metaq.tensors.quantized import Dtype

WEIGHTS = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
"""Beside the weights of an adapter of PEFT; a folder of such folders is one of several adapters."""

INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 28
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

MAX_FILE_BYTES = 64 << 20
MAX_ALL_BYTES = 256 << 20
MAX_FILES = 1000

TOO_LARGE = "is too large or one too many ({:,} bytes)"
ADVICE = {
    f"*{DISTRIBUTED_SUFFIX}": f"it is a distributed checkpoint; {DISTRIBUTED}",
    "global_step*": "it is a checkpoint of DeepSpeed; make one file of it by its zero_to_fp32.py",
    "*.gguf": "its GGUF file is quantised already; get the float model, or give metaq that file with --lossless",
    "*.msgpack": "it has weights of Flax; load the model and save it with save_pretrained",
}
"""What to do about a folder without weights that has such files."""


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Files that are carried, as tensors of bytes; SHA-256 of each by its path; paths of the others, each with the
    reason.
    """

    files: tuple[StoredTensor, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFolder:
    """What is in a folder: weight files by their paths in it, the main ones first, and the other files.

    Tensors of the main weight files, which are several only if they are shards, have their own names. `written` is the
    path of the file that they go to when it is written anew from them, None where it comes back as it was.
    """

    path: Path
    weights: Mapping[str, WeightFile]
    main: tuple[str, ...]
    written: str | None
    carried: Carried

    def prefix(self, path: str) -> str:
        """What names of the tensors of a weight file begin with here."""
        if path in self.main:
            return ""
        place = PurePosixPath(path)
        alike = [other for other in self.weights if PurePosixPath(other).parent == place.parent]
        name = without_number(path)
        is_alone = place.parent.name and all(without_number(other) == name for other in alike)
        return f"{place.parent.as_posix()}/" if is_alone else f"{place.with_name(name).as_posix()}/"


def open_folder(path: Path, *, keep_all: bool = False, lossless: bool = False) -> ModelFolder:
    """Read and check everything about a folder but the elements of its tensors; for the options see :func:`read_file`.

    Raises :class:`FormatError` if there are no weights; if a weight file is damaged, or a shard is missing or not in
    the index; if an index is not valid or names tensors that its shards do not have.
    """
    try:
        found = sorted(_walk(path), key=lambda file: (len(file.relative_to(path).parts), file))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error
    names = [file.relative_to(path).as_posix() for file in found]
    chosen, left_out = choose(names, _external_data(path, names))
    # An index is the word on its shards, whatever else is there.
    indices = {name: _weight_map(path / name) for name in chosen if is_index(name)}
    for index, placed in indices.items():
        _check_shards(path, index, placed, names)
    files = [name for name in chosen if name not in indices]
    placed_shards = {shard for placed in indices.values() for shard in placed.values()}
    lone = [name for name in files if is_shard(name) and name not in placed_shards]
    if lone:
        raise FormatError(f"{path}: {lone[0]} is a shard, but there is no index of the shards; get that too.")
    if not files:
        advice = _advice(path, "give a model file, or a folder that save_pretrained made")
        raise FormatError(f"{path}: has no weights; {advice}.")
    are_adapters = all("/" in name and str(PurePosixPath(name).with_name(ADAPTER_CONFIG)) in names for name in files)
    is_model = any("/" not in name for name in files) or any(
        "/" not in each and each.endswith(".json") for each in names
    )
    if not is_model and not are_adapters:
        folders = sorted({name.partition("/")[0] for name in files})
        advice = _advice(path, f"give one of its folders: {', '.join(folders[:5])}")
        raise FormatError(f"{path}: has no weights itself; {advice}.")
    weights = _read_all(path, files, left_out, keep_all=keep_all, lossless=lossless)
    for index, placed in indices.items():
        _check_index(path, index, placed, weights)
    main = () if are_adapters and not is_model else _main(list(weights), indices, weights)
    is_written = bool(main) and all(weights[name].is_state_dict and name.endswith(SAFETENSORS) for name in main)
    is_written = is_written and (len(main) == 1 or (set(main) == set(indices.get(INDEX, {}).values())))
    written = (main[0] if len(main) == 1 else WEIGHTS) if is_written else None
    own = {*weights, *(file.relative_to(path).as_posix() for each in weights.values() for file in each.data_files)}
    if written is not None and len(main) > 1:
        own.add(INDEX)
    carried = _carried_files(path, [name for name in names if name not in own], left_out)
    weights = {name: weights[name] for name in sorted(weights, key=lambda name: name not in main)}
    return ModelFolder(path=path, weights=weights, main=main, written=written, carried=carried)


def _read_all(
    folder: Path, files: Sequence[str], left_out: dict[str, str], *, keep_all: bool, lossless: bool
) -> dict[str, WeightFile]:
    """Weight files by their paths; what is no readable model beside others is kept whole, or added to `left_out`."""
    found: dict[str, WeightFile] = {}
    placed: set[Path] = set()
    errors: list[FormatError] = []
    has_others = any(suffix(name) not in KERAS for name in files)
    for name in files:
        path = folder / name
        if suffix(name) == ".h5" and has_others and not lossless:
            # Data, as likely as weights.
            size_bytes = path.stat().st_size
            if size_bytes > MAX_FILE_BYTES:
                left_out[name] = TOO_LARGE.format(size_bytes)
            else:
                found[name] = kept_whole(path, "beside weights in other formats it may hold data")
            continue
        # Files of PyTorch come back as they were, around their tensors.
        keeps_all = keep_all or lossless or not name.endswith((SAFETENSORS, *KERAS))
        try:
            file = read_file(path, keep_all=keeps_all)
        except FormatError as error:
            if suffix(name) not in WHOLE_MODELS:
                raise
            errors.append(error)
            file = kept_whole(path, error)
        if not placed.isdisjoint(file.data_files):
            file = kept_whole(path, "its weights lie in the data of another")
        placed.update(file.data_files)
        found[name] = file
    if not any(file.tensors for file in found.values()):
        raise errors[0] if errors else FormatError(f"{folder}: its weight files hold no tensor; save the model again.")
    return found


def _external_data(folder: Path, names: Sequence[str]) -> frozenset[str]:
    """Paths of files in which tensors of ONNX files lie, whatever they are called."""
    found: set[str] = set()
    for name in names:
        if suffix(name) == ".onnx":
            with suppress(FormatError):
                found |= {file.relative_to(folder).as_posix() for file in onnx_file.read(folder / name).data_files}
    return frozenset(found)


def _main(
    files: Sequence[str], indices: Mapping[str, Mapping[str, str]], weights: Mapping[str, WeightFile]
) -> tuple[str, ...]:
    """The weight file, or shards, of the model itself: no export if there are others, the least deep, the largest."""

    def rank(names: Sequence[str]) -> tuple[bool, bool, int, bool, int]:
        size = sum(tensor.size_bytes for name in names for tensor in weights[name].tensors)
        first, has_tensors = names[0], any(weights[name].tensors for name in names)
        depth = len(PurePosixPath(first).parts)
        return not has_tensors, suffix(first) in WHOLE_MODELS, depth, stem(first).startswith("adapter"), -size

    shards = [tuple(sorted(set(placed.values()))) for placed in indices.values()]
    sharded = {name for group in shards for name in group}
    return min([*shards, *((name,) for name in files if name not in sharded)], key=rank)


def _carried_files(folder: Path, names: Sequence[str], left_out: Mapping[str, str]) -> Carried:
    """The other files of a folder; :class:`FormatError` if one cannot be read."""
    files: list[StoredTensor] = []
    checksums: dict[str, str] = {}
    reasons: dict[str, str] = {}
    total = 0
    for name in names:
        path = folder / name
        try:
            reason = left_out.get(name) or (OTHER_FORM if holds_weights(name) else None)
            reason = reason or _refusal(folder, path, name, total, len(files))
            content = b"" if reason else path.read_bytes()
        except OSError as error:
            raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error
        if reason is None and is_pointer(content[:HEAD_BYTES]):
            reason = "is a pointer of Git LFS; fetch the file itself by 'git lfs pull'"
        if reason is not None:
            reasons[name] = reason
            continue
        total += len(content)
        checksums[name] = sha256(content).hexdigest()
        place = FileRange(path, 0)
        files.append(StoredTensor(name=tensor_name(name), dtype=Dtype.uint8, shape=(len(content),), place=place))
    return Carried(files=tuple(files), checksums=checksums, left_out=reasons)


def _advice(path: Path, otherwise: str) -> str:
    """What to do about a folder without weights."""
    return next((advice for pattern, advice in ADVICE.items() if any(path.glob(pattern))), otherwise)


def _weight_map(index: Path) -> dict[str, str]:
    """From names of tensors to paths of shards beside the index."""
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
    kind = kind_of_shards(index.name)
    for name, shard in weight_map.items():
        is_plain = isinstance(shard, str) and "/" not in shard and is_safe_path(shard)
        if not is_plain or not shard.endswith(kind):
            raise FormatError(f"{index}: {name!r} is said to be in {shard!r}, which is no shard in this folder.")
    return weight_map


def _check_shards(folder: Path, index: str, placed: dict[str, str], names: Sequence[str]) -> None:
    """Check that all shards are there and no others, and make their names paths in the folder."""
    parent = PurePosixPath(index).parent
    for name, shard in placed.items():
        placed[name] = (parent / shard).as_posix()
    shards = sorted(set(placed.values()))
    missing = [name for name in shards if name not in names]
    if missing:
        raise FormatError(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}; get them first."
        )
    ending = PurePosixPath(shards[0]).suffix
    alike = [name for name in names if PurePosixPath(name).parent == parent and name.endswith(ending)]
    unknown = [name for name in alike if without_number(name) == without_number(index) and name not in shards]
    unknown = [name for name in unknown if is_shard(name)]
    if unknown:
        raise FormatError(f"{folder}: the index does not name {', '.join(unknown[:5])}; take it away, or save again.")


def _check_index(folder: Path, index: str, placed: Mapping[str, str], weights: Mapping[str, WeightFile]) -> None:
    held: dict[str, str] = {}
    for shard in sorted(set(placed.values())):
        file = weights[shard]
        for known in (*(tensor.name for tensor in file.tensors), *file.ties):
            name = known.removeprefix(BESIDE) if known in file.reordered else known
            if name in held:
                raise FormatError(
                    f"{folder}: the tensor {name!r} is in {PurePosixPath(held[name]).name} and in "
                    f"{PurePosixPath(shard).name}; save the model again."
                )
            held[name] = shard
    for name, shard in placed.items():
        if held.get(name) != shard and name not in weights[shard].left_out:
            shard = PurePosixPath(shard).name
            raise FormatError(f"{folder / index}: says that {name!r} is in {shard}, but it is not; get both again.")
    unknown = [name for name in held if name not in placed]
    if unknown:
        raise FormatError(f"{folder / index}: does not name {unknown[0]!r}, which is in a shard; get it again.")


def _walk(folder: Path) -> Iterator[Path]:
    """Files, and links to folders; hidden ones are passed over in silence."""
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _refusal(folder: Path, path: Path, relative: str, total: int, number: int) -> str | None:
    """Why a file is not carried, or None if it is."""
    if not path.is_file():
        return "is no regular file"
    if path.is_symlink() and not is_inside(path, folder):
        return "is a link out of the folder"
    if not is_safe_path(relative):
        return "has a name that is not safe on every system"
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES or total + size_bytes > MAX_ALL_BYTES or number >= MAX_FILES:
        return TOO_LARGE.format(size_bytes)
    return None
