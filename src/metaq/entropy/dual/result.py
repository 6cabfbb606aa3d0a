"""What every dual solver hands back, and when it stops."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.config import require
from metaq.entropy.dual.primal import attainable_counts
from metaq.entropy.dual.problem import SpreadDual, Sums, evaluate_parts
from metaq.entropy.hull import cell_slopes

Status = Literal["converged", "iteration limit", "infeasible"]

CHECK_EVERY = 10
"""Steps between two looks at the gap."""


def check_limits(tolerance: float, max_iterations: int) -> None:
    """Refuse a tolerance or an iteration cap outside its range."""
    require(tolerance > 0, f"tolerance: {tolerance} is not positive.")
    require(max_iterations >= 1, f"max_iterations: {max_iterations} is below 1.")


@compiled
def gap_is_closed(step: int, value: float, wanted: NDArray[np.float64], sums: Sums, tolerance: float) -> bool:
    """Whether attainable counts near `wanted` prove `value` within `tolerance` bits; looks every so many steps, never
    for a negative tolerance."""
    if tolerance < 0 or (step + 1) % CHECK_EVERY:
        return False
    return bool(attainable_counts(wanted, sums.s, sums.c_min, sums.c_max)[1] - value <= tolerance)


@dataclass(frozen=True, kw_only=True, eq=False)
class DualResult:
    """The best dual point that was found, and how far from the optimum it can be at most.

    Attributes
    ----------
    xi
        Multipliers, one a bucket, float64 of shape (C,). φ grows by ξ_b per weight added to bucket b.
    value
        φ_w(ξ) in bits, a lower bound of the optimum Σ_b c_b log2 c_b.
    gap
        Upper bound of the optimum, from attainable counts near those of `xi`, less `value`; in bits, infinite if no
        such counts are known.
    counts
        Those attainable counts, float64 of shape (C,); None where `gap` is infinite.
    residual
        Σ_i x_ib - c*_b, float64 of shape (C,): a supergradient at `xi`. Where `xi` is a convex sequence the shares x of
        a weight are not unique, and x is the one whose counts are `counts`.
    slopes
        β on every cell, the derivative of φ in the weight, in bits per unit of weight; float64 of shape (C - 1,).
    iterations
        Steps of the solver.
    evaluations
        Evaluations of the dual function, those of line searches included.
    values
        Dual value after every step, in bits.
    status
        ``"converged"``: the gap is at most the tolerance, in bits per weight. ``"iteration
        limit"``: it is not, and the cap was met. ``"infeasible"``: no attainable counts respect the bound c_min, so
        that φ_w grows without limit.
    """

    xi: NDArray[np.float64]
    value: float
    gap: float
    counts: NDArray[np.float64] | None
    residual: NDArray[np.float64]
    slopes: NDArray[np.float64]
    iterations: int
    evaluations: int
    values: tuple[float, ...]
    status: Status

    @property
    def converged(self) -> bool:
        """Whether the gap is within the tolerance."""
        return self.status == "converged"


def best_counts(
    problem: SpreadDual, wanted: NDArray[np.float64], also: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], float]:
    """Attainable counts near `wanted` or `also`, whichever are better, and their value in bits."""
    s = problem.statistics.linear_binning()
    candidates = [attainable_counts(c, s, *problem.count_bounds) for c in (wanted, also) if c is not None]
    return min(candidates, key=lambda candidate: candidate[1])


def proves_infeasible(problem: SpreadDual, value: float) -> bool:
    """Whether a dual value exceeds what any n weights can reach, n log2 n."""
    n = problem.statistics.total
    limit = n * np.log2(max(n, 1.0))
    return bool(value > limit + 1e-9 * max(1.0, abs(limit)))


def make_result(
    problem: SpreadDual,
    xi: NDArray[np.float64],
    *,
    values: Iterable[float],
    evaluations: int,
    tolerance: float,
    convex: bool = False,
    infeasible: bool = False,
    also: NDArray[np.float64] | None = None,
) -> DualResult:
    """Measure the dual point `xi`.

    `convex`: shares are chosen to go with the attainable counts, since `xi` is a convex sequence. `infeasible`: the
    bounds are known to be out of reach. `also`: further attainable counts, which serve for the gap if they are better.
    """
    statistics = problem.statistics
    value, on_buckets, wanted = evaluate_parts(xi, problem.sums)
    counts, upper = best_counts(problem, wanted, also)
    known = bool(np.isfinite(upper))
    trace = tuple(float(v) for v in values)
    if infeasible or proves_infeasible(problem, value):
        status: Status = "infeasible"
    else:
        status = "converged" if upper - value <= tolerance * statistics.total else "iteration limit"
    return DualResult(
        xi=xi,
        value=float(value),
        gap=max(float(upper - value), 0.0),
        counts=counts if known else None,
        residual=(counts if convex and known else on_buckets) - wanted,
        slopes=cell_slopes(statistics.grid.reference_values(), xi),
        iterations=len(trace),
        evaluations=evaluations,
        values=trace,
        status=status,
    )
