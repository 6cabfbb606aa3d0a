"""About how many bytes a model takes for some λ, known before it is coded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.compression.planning import DEFAULT_MULTIPLIER, Plan, Rule
from metaq.compression.survey import Survey
from metaq.model.stored import StoredTensor
from metaq.quantize.blocks import learn
from metaq.quantize.rates import scale_classes
from metaq.quantize.rotation import BASIS_BITS

Floats = NDArray[np.float64]

EXCESS = {"small": 1.02, "fast": 1.045}
"""What coders take beyond the code lengths that are learned from a sample, about, by their names."""


class RateModel:
    """Estimated bytes of the quantised tensors for any λ; a :class:`metaq.compression.search.SizeEstimate`.

    `samples` are some rows of every tensor, float64 (n, columns), by name.
    """

    def __init__(
        self,
        tensors: Sequence[StoredTensor],
        survey: Survey,
        rule: Rule,
        samples: Mapping[str, Floats],
        *,
        coder: str,
    ) -> None:
        self._tensors = tensors
        self._survey = survey
        self._rule = rule
        self._samples = samples
        self._excess = EXCESS[coder]
        self._known: dict[float, float] = {}

    @property
    def usual(self) -> float:
        return DEFAULT_MULTIPLIER

    def size_bytes(self, multiplier: float) -> float:
        if multiplier not in self._known:
            plans = self._rule.plans(multiplier)
            bits = 0.0
            for tensor in self._tensors:
                plan = plans.get(tensor.name)
                bits += 8 * tensor.size_bytes if plan is None else tensor.count * self._bits(tensor, plan)
            used = {plan.axes for plan in plans.values() if plan.axes is not None}
            bits += sum(BASIS_BITS * self._survey.axes[number].basis.size ** 2 for number in used)
            self._known[multiplier] = self._excess * bits / 8
        return self._known[multiplier]

    def _bits(self, tensor: StoredTensor, plan: Plan) -> float:
        """Bits a weight."""
        sample = self._samples[tensor.name]
        if plan.axes is not None:
            sample = sample @ self._survey.axes[plan.axes].inverse
        fineness = plan.fineness(float(np.abs(sample).max()))
        return learn([(sample, scale_classes(sample, fineness.step_size))], fineness)[1]
