"""The smallest file of a wanted quality, found by making files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

CLOSE = 1.02
"""Sizes over each other at which a search ends."""

FIRST = 0.9
"""Size asked of the first file over the peer's."""

STRIDE = 1.25
"""Between sizes while there is no bracket."""

MARGIN = 0.15
"""Share of the bracket, in logarithms, that is kept off its ends."""

PERFECT = 1e-12
"""What a score is short of 1 at least, for logarithms."""


@dataclass
class Curve:
    """Files of one way made so far, rows with "bytes" and "score"; `measure` makes one of at most so many bytes.

    It gives None where no file is so small. A file may be smaller than it was asked to be; "asked" says what was asked.
    """

    measure: Callable[[int], Row | None]
    rows: list[Row] = field(default_factory=list)
    too_small_bytes: int = 0

    def smallest(self, score: float) -> Row | None:
        """The smallest file made so far that is good enough."""
        return min((row for row in self.rows if row["score"] >= score), key=lambda row: row["bytes"], default=None)

    def search(self, score: float, start_bytes: int, *, probes: int) -> None:
        """Make files until the smallest good one is known within ``CLOSE``, or `probes` have been made."""
        for _ in range(probes):
            good = self.smallest(score)
            bad = self._largest_bad(score)
            floor = self.too_small_bytes if bad is None else bad["asked"]
            if good is not None and good["bytes"] <= CLOSE * floor:
                return
            self._make(round(self._size(good, bad, score, start_bytes)))

    def _make(self, asked: int) -> None:
        row = self.measure(asked)
        if row is None:
            self.too_small_bytes = max(self.too_small_bytes, asked)
        else:
            self.rows.append({**row, "asked": asked})

    def _largest_bad(self, score: float) -> Row | None:
        good = self.smallest(score)
        limit = math.inf if good is None else good["bytes"]
        worse = [row for row in self.rows if row["score"] < score and row["bytes"] < limit]
        return max(worse, key=lambda row: row["asked"], default=None)

    def _size(self, good: Row | None, bad: Row | None, score: float, start_bytes: int) -> float:
        """What to ask of the next file: 1 - score is about a power of the size between two files."""
        if good is None:
            return FIRST * start_bytes if bad is None else max(STRIDE * bad["asked"], FIRST * start_bytes)
        if bad is None:
            return max(good["bytes"] / STRIDE, math.sqrt(max(self.too_small_bytes, 1) * good["bytes"]))
        losses = [math.log(max(1 - value, PERFECT)) for value in (bad["score"], score, good["score"])]
        share = (losses[0] - losses[1]) / (losses[0] - losses[2])
        share = min(max(share, MARGIN), 1 - MARGIN)
        return float(bad["asked"] ** (1 - share) * good["bytes"] ** share)


def on_front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in size without being worse."""

    def beats(other: Row, row: Row) -> bool:
        is_no_worse = other["bytes"] <= row["bytes"] and other["score"] >= row["score"]
        return is_no_worse and (other["bytes"], other["score"]) != (row["bytes"], row["score"])

    return [row for row in rows if not any(beats(other, row) for other in rows)]
