"""Entropy-constrained scalar quantisation: the code-length objective φ_μ (METHOD, equation 4).

    φ_μ(w) = min { Σ_i [ ℓ_b(i) + μ (w_i - v_b(i))² ] : Σ_b 2^-ℓ_b ≤ 1 }     over buckets b(i) and code lengths ℓ

For given code lengths a weight goes to the vertex of the lower hull of the points (v_b, ℓ_b + μ v_b²) whose edges have
slopes on either side of 2 μ w; for given buckets the best code lengths are ℓ_b = log2(n / c_b). Taking turns never
raises the objective (Chou, Lookabaugh and Gray, "Entropy-constrained vector quantization", IEEE Trans. ASSP 1989).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import require
from metaq.entropy.cells import bucket_indices, bucket_values
from metaq.entropy.dual.problem import C_MIN
from metaq.entropy.hull import lower_hull
from metaq.errors import NonFiniteError
from metaq.tensors.grid import BucketGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class Code:
    """Code lengths that stand still, and what they cost.

    Attributes
    ----------
    value_bits
        The objective in bits.
    code_bits
        Σ_b c_b log2(n / c_b), the zero-order entropy of the buckets, in bits.
    squared_distance
        The distortion Σ_i (w_i - v_b(i))², in squared units of weight.
    counts
        Weights in every bucket, float64 of shape (C,).
    code_lengths
        ℓ_b = log2(n / max(c_b, 0.01)) in bits, float64 of shape (C,); the next call may start from them.
    values
        Objective after every assignment of weights, in bits; it never rises.
    converged
        Whether a further assignment changes nothing; otherwise the cap on sweeps was met.
    """

    value_bits: float
    code_bits: float
    squared_distance: float
    counts: NDArray[np.float64]
    code_lengths: NDArray[np.float64]
    values: tuple[float, ...]
    converged: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class EcsqResult:
    """A code and what it means for every weight; tensors of the weights' shape, on their device.

    Attributes
    ----------
    code
        The code.
    indices
        Bucket of every weight, int64.
    beta
        ∂φ_μ/∂w = 2 μ (w - v_b), in bits per unit of weight, float64 (Danskin: buckets and code lengths may be held
        fixed). Descending along -β pulls weights towards cheap and near buckets.
    """

    code: Code
    indices: torch.Tensor
    beta: torch.Tensor


class _Assignment(NamedTuple):
    """Where weights go, how many to every bucket, and the sum of their squared distances from it."""

    indices: torch.Tensor
    counts: NDArray[np.float64]
    squared_distance: float


def solve_ecsq(
    weights: torch.Tensor,
    grid: BucketGrid,
    *,
    mu: float,
    code_lengths: NDArray[np.float64] | None = None,
    max_sweeps: int = 100,
) -> EcsqResult:
    """Find buckets and code lengths of a local minimum of φ_μ, no worse than nearest rounding with its own code.

    A weight on the threshold between two buckets goes to the upper one. A weight beyond the grid has its distance to
    the bucket it takes like any other.

    Parameters
    ----------
    weights
        Floating tensor of any shape, dtype and device, finite, not empty; computed with in float64.
    grid
        The buckets.
    mu
        μ, bits per squared unit of weight, above zero. Large: nearest rounding. Small: all in the cheapest bucket.
    code_lengths
        Where to start, float64 of shape (C,), finite; by default the ideal code of nearest rounding.
    max_sweeps
        Cap on the number of assignments.

    Returns
    -------
    EcsqResult

    Raises
    ------
    ConfigError, NonFiniteError
        If an argument has the wrong shape, dtype or range, or is not finite.

    Notes
    -----
    O(n log C) a sweep; no array of weights times buckets.

    References
    ----------
    Chou, Lookabaugh and Gray 1989.
    """
    require(math.isfinite(mu) and mu > 0, f"mu: {mu} is not a positive number.")
    require(max_sweeps >= 1, f"max_sweeps: {max_sweeps} is below 1.")
    if code_lengths is not None:
        shape = code_lengths.shape
        require(shape == (grid.count,), f"code_lengths: shape {shape} where {grid.count} lengths are needed.")
        require(bool(np.isfinite(code_lengths).all()), "code_lengths: holds NaN or infinity; all must be finite.")
    problem = _Problem(weights=_checked(weights), grid=grid, mu=mu)
    nearest = problem.assignment(bucket_indices(problem.weights, grid))
    ideal = _ideal_lengths(nearest.counts)
    code, found = _alternate(problem, ideal if code_lengths is None else code_lengths, max_sweeps)
    if code_lengths is not None and code.value_bits > problem.cost(nearest, ideal):
        code, found = _alternate(problem, ideal, max_sweeps)
    beta = 2 * mu * (problem.weights - bucket_values(found.indices, grid))
    return EcsqResult(code=code, indices=found.indices.reshape(weights.shape), beta=beta.reshape(weights.shape))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    weights: torch.Tensor
    grid: BucketGrid
    mu: float

    def assignment(self, indices: torch.Tensor) -> _Assignment:
        counts = torch.bincount(indices, minlength=self.grid.count).double().cpu().numpy()
        distance = float((self.weights - bucket_values(indices, self.grid)).square().sum())
        return _Assignment(indices, counts, distance)

    def best_assignment(self, lengths: NDArray[np.float64]) -> _Assignment:
        """Every weight at the hull's vertex that is best for it."""
        v, device = self.grid.reference_values(), self.weights.device
        buckets = lower_hull(v, lengths + self.mu * (v - self.grid.center) ** 2)
        left, right = buckets[:-1], buckets[1:]
        longer = lengths[right] - lengths[left]
        thresholds = (v[left] + v[right]) / 2 + longer / (2 * self.mu * (v[right] - v[left]))
        places = torch.bucketize(self.weights, torch.from_numpy(thresholds).to(device), right=True)
        return self.assignment(torch.from_numpy(buckets).to(device)[places])

    def cost(self, assignment: _Assignment, lengths: NDArray[np.float64]) -> float:
        """The objective in bits."""
        return float(assignment.counts @ lengths) + self.mu * assignment.squared_distance


def _ideal_lengths(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.log2(counts.sum() / np.maximum(counts, C_MIN))
    return lengths


def _alternate(problem: _Problem, start: NDArray[np.float64], max_sweeps: int) -> tuple[Code, _Assignment]:
    values: list[float] = []
    lengths, converged = start, False
    while not converged and len(values) < max_sweeps:
        found = problem.best_assignment(lengths)
        ideal = _ideal_lengths(found.counts)
        converged = bool((ideal == lengths).all())
        lengths = ideal
        values.append(problem.cost(found, lengths))
    held = found.counts[found.counts > 0]
    code = Code(
        value_bits=values[-1],
        code_bits=float(held @ np.log2(held.sum() / held)),
        squared_distance=found.squared_distance,
        counts=found.counts,
        code_lengths=lengths,
        values=tuple(values),
        converged=converged,
    )
    return code, found


def _checked(weights: torch.Tensor) -> torch.Tensor:
    require(weights.is_floating_point(), f"weights: dtype {weights.dtype} given; a floating one is needed.")
    require(weights.numel() > 0, "weights: no weight given; one at least is needed.")
    if not bool(torch.isfinite(weights).all()):
        raise NonFiniteError("weights: NaN or infinity found; all must be finite.")
    return weights.detach().reshape(-1).double()
