"""The λ whose file just fits a budget: estimated from a sample, then corrected by what complete files take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from metaq.compression.rates import COARSEST, FINEST, RateModel
from metaq.compression.work import WorkFolder
from metaq.errors import ConfigError

RECORD = "tries.json"
MARGIN = 0.006
"""Share of the budget that is left free at first, as estimates are about that good."""

CLOSE = 0.98
"""A file of this share of the budget is close enough."""

MAX_TRIES = 8
NUDGE = 1.1
"""Factor on λ where the estimate has nothing more to tell."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """A λ that was tried.

    Attributes
    ----------
    number
        Counted from 0.
    multiplier
        λ.
    file_bytes, fixed_bytes
        Size of the file, and what of it does not depend on λ; 0 until they are known.
    """

    number: int
    multiplier: float
    file_bytes: int = 0
    fixed_bytes: int = 0


class Tries:
    """What was tried so far for a budget of `limit` bytes; of the files that fit, the largest is kept.

    Parameters
    ----------
    work
        Where it is kept.
    rates
        The estimate.
    limit
        Most bytes.
    """

    def __init__(self, work: WorkFolder, rates: RateModel, limit: int) -> None:
        self._work = work
        self._rates = rates
        self._limit = limit
        self._tries = [
            Try(number=number, multiplier=float.fromhex(multiplier), file_bytes=file_bytes, fixed_bytes=fixed_bytes)
            for number, (multiplier, file_bytes, fixed_bytes) in enumerate(work.read(RECORD) or [])
        ]

    def next(self, fixed_bytes: Callable[[], int]) -> Try | None:
        """The next try, or None if one is good enough.

        Parameters
        ----------
        fixed_bytes
            Estimates what does not depend on λ.

        Raises
        ------
        ConfigError
            If no file can be that small.
        """
        if self._tries and not self._tries[-1].file_bytes:
            return self._tries[-1]
        multiplier = self._following() if self._tries else self._first(fixed_bytes())
        if multiplier is None:
            return None
        self._tries.append(Try(number=len(self._tries), multiplier=multiplier))
        self._keep()
        return self._tries[-1]

    def finish(self, current: Try, file_bytes: int, fixed_bytes: int) -> None:
        """Take down the size of the file of `current`."""
        self._tries[current.number] = Try(
            number=current.number, multiplier=current.multiplier, file_bytes=file_bytes, fixed_bytes=fixed_bytes
        )
        self._keep()
        fitting = self._fitting()
        for other in self._tries:
            if not fitting or other.number != max(fitting, key=_size).number:
                self._work.remove_attempt(other.number)

    def best(self) -> Try:
        """The largest file that fits.

        Raises
        ------
        ConfigError
            If none does.
        """
        fitting = self._fitting()
        if not fitting:
            smallest = min(self._tries, key=_size)
            raise self._impossible(smallest.file_bytes, smallest.fixed_bytes)
        return max(fitting, key=_size)

    def _first(self, fixed_bytes: int) -> float:
        if fixed_bytes >= self._limit:
            raise self._impossible(fixed_bytes, fixed_bytes)
        return self._rates.multiplier_for(max((1 - MARGIN) * self._limit - fixed_bytes, 1))

    def _following(self) -> float | None:
        """λ of the next try, or None if no more are needed or possible."""
        fitting = self._fitting()
        finest = min((each.multiplier for each in fitting), default=math.inf)
        largest = max((each.file_bytes for each in fitting), default=0)
        if len(self._tries) >= MAX_TRIES or largest >= CLOSE * self._limit or finest <= NUDGE * FINEST:
            return None
        coarsest = max((each.multiplier for each in self._tries if each not in fitting), default=0.0)
        if coarsest >= COARSEST / NUDGE:
            return None
        last = self._tries[-1]
        ratio = (last.file_bytes - last.fixed_bytes) / max(self._rates.size_bytes(last.multiplier), 1)
        room = (1 - MARGIN) * self._limit - last.fixed_bytes
        if room <= 0:
            return None
        wanted = self._rates.multiplier_for(room / max(ratio, 1e-3))
        if coarsest < wanted < finest:
            return wanted
        if coarsest and math.isfinite(finest):
            return math.sqrt(coarsest * finest)
        return coarsest * NUDGE if coarsest else finest / NUDGE

    def _fitting(self) -> list[Try]:
        return [each for each in self._tries if 0 < each.file_bytes <= self._limit]

    def _keep(self) -> None:
        self._work.write(RECORD, [[each.multiplier.hex(), each.file_bytes, each.fixed_bytes] for each in self._tries])

    def _impossible(self, file_bytes: int, fixed_bytes: int) -> ConfigError:
        return ConfigError(
            f"target_bytes: no file of {self._limit:,} bytes can be made of this folder: the smallest has "
            f"{file_bytes:,} bytes or more, {fixed_bytes:,} of them for what is kept exactly; allow more bytes."
        )


def _size(each: Try) -> int:
    return each.file_bytes
