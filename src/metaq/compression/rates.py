"""About how many bytes a folder takes for some λ, known before it is coded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.compression.planning import DEFAULT_MULTIPLIER, Choice, Rule
from metaq.compression.survey import Survey
from metaq.model.stored import StoredTensor
from metaq.quantize.blocks import learn, own_classes
from metaq.quantize.rotation import BASIS_BITS

Floats = NDArray[np.float64]

FINEST, COARSEST = 1e-10, 1e3
"""λ between which a budget is looked for: steps of about 1e-4 of the weights' size, and hardly any weight left."""

EXCESS = {"small": 1.02, "fast": 1.045}
"""What coders take beyond the code lengths that are learned from a sample, about, by their names."""

TOLERANCE = 2e-3
MAX_STEPS = 12
WIDENING = 16.0


class RateModel:
    """Estimated bytes of the quantised tensors for any λ.

    Parameters
    ----------
    tensors, survey, rule
        The tensors, and how they are quantised.
    coder
        What codes them.
    samples
        Some rows of every tensor, float64 (n, columns), by name.
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

    def size_bytes(self, multiplier: float) -> float:
        """The estimate for λ = `multiplier`."""
        if multiplier not in self._known:
            choices = self._rule.choices(multiplier)
            bits = sum(tensor.count * self._bits(tensor, choices[tensor.name]) for tensor in self._tensors)
            used = {choice.axes for choice in choices.values() if choice.axes is not None}
            bits += sum(BASIS_BITS * self._survey.axes[number].basis.size ** 2 for number in used)
            self._known[multiplier] = self._excess * bits / 8
        return self._known[multiplier]

    def multiplier_for(self, size_bytes: float) -> float:
        """The λ for which the estimate is about `size_bytes`, between ``FINEST`` and ``COARSEST``.

        Bytes fall with λ; logarithms of both are interpolated.
        """
        low, high = self._bracket(size_bytes)
        for number in range(MAX_STEPS):
            sizes = [math.log(max(self.size_bytes(end), 1)) for end in (low, high)]
            if sizes[0] <= sizes[1]:
                break
            share = (sizes[0] - math.log(size_bytes)) / (sizes[0] - sizes[1])
            # Interpolation alone creeps where the curve bends; every third step halves the range.
            share = 0.5 if number % 3 == 2 else min(max(share, 0.0), 1.0)
            guess = math.exp((1 - share) * math.log(low) + share * math.log(high))
            found = self.size_bytes(guess)
            if abs(found - size_bytes) <= TOLERANCE * size_bytes:
                return guess
            low, high = (guess, high) if found > size_bytes else (low, guess)
        return high

    def _bracket(self, size_bytes: float) -> tuple[float, float]:
        """Two λ, one for more bytes and one for fewer; both the same at the end of the range."""
        low = high = DEFAULT_MULTIPLIER
        while self.size_bytes(low) < size_bytes:
            if low <= FINEST:
                return FINEST, FINEST
            low, high = max(low / WIDENING, FINEST), low
        while self.size_bytes(high) > size_bytes:
            if high >= COARSEST:
                return COARSEST, COARSEST
            low, high = high, min(high * WIDENING, COARSEST)
        return low, high

    def _bits(self, tensor: StoredTensor, choice: Choice) -> float:
        """Bits a weight."""
        sample = self._samples[tensor.name]
        if choice.axes is not None:
            sample = sample @ self._survey.axes[choice.axes].inverse
        fineness = choice.fineness(float(np.abs(sample).max()))
        return learn([(sample, own_classes(sample, fineness.step_size))], fineness).bits_per_weight
