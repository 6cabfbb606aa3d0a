"""Steps that suit every row and column of a matrix, where there are no data.

Weights of units that do the same job differ in size by what comes before and after them. One step for all of a tensor
wipes out its small rows; steps in proportion to the size of rows and columns keep the relative error of each the same.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from metaq.compression.survey import BLOCK, Facts, SortedOut, Survey, blocks_of, look_at, quotas, sample_of
from metaq.container.layout import LARGEST
from metaq.model.stored import Reader, StoredTensor
from metaq.progress import Progress
from metaq.quantize.rotation import is_tall
from metaq.tensors.scales import Scales, exponents_of

Floats = NDArray[np.float64]

ROW_POWER, COLUMN_POWER = 1.0, 0.5
"""Steps grow with these powers of the sizes of rows and columns."""

LEAST_WEIGHTS = 32
"""Weights for every row and column, at least, so that their scales are no burden."""


def scaled(reader: Reader, survey: Survey, found: SortedOut, progress: Progress) -> tuple[Survey, SortedOut]:
    """The same with scales for the weights that they pay for; from now on the reader divides by them."""
    candidates = {each.name: scales_for(reader, each, survey.facts[each.name]) for each in found.weights}
    reader.scales = scales = {name: each for name, each in candidates.items() if each is not None}
    tensors = [tensor for tensor in found.weights if tensor.name in scales]
    progress.stage("scaling rows and columns", sum(tensor.size_bytes for tensor in tensors))
    facts = {tensor.name: look_at(reader, tensor, progress)[0] for tensor in tensors}
    taken = quotas(found.weights)
    samples = {tensor.name: sample_of(reader, tensor, taken[tensor.name]) for tensor in tensors}
    found = replace(found, samples=found.samples | samples, scales=scales)
    return replace(survey, facts=survey.facts | facts), found


def scales_for(reader: Reader, tensor: StoredTensor, facts: Facts) -> Scales | None:
    """Scales of a tensor of finite weights, or None where they do not pay: in vectors, in small matrices,
    and in those that may have a basis.
    """
    shape = tensor.shape
    if len(shape) < 2 or tensor.count < LEAST_WEIGHTS * (shape[0] + shape[1]) or tensor.dtype.is_float8:
        return None
    if tensor.row_length > BLOCK or (len(shape) == 2 and is_tall(*shape)) or not facts.mean_square:
        return None
    rows, columns = np.zeros(shape[0]), np.zeros(shape[1])
    for start, stop in blocks_of(tensor, tensor.row_length):
        block = reader.values(tensor, start, stop).reshape(-1, shape[1], tensor.row_length // shape[1])
        first = start // tensor.row_length
        squares = np.square(block).mean(axis=2)
        rows[first : first + len(block)] = squares.mean(axis=1)
        columns += squares.sum(axis=0)
    scales = Scales(rows=_exponents(rows, ROW_POWER), columns=_exponents(columns / shape[0], COLUMN_POWER))
    is_even = len({*scales.rows.tolist()}) == len({*scales.columns.tolist()}) == 1
    return scales if not is_even and scales.suit(facts.largest, LARGEST[tensor.dtype]) else None


def _exponents(squares: Floats, power: float) -> NDArray[np.int8]:
    """Exponents for rows of these mean squares; on average the weights remain as large as they were."""
    sizes = np.sqrt(np.where(squares > 0, squares, squares.mean()) / squares.mean())
    scales = sizes**power
    scales *= np.sqrt(np.mean(np.square(sizes / scales)))
    return exponents_of(scales)
