"""What a report shows of one run or file, as plain records; whatever is not known has a sentence that says why."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metaq.lab.train.records import EpochRecord
from metaq.report.inspection import TensorRow

Json = dict[str, Any]
Kind = Literal["quantised", "exact", "tied", "carried file"]


@dataclass(frozen=True, kw_only=True)
class TensorFacts(TensorRow):
    """One row of the table of tensors.

    `zeros` are as restored; None of carried files. `bytes` is the share of the file's bytes; None where the file is of
    a kind that does not tell. `live_rows` counts, by the first dimension, what holds anything but zero, and how much
    there is, `live_columns` by the second; None without such a dimension.
    """

    kind: Kind
    elements: int
    zeros: int | None
    bytes: int | None
    live_rows: tuple[int, int] | None = None
    live_columns: tuple[int, int] | None = None

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
    """Some of the bytes of a file, and whose they are: elements of a tensor, or what describes the file."""

    label: str
    bytes: int
    is_tensor: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """How the elements of a tensor are distributed.

    Every bar has its middle, how many elements it stands for, and one width, in weight units. It stands for so many
    buckets; None if the bars are not of buckets. Latent weights are those of the run.
    """

    name: str
    centers: NDArray[np.float64]
    counts: NDArray[np.int64]
    width: float
    buckets_per_bar: int | None
    latent: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Filters:
    """Weights of the first layer, unit by unit: `after` as restored from the file, `before` latent ones or None.

    Both have shape (units, channels, height, width) and may hold only some of all `units`, of which `live_units` have
    weights other than zero. A convolution reads kernels, a linear layer rows that are square pictures.
    """

    layer: str
    after: NDArray[np.float64]
    before: NDArray[np.float64] | None
    units: int
    live_units: int
    reads: Literal["kernels", "rows"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer as the network calls it: its class, the shape of its output for one input, and its weights.

    `multiply_adds` are those for one input, `live_multiply_adds` those with weights other than zero; None of a layer
    that multiplies with no matrix. `bytes` is the share of the file's bytes; None where the file does not tell.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    weights: int
    multiply_adds: int | None
    live_multiply_adds: int | None
    bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An accuracy in percent, and of what it is: which weights on which images."""

    percent: float
    what: str

    @property
    def images(self) -> str:
        """The images alone: accuracies on others cannot be subtracted."""
        return self.what.rpartition(" on ")[2]


@dataclass(kw_only=True, eq=False)
class Subject:
    """Everything a page shows of one run or file, filled in as it is found.

    `name` is that of the folder or file, without the way to it; `title` network and data, if known, else the name.
    `sizes` are as :func:`metaq.compression.pipeline.sizes` gives them, or None if there is no file. `after` is the
    accuracy of the file, `before` that of float weights; `kept_epoch` the one in the file. `goal` and `kept` say what
    was asked for, and how much of the outputs is kept. Layers stand in the order in which they compute, tensors in that
    of the file. `commands` are what can be done, with a line for a shell or Python. `shares` are the file's bytes,
    together its size, largest first; `sharing` says how they were shared out. Histograms are of the largest tensors,
    filters of the first layer. `folded` has units of every layer, and those that folding leaves. `environment` has
    command, versions and machine of the run, `config` its settings, as JSON holds them, `metadata` free facts kept in
    the file. `missing` and `notes` say by part of the page, in a sentence, why it is not there and what is to be known
    about it.
    """

    name: str
    title: str
    sizes: Mapping[str, float | int] | None = None
    after: Accuracy | None = None
    before: Accuracy | None = None
    seconds: float | None = None
    goal: str | None = None
    kept: str | None = None
    commands: Sequence[tuple[str, str]] = ()
    layers: Sequence[Layer] = ()
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
            "goal": self.goal,
            "kept": self.kept,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
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
