"""What the regulariser depends on: buckets, schedule, freezing."""

import dataclasses
import math
from typing import Literal

from metaq.config import Config, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketConfig(Config):
    """Where the buckets of a group lie.

    Attributes
    ----------
    rule
        ``"relative"``: centre 0 and a step of `step_scale` times the root mean square of the group's weights when the
        term sets in. ``"fixed"``: `center`, `radius` and `count` as given, as in the thesis.
    count
        Number of buckets C; odd for ``"relative"``, so that zero is a reference value.
    step_scale
        Step size over the root mean square of the weights.
    center, radius
        Middle and half-width of the range for ``"fixed"``, in units of weight.
    """

    rule: Literal["relative", "fixed"] = "relative"
    count: int = 255
    step_scale: float = 1.0
    center: float = 0.0
    radius: float = 1.0

    def __post_init__(self) -> None:
        require(self.count >= 2, f"buckets.count: {self.count} is below 2; a grid needs two buckets at least.")
        require(math.isfinite(self.center), f"buckets.center: {self.center} is not a finite number.")
        require(self.radius > 0 and math.isfinite(self.radius), f"buckets.radius: {self.radius} is not positive.")
        require(
            self.rule == "fixed" or self.count % 2 == 1,
            f"buckets.count: {self.count} must be odd for rule=relative.",
        )
        require(self.step_scale > 0 and math.isfinite(self.step_scale), "buckets.step_scale: must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezeConfig(Config):
    """When weights that keep flipping between two buckets are fixed at the one they average to.

    Attributes
    ----------
    start
        Share of all steps after which freezing sets in; 1 never freezes.
    first_threshold, last_threshold
        Flips per step above which a weight is frozen, from the start of freezing to the end of training
        (geometric in between).
    """

    start: float = 0.5
    first_threshold: float = 0.04
    last_threshold: float = 0.002

    def __post_init__(self) -> None:
        require(0 <= self.start <= 1, f"freeze.start: {self.start} is not between 0 and 1.")
        require(
            0 < self.last_threshold <= self.first_threshold,
            "freeze.last_threshold: must be positive and at most freeze.first_threshold.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegularizerConfig(Config):
    """Everything the term λ (α R(w) + (1 - α) φ(w)) depends on (METHOD, equation 1).

    Attributes
    ----------
    objective
        ``"code_length"`` lowers the bits of the file; ``"spread"`` is the thesis's own problem.
    rate_model
        What code lengths come from: ``"histogram"``, one a group, of zero order; ``"context"``, for the first step from
        zero also the model by which the context coder codes each weight, asked every 25 steps whatever `refresh_every`
        is (see :mod:`metaq.regularizer.context_prices`). The latter needs ``objective="code_length"``,
        ``grouping="tensor"`` and ``buckets.rule="relative"``.
    strength
        Greatest λ: loss units per bit; for study, in the place of a goal.
    alpha
        Share α of the plain regulariser R in [0, 1].
    norm
        R: sum of squares (``"l2"``) or of absolute values (``"l1"``).
    grouping
        One grid and one table for every tensor, or one for all (``"global"``, as in the thesis).
    include, exclude
        Name globs of the parameters that take part.
    buckets
        The grid.
    forward
        ``"quantized"``: between two steps the model holds the weights snapped to their buckets and gradients pass
        straight through to the latent weights kept here. ``"float"``: the model is left as it is.
    warmup, ramp
        Shares of all steps: before `warmup` nothing is done; over the following `ramp`, λ grows geometrically from
        `ramp_start` times its value to it; over the rest it falls geometrically to `decay_end` times it.
    ramp_start, decay_end
        First and last λ over its greatest value `strength`.
    refresh_every
        Steps between two refreshes of the slopes.
    hysteresis
        In [0, 1): slopes are (1 + h) times as steep on the half of a cell nearer the attractor and (1 - h) times on the
        other, so that a weight on its way out leaves and one on its way in is not dragged back.
    step_learning_rate
        Largest learning rate of the logarithm of every group's step size, by which its weights are scaled too; 0 to
        leave it as it was chosen. No step scales by more than the optimiser moves the weights, relative to their
        length. It falls linearly to a tenth once freezing sets in. Only with ``forward="quantized"`` and
        ``buckets.rule="relative"``.
    freeze
        Freezing of oscillating weights; only with ``forward="quantized"``.
    led_by
        What keeps the bits on their path to a goal: ``"step"``, the step sizes; or ``"strength"``, λ, where a long
        training is to leave nearly all weights at zero, unless the goal is a size of more than a bit a weight.
    fista_iterations, fista_zeta_per_weight
        For ``"spread"``, whose dual some steps of FISTA solve, as in the thesis: evaluations per refresh and reciprocal
        step size over n.
    """

    objective: Literal["code_length", "spread"] = "code_length"
    rate_model: Literal["histogram", "context"] = "histogram"
    strength: float | None = None
    alpha: float = 0.0
    norm: Literal["l2", "l1"] = "l2"
    grouping: Literal["tensor", "global"] = "tensor"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    buckets: BucketConfig = BucketConfig()
    forward: Literal["quantized", "float"] = "quantized"
    warmup: float = 0.15
    ramp: float = 0.35
    ramp_start: float = 0.4
    decay_end: float = 0.2
    refresh_every: int = 25
    hysteresis: float = 0.6
    step_learning_rate: float = 1e-3
    freeze: FreezeConfig = FreezeConfig()
    led_by: Literal["step", "strength"] = "step"
    fista_iterations: int = 15
    fista_zeta_per_weight: float = 2.25

    def __post_init__(self) -> None:
        fits = self.strength is None or 0 <= self.strength < math.inf
        require(fits, f"strength: {self.strength} is not a finite number from 0 upwards.")
        for name in ("include", "exclude"):
            globs = getattr(self, name)
            require(not isinstance(globs, str), f"{name}: {globs!r} is no tuple of name globs; give ({globs!r},).")
        require(0 <= self.alpha <= 1, f"alpha: {self.alpha} is not between 0 and 1.")
        for name in ("warmup", "hysteresis", "step_learning_rate"):
            require(0 <= getattr(self, name) < 1, f"{name}: {getattr(self, name)} is not in [0, 1).")
        for name in ("ramp_start", "decay_end"):
            require(0 < getattr(self, name) <= 1, f"{name}: {getattr(self, name)} is not in (0, 1].")
        require(0 <= self.ramp <= 1 - self.warmup, f"ramp: {self.ramp} does not fit after the warm-up.")
        require(self.refresh_every >= 1, f"refresh_every: {self.refresh_every} is below 1.")
        priced = self.objective == "code_length" and self.grouping == "tensor" and self.buckets.rule == "relative"
        require(
            priced or self.rate_model == "histogram",
            'rate_model="context": needs objective="code_length", grouping="tensor" and buckets.rule="relative".',
        )
        require(self.fista_iterations >= 1, f"fista_iterations: {self.fista_iterations} is below 1.")
        require(self.fista_zeta_per_weight > 0, "fista_zeta_per_weight: must be positive.")
