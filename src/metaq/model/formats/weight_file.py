"""What every format gives: the tensors of a model file, where they lie, and how the file is put together again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metaq.model.stored import StoredTensor


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """A CRC-32 that a file keeps of its own bytes `start` to `stop`: four bytes, little-endian, at `position`."""

    position: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Zeroed:
    """What is left out of a file that keeps its size: zeros come back for the bytes of some `ranges`.

    These are pairs of start and stop, in order and apart from each other and from all tensors. `reason` says what they
    held.
    """

    name: str
    reason: str
    ranges: tuple[tuple[int, int], ...]


TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Endings of PyTorch's files, by which they are told apart by nobody."""

WRITABLE_SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".npz")
"""Of files that state dicts are written as."""

NOT_WEIGHTS = "not one of the weights"
"""Why tensors whose names begin with :data:`metaq.container.carried.BESIDE` are kept exactly."""

NOT_PLAIN = "its elements do not lie in the file as they are"
"""Why the bytes of weights are kept exactly, under such a name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightFile:
    """A file that holds a model, no element of which is read yet.

    Attributes
    ----------
    path
        The file.
    tensors
        Its tensors, those of the same elements once, by distinct names. One that lies in the file as it is, whole, in C
        order and little-endian, has its range for a place; such ranges do not overlap. Others have their elements.
    ties
        Other names of tensors, and for each the one of `tensors`.
    reasons
        Why some of `tensors` must be kept exactly, by name: what is no weight by the format itself.
    is_state_dict
        Whether the tensors are all there is to the file, so that it is written anew from them. The rest of any other
        file is kept as it is, around the tensors that lie in it.
    key
        Of a state dict in a checkpoint, the keys on the way to it.
    reordered
        Names, tied ones too, of weights that lie in the file in the order of other dimensions, each with the dimensions
        of the model's own tensor in that order. They begin with :data:`metaq.container.carried.BESIDE`.
    prefix
        What all names in the file begin with and the names here do not.
    parts
        Of a state dict that several dicts were taken together for, the keys on the way to each, tabs between them; its
        names begin with them, dots between them and behind.
    data_files
        Further files that tensors lie in, such as the external data of an ONNX file; all in the folder of `path`.
    checksums
        What has to be computed again when tensors change, by file.
    left_out
        Entries that are not taken, by name, with the reason.
    zeroed
        Entries of `path` that are neither taken nor kept.
    notes
        Sentences for whoever packs the file.
    """

    path: Path
    tensors: tuple[StoredTensor, ...]
    ties: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    is_state_dict: bool = False
    key: tuple[str, ...] = ()
    reordered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    prefix: str = ""
    parts: tuple[str, ...] = ()
    data_files: tuple[Path, ...] = ()
    checksums: Mapping[Path, tuple[Checksum, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    zeroed: tuple[Zeroed, ...] = ()
    notes: tuple[str, ...] = ()
