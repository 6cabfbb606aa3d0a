"""What a file of weights holds: its tensors, where its bytes went, and how its weights are distributed."""

import os
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metaq.config import require
from metaq.container import Account
from metaq.model.weights import alias_of
from metaq.report import histograms
from metaq.report.inspection import Inspection, TensorRow
from metaq.report.subject import Histogram, Kind, Share, Subject, TensorFacts

MOST_HISTOGRAMS = 24

SHARING = (
    "A tensor has the bytes that the coder counts for it: −log₂ of the probability of every symbol as it is coded. "
    "A chunk that holds one tensor is its own. Rounding is what whole bytes add or leave out."
)
Latent = Mapping[str, NDArray[np.float64]]


def add_file(subject: Subject, found: Inspection) -> None:
    """Sizes, tensors and bytes of a file."""
    subject.sizes, subject.metadata, subject.folded = found.sizes, found.metadata, found.folded
    if not found.rows:
        subject.missing["tensors"] = "The file holds no tensors."
    if found.account is None or found.file is None:
        subject.missing["bytes"] = "Only a .metaq file says where each of its bytes went."
        subject.tensors = [_facts(row, found, None) for row in found.rows]
        return
    subject.tensors = [_facts(row, found, row.stored_bytes) for row in found.rows]
    subject.shares = _shares(found.rows, found.account, len(found.file.bases))
    subject.sharing = SHARING


def add_histograms(subject: Subject, found: Inspection, latent: Latent) -> None:
    """Distributions of the largest floating tensors, tied ones once."""
    largest = sorted(_floating(found), key=lambda name: (-found.state_dict[name].numel(), name))
    drawn = (_histogram(name, found, latent.get(name)) for name in largest[:MOST_HISTOGRAMS])
    subject.histograms = [each for each in drawn if each is not None]
    subject.histograms_left_out = len(largest) - len(subject.histograms)
    if not subject.histograms:
        subject.missing["weights"] = "The file holds no floating tensor with finite elements to draw."


def save_plot(path: str | os.PathLike[str], found: Inspection) -> None:
    """Write a PNG with the distribution of every floating tensor, tied ones once; a bar per bucket where it has any."""
    drawn = [_histogram(name, found, None) for name in _floating(found)]
    finite = [each for each in drawn if each is not None]
    require(bool(finite), "--plot: the file holds no floating tensor to draw.")
    histograms.save(path, finite)


def _floating(found: Inspection) -> list[str]:
    """Names of the floating tensors that have elements, of tied ones the first."""
    tensors = found.state_dict
    names = dict.fromkeys(alias_of(tensors, tensors).values())
    return [name for name in names if tensors[name].is_floating_point() and tensors[name].numel() > 0]


def _shares(rows: Sequence[TensorRow], account: Account, bases: int) -> list[Share]:
    found = [
        Share(label="header", bytes=account.header_bytes, is_tensor=False),
        Share(label="checksums", bytes=account.checksum_bytes, is_tensor=False),
        Share(label="magic and version", bytes=account.magic_bytes, is_tensor=False),
        Share(label="rounding", bytes=account.rounding_bytes, is_tensor=False),
    ]
    names = [f"basis {number}" for number in range(bases)] + [row.name for row in rows]
    # Tied tensors have no bytes of their own, and those that stand in the header are counted there.
    has_own = [True] * bases + [row.tied_to is None and row.coder != "inline" for row in rows]
    found += [
        Share(label=name, bytes=size, is_tensor=True)
        for name, size, is_listed in zip(names, account.parts_bytes, has_own, strict=True)
        if is_listed
    ]
    return sorted(found, key=lambda share: (-share.bytes, share.label))


def _facts(row: TensorRow, found: Inspection, size: int | None) -> TensorFacts:
    make = partial(TensorFacts, **vars(row), bytes=size)
    if row.is_file:
        return make(kind="carried file", elements=row.shape[0] if row.shape else 0, zeros=None)
    # Elements that numpy can compare, whatever their type.
    tensor = found.state_dict[row.name]
    is_live = (tensor.double() if tensor.is_floating_point() else tensor).numpy() != 0
    kind: Kind = "quantised" if row.step_size is not None else "exact"
    return make(
        kind="tied" if row.tied_to is not None else kind,
        elements=is_live.size,
        zeros=is_live.size - int(is_live.sum()),
        live_rows=_live_along(0, is_live),
        live_columns=_live_along(1, is_live),
    )


def _live_along(dimension: int, is_live: NDArray[np.bool_]) -> tuple[int, int] | None:
    """How many indices of a dimension have a live element, and how many there are."""
    if is_live.ndim <= dimension:
        return None
    others = tuple(each for each in range(is_live.ndim) if each != dimension)
    return int(is_live.any(axis=others).sum()), is_live.shape[dimension]


def _histogram(name: str, found: Inspection, latent: NDArray[np.float64] | None) -> Histogram | None:
    tensor = found.quantized.get(name)
    flat = None if latent is None else latent.reshape(-1)
    # A trellis, a basis and scales give values beside those of the grid.
    if tensor is not None and not tensor.trellis_bits and tensor.basis is None and tensor.scales is None:
        return histograms.of_buckets(tensor, flat)
    return histograms.of_values(name, found.state_dict[name].double().numpy().reshape(-1), flat)
