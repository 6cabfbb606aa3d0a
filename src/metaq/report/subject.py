"""What a report shows of one run or file, as plain records; whatever is not known has a sentence that says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metaq.lab.train.records import EpochRecord

Json = dict[str, Any]
Kind = Literal["quantised", "exact", "tied", "carried file"]


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """One row of the table of tensors.

    Attributes
    ----------
    name, shape, dtype
        As in the model; of a file that is carried along, its path, and its size as the shape.
    kind
        How it is kept.
    coder
        Of the bucket indices, or how an exact tensor is packed; None outside ``.metaq`` files.
    elements, zeros
        How many there are, and how many of them are zero as restored; None of carried files.
    bytes
        Its share of the file's bytes; None where the file is of a kind that does not tell.
    buckets, buckets_used, step_size
        Of its grid, or None.
    entropy_bits
        Zero-order entropy of its bucket indices in bits, or None.
    live_rows, live_columns
        Rows, by the first dimension, and columns, by the second, that hold anything but zero, and how many there are;
        None where it has no such dimension.
    tied_to
        The tensor whose elements these are, or None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    coder: str | None = None
    elements: int
    zeros: int | None
    bytes: int | None
    buckets: int | None = None
    buckets_used: int | None = None
    step_size: float | None = None
    entropy_bits: float | None = None
    live_rows: tuple[int, int] | None = None
    live_columns: tuple[int, int] | None = None
    tied_to: str | None = None

    @property
    def entropy_per_weight(self) -> float | None:
        """Entropy in bits over the number of elements."""
        return None if self.entropy_bits is None else self.entropy_bits / max(self.elements, 1)

    @property
    def zero_share(self) -> float | None:
        """Share of elements that are zero."""
        return None if self.zeros is None else self.zeros / max(self.elements, 1)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Some of the bytes of a file.

    Attributes
    ----------
    label
        Whose they are.
    bytes
        How many.
    is_tensor
        Whether they hold elements of a tensor, and not what describes the file.
    """

    label: str
    bytes: int
    is_tensor: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """How the elements of a tensor are distributed.

    Attributes
    ----------
    name
        The tensor.
    centers, counts
        Middle of every bar, and how many elements it stands for.
    width
        Of a bar, in weight units.
    buckets_per_bar
        How many buckets a bar stands for; None if the bars are not of buckets.
    latent
        Latent weights of the run, or None.
    """

    name: str
    centers: NDArray[np.float64]
    counts: NDArray[np.int64]
    width: float
    buckets_per_bar: int | None
    latent: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Filters:
    """Weights of the first layer, unit by unit.

    Attributes
    ----------
    layer
        Its name.
    after
        As restored from the file, float64 of shape (units, channels, height, width).
    before
        Latent weights of the same units, or None.
    units, live_units
        How many units there are, of which `after` may hold some, and how many have weights other than zero.
    reads
        ``"kernels"`` of a convolution, or ``"rows"`` of a linear layer that reads square pictures.
    """

    layer: str
    after: NDArray[np.float64]
    before: NDArray[np.float64] | None
    units: int
    live_units: int
    reads: Literal["kernels", "rows"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An accuracy in percent, and of what it is.

    Attributes
    ----------
    percent
        The accuracy.
    what
        Which weights on which images.
    """

    percent: float
    what: str

    @property
    def images(self) -> str:
        """The images alone: accuracies on others cannot be subtracted."""
        return self.what.rpartition(" on ")[2]


@dataclass(kw_only=True, eq=False)
class Subject:
    """Everything a page shows of one run or file, filled in as it is found.

    Attributes
    ----------
    name
        Of the folder or file, without the way to it.
    title
        Network and data, if they are known, else the name.
    sizes
        As :func:`metaq.compression.pipeline.sizes` gives them, or None if there is no file.
    after, before
        Accuracy of the file, and of float weights.
    seconds
        Duration of the training.
    records, kept_epoch
        Metrics of every epoch, and which of them is in the file.
    tensors
        In the order of the file.
    shares
        Of the file's bytes: together the size of the file; largest first.
    sharing
        How the bytes were shared out, in a sentence.
    histograms, histograms_left_out
        Of the largest tensors, and how many there are besides.
    filters
        Of the first layer.
    folded
        Units of every layer, and those that folding leaves.
    environment
        Command, versions and machine of the run.
    config
        Settings of the run, as JSON holds them.
    metadata
        Free facts kept in the file.
    missing
        By part of the page, why it is not there, in a sentence.
    notes
        By part of the page, what is to be known about it, in a sentence.
    """

    name: str
    title: str
    sizes: Mapping[str, float | int] | None = None
    after: Accuracy | None = None
    before: Accuracy | None = None
    seconds: float | None = None
    records: Sequence[EpochRecord] = ()
    kept_epoch: int | None = None
    tensors: Sequence[TensorFacts] = ()
    shares: Sequence[Share] = ()
    sharing: str = ""
    histograms: Sequence[Histogram] = ()
    histograms_left_out: int = 0
    filters: Filters | None = None
    folded: Mapping[str, tuple[int, int]] | None = None
    environment: Mapping[str, str | int] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    metadata: Mapping[str, str | int | float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """The figures, ready for JSON."""
        return {
            "name": self.name,
            **(self.sizes or {}),
            "accuracy": None if self.after is None else dataclasses.asdict(self.after),
            "accuracy_before": None if self.before is None else dataclasses.asdict(self.before),
            "seconds": self.seconds,
            "epochs": len(self.records),
            "kept_epoch": self.kept_epoch,
            "tensors": [dataclasses.asdict(tensor) for tensor in self.tensors],
            "shares": [dataclasses.asdict(share) for share in self.shares],
            "folded": self.folded,
            "environment": dict(self.environment),
            "config": self.config,
            "metadata": dict(self.metadata),
            "missing": dict(self.missing),
            "notes": dict(self.notes),
        }
