"""The simil-knapsack problem of METHOD, section 1: what goes in, what comes out.

    κ_ξ(w) = min { Σ_b ξ_b x_b : Σ_b v_b x_b = w, Σ_b x_b = 1, x ≥ 0 }                      for every weight w

With a δ, mass on zero is free and every other bucket costs δ less (pruning):

    κ_ξ,δ(w) = min { Σ_b (ξ_b - δ) x_b : Σ_b v_b x_b = w, Σ_b x_b ≤ 1, x ≥ 0 }

The second is the first over the points (v_b, ξ_b - δ) and (0, 0): the slack of Σ_b x_b ≤ 1 is the share of (0, 0). All
solvers therefore work on *points*, and their multipliers are those of the points' problem.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq.config import require

FREE_ZERO = -1
"""Index that stands for the free zero of the δ variant, which is no bucket."""

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnapsackSolution:
    """Solution of the simil-knapsack problem for every weight; tensors on the device and of the shape of the weights.

    A weight on a bucket that is a breakpoint has share 1 there, whichever of `left` and `right` that bucket is.

    Attributes
    ----------
    left, right
        Buckets that hold the weight, ``v_left <= w <= v_right``, int64; :data:`FREE_ZERO` for the free zero. The
        two may be the same bucket.
    left_share, right_share
        x of these buckets, float64, non-negative with sum 1.
    values
        κ of every weight, float64.
    beta
        Multiplier of Σ_b v_b x_b = w with the sign of dκ/dw, float64, in units of ξ per unit of weight: the slope of
        the hull's edge to the right of the weight; on the last vertex, of the edge to its left.
    beta_low, beta_high
        Ends of the interval of all optimal β, float64: dκ/dw from the left and from the right. They are equal away
        from breakpoints; on the first vertex `beta_low` is -inf, on the last one `beta_high` is +inf.
    objective
        Σ of `values`.
    iterations
        Greatest number of iterations any weight took.
    converged
        Whether every weight is solved.
    """

    left: Tensor
    right: Tensor
    left_share: Tensor
    right_share: Tensor
    values: Tensor
    beta: Tensor
    beta_low: Tensor
    beta_high: Tensor
    objective: float
    iterations: int
    converged: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Checked input: weights, float64 of shape (n,) within the range of the points, on their device; their old shape;
    and P = C or C + 1 points in increasing order on the CPU, each with its bucket or :data:`FREE_ZERO`."""

    weights: Tensor
    shape: torch.Size
    abscissae: NDArray[np.float64]
    ordinates: NDArray[np.float64]
    buckets: NDArray[np.int64]

    def points_on_device(self) -> tuple[Tensor, Tensor]:
        """Abscissae and ordinates where the weights are, float64 of shape (P,) each."""
        points = torch.from_numpy(np.stack([self.abscissae, self.ordinates])).to(self.weights.device)
        return points[0], points[1]

    def solution(
        self, *, left: Tensor, right: Tensor, beta_low: Tensor, beta_high: Tensor, iterations: int, converged: bool
    ) -> KnapsackSolution:
        """The record for weights held by the points `left` and `right` (int64 of shape (n,)), multipliers as given."""
        v, xi = self.points_on_device()
        buckets = torch.from_numpy(self.buckets).to(self.weights.device)
        share = ((self.weights - v[left]) / (v[right] - v[left])).masked_fill_(left == right, 0.0)
        values = (1 - share) * xi[left] + share * xi[right]
        return KnapsackSolution(
            left=buckets[left].view(self.shape),
            right=buckets[right].view(self.shape),
            left_share=(1 - share).view(self.shape),
            right_share=share.view(self.shape),
            values=values.view(self.shape),
            beta=torch.where(beta_high.isinf(), beta_low, beta_high).view(self.shape),
            beta_low=beta_low.view(self.shape),
            beta_high=beta_high.view(self.shape),
            objective=float(values.sum()),
            iterations=iterations,
            converged=converged,
        )


def make_problem(weights: Tensor, reference_values: Tensor, xi: Tensor, *, delta: float | None) -> Problem:
    """Check the arguments that all solvers share and form the points; one transfer of 2 C numbers to the CPU."""
    _check_tensors(weights, reference_values, xi)
    v, ordinates = torch.stack([reference_values.detach(), xi.detach()]).double().cpu().numpy()
    require(bool(np.isfinite(v).all()), "reference_values: NaN or infinity found; all must be finite.")
    require(bool(np.isfinite(ordinates).all()), "xi: NaN or infinity found; all must be finite.")
    require(
        bool((np.diff(v) > 0).all()),
        "reference_values: must be strictly increasing; sort them and drop repeated values, with their xi.",
    )
    buckets = np.arange(v.size, dtype=np.int64)
    if delta is not None:
        require(math.isfinite(delta), f"delta: {delta} is not a finite number.")
        v, ordinates, buckets = _with_free_zero(v, ordinates - delta, buckets)
    flat = weights.detach().reshape(-1).double().clamp(v[0], v[-1])
    return Problem(weights=flat, shape=weights.shape, abscissae=v, ordinates=ordinates, buckets=buckets)


def _check_tensors(weights: Tensor, reference_values: Tensor, xi: Tensor) -> None:
    for name, tensor in (("weights", weights), ("reference_values", reference_values), ("xi", xi)):
        require(
            tensor.dtype in FLOATING,
            f"{name}: dtype {tensor.dtype} given; float16, bfloat16, float32 or float64 is needed.",
        )
        require(
            tensor.device == weights.device,
            f"{name}: on {tensor.device}, but weights are on {weights.device}; move them to one device.",
        )
    require(weights.numel() > 0, "weights: no weight given; one at least is needed.")
    require(
        reference_values.dim() == 1 and len(reference_values) >= 2,
        f"reference_values: shape {tuple(reference_values.shape)} given; (C,) with C >= 2 is needed.",
    )
    for what, given, needed in (
        ("shape", tuple(xi.shape), tuple(reference_values.shape)),
        ("dtype", xi.dtype, reference_values.dtype),
    ):
        require(given == needed, f"xi: {what} {given} given; that of reference_values, {needed}, is needed.")
    require(bool(torch.isfinite(weights).all()), "weights: NaN or infinity found; all must be finite.")


def _with_free_zero(
    v: NDArray[np.float64], ordinates: NDArray[np.float64], buckets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The points with (0, 0) among them; of it and a bucket on zero the lower one stays, if equal the bucket."""
    place = int(np.searchsorted(v, 0.0))
    if place < v.size and v[place] == 0.0:
        if ordinates[place] > 0.0:
            ordinates[place], buckets[place] = 0.0, FREE_ZERO
        return v, ordinates, buckets
    return np.insert(v, place, 0.0), np.insert(ordinates, place, 0.0), np.insert(buckets, place, FREE_ZERO)
