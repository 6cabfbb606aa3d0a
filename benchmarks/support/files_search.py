"""Files of metaq whose outputs err as much as another way's, found by how errors are traded for bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaq.compression.compressed import Goal
from metaq.compression.uncalibrated import Request, UncalibratedModel
from metaq.compression.work import WorkFolder
from metaq.container import DEFAULT_CODER
from metaq.model.opened import OpenedModel
from metaq.model.selection import select
from metaq.model.stored import Reader
from metaq.progress import NoProgress

Row = dict[str, Any]

CLOSE = 1.05
"""Multipliers over each other at which a search ends: files differ by 0.04 bits per weight."""

MARGIN = 0.1
"""Share of the bracket, in logarithms, that is kept off its ends."""

CAUTION = 0.93
"""By this a guess without a bracket is smaller, so that the file is good enough; the next one is as much larger."""

USUAL_POWER, POWERS = 0.7, (0.4, 1.2)
"""Of the multiplier, that 1 - score grows by: 1 of what is about squares of errors, a half of sizes."""

MOST_STEPS = 1 << 14
"""Multipliers over each other from one guess to the next, at most."""

PERFECT = 1e-12
"""What a score is short of 1 at least, for logarithms."""


@contextmanager
def maker(model: OpenedModel, out: Path) -> Iterator[Callable[[float], None]]:
    """What writes the file for a multiplier, as ``metaq compress`` does for the one that its goal leads it to."""
    request = Request(model, select(model), Goal(), None, DEFAULT_CODER, {}, NoProgress())
    with Reader() as reader, WorkFolder(out, {}) as work:
        quantised = UncalibratedModel(request, reader, work)

        def make(multiplier: float) -> None:
            quantised.at(out, multiplier)

        yield make


@dataclass
class Search:
    """Files made so far, rows with "multiplier", "bytes" and "score"; `measure` makes one for a multiplier."""

    measure: Callable[[float], Row]
    rows: list[Row]

    def smallest(self, score: float) -> Row | None:
        """The smallest file that is good enough."""
        return min((row for row in self.rows if row["score"] >= score), key=lambda row: row["bytes"], default=None)

    def run(self, score: float, *, probes: int) -> None:
        """Make files until the smallest good one is about known, or `probes` have been made."""
        for _ in range(probes):
            good = [row for row in self.rows if row["score"] >= score]
            best = max(good, key=multiplier_of, default=None)
            worse = [row for row in self.rows if row["score"] < score]
            if best is not None:
                worse = [row for row in worse if multiplier_of(row) > multiplier_of(best)]
            worst = min(worse, key=multiplier_of, default=None)
            if best and worst and multiplier_of(worst) <= CLOSE * multiplier_of(best):
                return
            self.rows.append(self.measure(self._next(score, best, worst)))

    def _next(self, score: float, good: Row | None, bad: Row | None) -> float:
        """1 - score is about a power of the multiplier: between two files the one that they tell, else as before."""
        if good is None or bad is None:
            known = good or bad
            assert known is not None
            steps = CAUTION * (loss_of(score) / loss_of(known["score"])) ** (1 / self._power())
            least = 1 / MOST_STEPS if good is None else CAUTION**-2
            return float(multiplier_of(known) * min(max(steps, least), MOST_STEPS))
        low, wanted, high = (math.log(loss_of(value)) for value in (good["score"], score, bad["score"]))
        part = min(max((wanted - low) / (high - low) - MARGIN, MARGIN), 1 - MARGIN)
        return float(multiplier_of(good) ** (1 - part) * multiplier_of(bad) ** part)

    def _power(self) -> float:
        """By what power of the multiplier 1 - score grows, from the two files of most bits."""
        finest = sorted(self.rows, key=multiplier_of)[:2]
        if len(finest) < 2 or multiplier_of(finest[0]) == multiplier_of(finest[1]):
            return USUAL_POWER
        losses = [math.log(loss_of(row["score"])) for row in finest]
        found = (losses[1] - losses[0]) / math.log(multiplier_of(finest[1]) / multiplier_of(finest[0]))
        return min(max(found, POWERS[0]), POWERS[1])


def multiplier_of(row: Row) -> float:
    """The multiplier of a file."""
    return float(row["multiplier"])


def loss_of(score: float) -> float:
    """What a score is short of 1."""
    return max(1 - score, PERFECT)
