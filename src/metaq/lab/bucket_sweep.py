"""Post-training quantisation measured on data: which bucket count is the smallest that keeps the accuracy."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from metaq import container
from metaq.compression import pipeline
from metaq.lab import runs
from metaq.lab.data import ImageDataset
from metaq.lab.train import accuracy
from metaq.model import checkpoint
from metaq.quantize.sweep import SweepRow, best_rows, choose_smallest
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Tensor

MOST_ROWS = 10
"""Best rows of a sweep for which a file is made to know its size."""


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """A finished sweep: the tensors as quantised for the chosen row, of lowest entropy within the tolerance.

    `float_accuracy` is that of the weights as they were, in percent; `best` holds the rows of highest accuracy, best
    first. All rows have their file sizes.
    """

    float_accuracy: float
    best: list[SweepRow]
    chosen: SweepRow
    tensors: list[Tensor]


def sweep_buckets(
    state_dict: Mapping[str, torch.Tensor],
    counts: Iterable[int],
    *,
    net: str,
    dataset: ImageDataset,
    grids_of: Callable[[int], dict[str, BucketGrid]],
    tolerance: float,
    metadata: container.Metadata,
    on_row: Callable[[SweepRow], None],
) -> SweepOutcome:
    """Quantise with every bucket count, evaluate each, choose the smallest that loses at most `tolerance` points.

    `grids_of` gives the grid of every tensor for a bucket count; `on_row` is told of every row as soon as it is
    measured; `metadata` is what the file will hold beside the tensors, and counts for its size. Raises
    :class:`ConfigError` if no bucket count keeps the accuracy.
    """
    model = runs.build(net, state_dict)
    float_accuracy = accuracy(model, dataset)
    rows = []

    def quantized_with(count: int) -> list[Tensor]:
        return pipeline.to_tensors(state_dict, grids=grids_of(count))

    for count in counts:
        tensors = quantized_with(count)
        model.load_state_dict(checkpoint.restore(tensors))
        row = SweepRow(buckets=count, accuracy=accuracy(model, dataset), entropy_bits=pipeline.entropy_bits(tensors))
        rows.append(row)
        on_row(row)
    chosen = choose_smallest(rows, least_accuracy=float_accuracy - tolerance)
    best = best_rows(rows, most=MOST_ROWS)
    sizes = {
        row.buckets: len(container.encode(quantized_with(row.buckets), metadata=metadata)) for row in {*best, chosen}
    }
    return SweepOutcome(
        float_accuracy=float_accuracy,
        best=[replace(row, file_bytes=sizes[row.buckets]) for row in best],
        chosen=replace(chosen, file_bytes=sizes[chosen.buckets]),
        tensors=quantized_with(chosen.buckets),
    )
