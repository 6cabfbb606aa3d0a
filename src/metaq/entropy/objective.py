"""What φ is: cell counts in, value in bits and slopes β out (METHOD, sections 1 to 3)."""

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.entropy.cells import CellStatistics, linear_binning
from metaq.entropy.dual.fista import ascend
from metaq.entropy.dual.problem import C_MIN, Sums, even_multipliers
from metaq.entropy.hull import cell_slopes

CHORD_SHARE = 0.7
"""Share of the mean rise since the attractor that a slope keeps at least."""

SMOOTHING = 0.125
"""Share of a magnitude's count that also counts for its neighbours, so that a lone empty bucket is no wall."""

PSEUDO_COUNT = 0.1
"""Count of a magnitude that nothing is near to: its code length stays finite and above that of a single weight."""

SIGN_BITS = 1.0

LEAST_FIRST_BITS = 2.0
"""Least price of leaving the attractor, so that weights come to it before it is popular."""

LEAST_STEP_BITS = 0.3
"""Least price of every further step."""


def code_length(statistics: CellStatistics) -> tuple[float, NDArray[np.float64]]:
    """Entropy of the linearly binned histogram: φ(w) = Σ_b s_b ℓ_b with ℓ_b = log2(n / s_b) (METHOD, section 3).

    Each weight is shared between its two neighbouring buckets; β is the slope between their code lengths, the exact
    derivative of φ wherever both hold any weight. Lowering φ lowers the bits of the file.

    Returns φ(w) in bits, and β = ∂φ/∂w on every cell in bits per unit of weight, float64 of shape (C - 1,).
    """
    s = statistics.linear_binning()
    code_lengths = np.log2(statistics.total / np.maximum(s, C_MIN))
    value_bits = float(s[s > 0] @ np.log2(statistics.total / s[s > 0]))
    return value_bits, np.diff(code_lengths) / statistics.grid.step_size


def spread_slopes(
    cell_counts: torch.Tensor,
    fractions: torch.Tensor,
    *,
    starts: torch.Tensor,
    step_sizes: torch.Tensor,
    iterations: int,
    zeta_per_weight: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """β of the thesis's problem for many groups, and multipliers to start from next time: the dual by FISTA.

    Minimising φ(w) = min Σ_b c_b log2 c_b *spreads* the weights over the buckets and raises the bits of a zero-order
    code (METHOD, section 2); it is here for study and comparison. A weight outside the range has the slope of the end
    cell.

    Parameters
    ----------
    cell_counts, fractions
        Cell counts and sums, float64 of shape (G, C - 1), on the CPU.
    starts
        Multipliers of the previous call, float64 of shape (G, C); NaN where there are none.
    step_sizes
        Distance between reference values, float64 of shape (G,).
    iterations
        Dual evaluations, O(C) each.
    zeta_per_weight
        Reciprocal of the step divided by n, so that the same number serves every n; the thesis has 2.25.

    Returns
    -------
    slopes, xi
        float64 of shapes (G, C - 1) and (G, C).
    """
    xi = np.empty(starts.shape)
    rows = zip(cell_counts.numpy(), fractions.numpy(), starts.numpy(), strict=True)
    for group, (counts, inside, start) in enumerate(rows):
        n, s = float(counts.sum()), linear_binning(counts, inside)
        first = even_multipliers(n, start.size, C_MIN) if np.isnan(start[0]) else start
        xi[group] = ascend(first, Sums(counts, inside, s, C_MIN, n), -np.inf, iterations, zeta_per_weight * n)[0]
    places = np.arange(xi.shape[1], dtype=np.float64)
    per_step = torch.from_numpy(np.stack([cell_slopes(places, row) for row in xi]))
    return per_step / step_sizes[:, None], torch.from_numpy(xi)


def magnitude_slopes(bucket_counts: torch.Tensor, *, attractor: int, step_size: torch.Tensor) -> torch.Tensor:
    """Slopes of interpolated code lengths that never trap a weight away from the attractor.

    The plain slope of :func:`code_length` is zero or points outward wherever the histogram is sparse, and weights get
    stuck in isolated buckets. Here a bucket costs the code length of its distance from the attractor plus a sign, and
    the price rises outward over every cell: by the increment of the smoothed code lengths, but at least by a fixed
    share of the mean rise so far. The constants of this module were chosen by experiment on validation data.

    `bucket_counts` are float64 of shape (..., C), every sum above zero, `attractor` is the index of the bucket that
    weights are drawn to, and `step_size` of shape (...). Returns float64 of shape (..., C - 1): bits per unit of weight
    on every cell, negative below the attractor, positive above it.
    """
    total = bucket_counts.sum(-1)[..., None]
    above, below = bucket_counts.shape[-1] - 1 - attractor, attractor
    magnitudes = torch.zeros_like(bucket_counts[..., : max(above, below) + 1])
    magnitudes[..., : above + 1] += bucket_counts[..., attractor:]
    magnitudes[..., 1 : below + 1] += bucket_counts[..., :attractor].flip(-1)
    smoothed = magnitudes + PSEUDO_COUNT
    smoothed[..., 1:-1] += SMOOTHING * magnitudes[..., 2:]
    smoothed[..., 2:] += SMOOTHING * magnitudes[..., 1:-1]
    price = torch.log2(total / smoothed)
    price[..., 1:] += SIGN_BITS
    increments = price[..., 1:] - price[..., :-1]
    distances = torch.ones_like(increments).cumsum(-1)
    mean_rise = (price[..., 1:] - price[..., :1]) / distances
    rise = torch.maximum(increments, CHORD_SHARE * mean_rise).clip(min=LEAST_STEP_BITS)
    rise[..., 0] = increments[..., 0].clip(min=LEAST_FIRST_BITS)
    slopes = torch.cat([-rise[..., :below].flip(-1), rise[..., :above]], -1)
    return slopes / step_size[..., None]


def half_cell_slopes(slopes: torch.Tensor, hysteresis: float, strength: float) -> torch.Tensor:
    """`strength` times β on both halves of every cell: float64 of shape (G, 2 (C - 1)); `slopes` of shape (G, C - 1).

    On the half nearer the attractor it is ``1 + hysteresis`` times as steep, on the other ``1 - hysteresis`` times.
    """
    steep, gentle = strength * ((1 + hysteresis) * slopes), strength * ((1 - hysteresis) * slopes)
    outward = slopes > 0
    halves = [torch.where(outward, steep, gentle), torch.where(outward, gentle, steep)]
    return torch.stack(halves, -1).reshape(len(slopes), -1)


def entropy_bits(bucket_counts: torch.Tensor) -> torch.Tensor:
    """Zero-order entropy in bits, one table a group, as a scalar; `bucket_counts` has shape (G, C)."""
    shares = bucket_counts / bucket_counts.sum(-1)[:, None]
    return -(bucket_counts * torch.log2(torch.where(shares > 0, shares, 1.0))).sum()
