"""What belongs to a model beside its tensors: other files of its folder, and its own files around the tensors."""

import io
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from metaq import container
from metaq.container import Metadata, carried
from metaq.container.fields import utf8
from metaq.container.templates import Hole, Repair, Template
from metaq.errors import FormatError
from metaq.model.folder import WEIGHTS, ModelFolder
from metaq.model.formats.torch_state import LINE
from metaq.model.formats.weight_file import WeightFile
from metaq.model.stored import FileRange, StoredTensor
from metaq.tensors.quantized import Dtype

CONFIG = "config.json"
MOST_NAMED = 5
"""Entries of a file that a sentence names."""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Files that travel along, as tensors of bytes; metadata that say what they are; what is left out and why; and
    sentences for whoever packs the model.
    """

    files: tuple[StoredTensor, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def rest_of_file(file: WeightFile) -> Rest:
    """What belongs to the model of a single file."""
    if file.is_state_dict:
        metadata = {
            carried.KEY: ".".join(file.key),
            carried.NAME_PREFIX: file.prefix,
            carried.PARTS: LINE.join(file.parts),
        }
        known = {name: value for name, value in metadata.items() if value}
        return Rest(metadata=known, left_out=file.left_out, notes=file.notes)
    frames = _frames({"": file}, {"": ""}, file.path.parent, ())
    notes = (*file.notes, *_kept_notes(file))
    left_out = {each.name: each.reason for each in file.zeroed}
    return Rest(files=frames, metadata={carried.FILE: file.path.name}, left_out=left_out, notes=notes)


def rest_of_folder(folder: ModelFolder) -> Rest:
    """What belongs to the model of a folder."""
    written = set(folder.main) if folder.written is not None else set()
    framed = {path: file for path, file in folder.weights.items() if path not in written}
    metadata: dict[str, str | int | float] = {carried.FOLDER: carried.CONVENTION}
    if folder.written not in (None, WEIGHTS):
        metadata[carried.WEIGHTS] = str(folder.written)
    prefixes = {path: folder.prefix(path) for path in folder.weights}
    others = [name for path in written for name in names_of(folder.weights[path])]
    frames = _frames(framed, prefixes, folder.path, [*others, *(file.name for file in folder.carried.files)])
    left_out = dict(folder.carried.left_out)
    notes: list[str] = []
    notes += _quantised_by(folder.path / CONFIG)
    for path, file in folder.weights.items():
        left_out |= {f"{path}/{each.name}": each.reason for each in file.zeroed}
        notes += [f"{path}: {note}" for note in (*file.notes, *_kept_notes(file))]
    return Rest(files=(*folder.carried.files, *frames), metadata=metadata, left_out=left_out, notes=tuple(notes))


def rest_of_packed(file: container.File) -> Rest:
    """What belongs to the model of a ``.metaq`` file, whose tensors keep their names."""
    files = [
        StoredTensor(name=tensor.name, dtype=Dtype.uint8, shape=tensor.shape, place=tensor.restore().reshape(-1))
        for tensor in file.tensors
        if carried.is_carried(tensor.name, file.metadata)
    ]
    metadata = {name: value for name, value in file.metadata.items() if name in carried.KEYS}
    return Rest(files=tuple(files), metadata=metadata)


def _kept_notes(file: WeightFile) -> list[str]:
    """Sentences about what comes back with a file alone: what is not quantised, and what lies in another order."""
    moved = [name.removeprefix(carried.BESIDE) for name in file.reordered]
    kept = [f"{name} ({reason})" for name, reason in file.left_out.items()]
    told = {
        "not given by metaq.load, for it lies in the file transposed or with channels last": moved,
        "kept as it is in the file, and not given by metaq.load": kept,
    }
    return [f"{what}: {_listed(names)}" for what, names in told.items() if names]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _quantised_by(config: Path) -> list[str]:
    """A sentence if the configuration of a model says that its weights are quantised already."""
    try:
        described = json.loads(config.read_bytes())
        method = described["quantization_config"]["quant_method"]
        name = described.get("_name_or_path")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    original = f", such as {name!r}" if isinstance(name, str) and name else ""
    return [
        f"its weights are quantised already ({method}): packed numbers and what dequantises them are kept exactly. "
        f"Of the float model{original}, a smaller file can be made."
    ]


def names_of(file: WeightFile) -> list[str]:
    """Names of all its tensors, tied ones by each."""
    return [*(tensor.name for tensor in file.tensors), *file.ties]


def _frames(
    weights: Mapping[str, WeightFile], prefixes: Mapping[str, str], folder: Path, others: Sequence[str]
) -> tuple[StoredTensor, ...]:
    """Files without the tensors that lie in them; `others` are names of all other tensors of the ``.metaq`` file."""
    files: dict[str, tuple[WeightFile, str, Path]] = {}
    for key, file in weights.items():
        for path in (file.path, *file.data_files):
            relative = path.relative_to(folder).as_posix()
            if not carried.is_safe_path(relative):
                raise FormatError(
                    f"{path}: its name is not safe on every system, so that no file can carry it; rename it."
                )
            files[relative] = (file, prefixes[key], path)
    names = [*others, *(carried.tensor_name(relative, has_holes=True) for relative in files)]
    names += [prefixes[key] + name for key, file in weights.items() for name in names_of(file)]
    numbers = {name: number for number, name in enumerate(sorted(names, key=utf8))}
    made = []
    for relative, (file, prefix, path) in files.items():
        data = np.frombuffer(_frame(file, path, prefix, numbers).encode(), dtype=np.uint8)
        name = carried.tensor_name(relative, has_holes=True)
        made.append(StoredTensor(name=name, dtype=Dtype.uint8, shape=data.shape, place=data))
    return tuple(made)


def _frame(file: WeightFile, path: Path, prefix: str, numbers: Mapping[str, int]) -> Template:
    """One of the files of a weight file without the tensors that lie in it, and with zeros for what is left out."""
    zeroed = sorted(span for each in file.zeroed for span in each.ranges) if path == file.path else []
    lying = [(t.place.start, t) for t in file.tensors if isinstance(t.place, FileRange) and t.place.path == path]
    lying = [(start, tensor) for start, tensor in lying if tensor.size_bytes]
    lying.sort(key=lambda pair: pair[0])
    holes, rest, position = [], [], 0
    try:
        with path.open("rb") as stream:
            for start, tensor in lying:
                rest.append(_read(stream, position, start, zeroed))
                holes.append(Hole(gap=start - position, number=numbers[prefix + tensor.name]))
                position = start + tensor.size_bytes
            rest.append(_read(stream, position, stream.seek(0, io.SEEK_END), zeroed))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error
    repairs = [Repair(position=c.position, start=c.start, stop=c.stop) for c in file.checksums.get(path, ())]
    return Template(holes=tuple(holes), repairs=tuple(repairs), rest=b"".join(rest))


def _read(stream: IO[bytes], start: int, stop: int, zeroed: Sequence[tuple[int, ...]]) -> bytes:
    """Bytes `start` to `stop` of a file, zeros for those in the sorted ranges `zeroed`, none of which is cut."""
    stream.seek(start)
    found = bytearray(stream.read(stop - start))
    for first, after in zeroed[bisect_left(zeroed, (start,)) : bisect_left(zeroed, (stop,))]:
        found[first - start : after - start] = bytes(after - first)
    return bytes(found)


def prefixed(file: WeightFile, prefix: str) -> tuple[list[StoredTensor], dict[str, str], dict[str, str]]:
    """Tensors, ties and reasons of a weight file by names that begin with `prefix`."""
    tensors = [
        StoredTensor(name=prefix + tensor.name, dtype=tensor.dtype, shape=tensor.shape, place=tensor.place)
        for tensor in file.tensors
    ]
    ties = {prefix + name: prefix + first for name, first in file.ties.items()}
    return tensors, ties, {prefix + name: reason for name, reason in file.reasons.items()}
