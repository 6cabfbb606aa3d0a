"""Results of benchmarks/knob.py: one row per loop, seed, way and ratio, kept in a file, shown as a table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metaq.files import write_bytes

Row = dict[str, Any]
"""What came out of one run; "loop", "seed", "way" and "ratio" tell which."""

FLOAT, GOAL, FIGURE, POST_TRAINING, PRUNING, HAND = "float", "goal", "figure", "post-training", "pruning", "hand "
TO_A_RATIO = (GOAL, POST_TRAINING, PRUNING)
OTHERS = (POST_TRAINING, PRUNING)

EASY_RATIO = 8
LOSS_SHARE, ACCURACY_POINTS = 0.02, 0.5
"""How much worse than the float model still counts as equally good."""

ROOM_SHARE, ROOM_POINTS = 0.05, 0.5
"""What a training to a figure may lose on validation data."""

LEAST_SHARE = 0.97
"""Of a goal, which the file has to fill."""


class Rows:
    """Rows in a file, which is there again when the benchmark is started again; without a path, in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        is_there = path is not None and path.exists()
        self.all: list[Row] = json.loads(path.read_text())["rows"] if path is not None and is_there else []

    def find(self, loop: str, seed: int, way: str, ratio: float | None = None) -> Row | None:
        """The row of a finished run."""
        wanted = (loop, seed, way, ratio)
        return next((row for row in self.all if (row["loop"], row["seed"], row["way"], row["ratio"]) == wanted), None)

    def add(self, row: Row) -> None:
        """Keep a row from now on, whatever happens next."""
        self.all.append(row)
        if self._path is not None:
            write_bytes(self._path, (json.dumps({"rows": self.all}, indent=1) + "\n").encode())

    def of(self, loop: str, way: str, ratio: float | None = None) -> list[Row]:
        """Rows of all seeds."""
        return [row for row in self.all if (row["loop"], row["way"], row["ratio"]) == (loop, way, ratio)]

    def loops(self) -> list[str]:
        """Names of the loops whose float model is there."""
        return list(dict.fromkeys(row["loop"] for row in self.all if row["way"] == FLOAT))

    def ratios(self) -> list[float]:
        """All ratios in order."""
        return sorted({row["ratio"] for row in self.all if row["ratio"] is not None})


def table(rows: Rows) -> str:
    """A Markdown table: medians over the seeds, with the range where there are several."""
    names = ("loop", "figure", FLOAT, "ratio", *TO_A_RATIO, "file / goal", "step / float step")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for loop in rows.loops():
        floats = rows.of(loop, FLOAT)
        for ratio in rows.ratios():
            goals = rows.of(loop, GOAL, ratio)
            cells = (
                loop,
                floats[0]["figure"],
                shown([row["test"] for row in floats], floats[0]),
                f"{ratio:g}",
                *(tests(rows.of(loop, way, ratio), floats[0]) for way in TO_A_RATIO),
                _spread([row["bytes"] / row["limit"] for row in goals if "bytes" in row], ".3f"),
                _spread(list(_overheads(rows, goals)), ".2f"),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def hand_table(rows: Rows) -> str:
    """What settings by hand gave; empty without any."""
    found = [row for row in rows.all if row["way"].startswith(HAND) and "bytes" in row]
    if not found:
        return ""
    lines = ["| loop | seed | λ · weights / first loss | step / root mean square | ratio | test |", "|---" * 6 + "|"]
    for row in found:
        floats = rows.of(row["loop"], FLOAT)
        if floats:
            lines.append(
                f"| {row['loop']} | {row['seed']} | {row['strength']:g} | {row['step_scale']:g} "
                f"| {floats[0]['bytes'] / row['bytes']:.1f} | {shown([row['test']], floats[0])} |"
            )
    return "\n".join(lines)


def figure_table(rows: Rows) -> str:
    """What trainings to a figure gave, beside the smallest of the settings by hand that keep it; empty without any."""
    found = [row for row in rows.all if row["way"] == FIGURE and "bytes" in row]
    if not found:
        return ""
    lines = ["| loop | seed | float | bound | validation | test | ratio | best by hand |", "|---" * 8 + "|"]
    for row in found:
        whole = rows.find(row["loop"], row["seed"], FLOAT)
        if whole is None:
            continue
        hands = [other for other in rows.all if other["way"].startswith(HAND) and is_of_same(other, row)]
        smallest = min((other["bytes"] for other in hands if keeps(other, row["bound"], whole)), default=None)
        by_hand = "" if not hands else "none" if smallest is None else f"{whole['bytes'] / smallest:.1f}"
        cells = (shown([value], whole) for value in (whole["validation"], row["bound"], row["validation"], row["test"]))
        lines.append(
            f"| {row['loop']} | {row['seed']} | {' | '.join(cells)} | {whole['bytes'] / row['bytes']:.1f} | {by_hand} |"
        )
    return "\n".join(lines)


def bound_of(validation: float, *, larger_is_better: bool, is_loss: bool) -> float:
    """What a training to a figure has to keep to, where the float model has `validation`."""
    room = abs(validation) * ROOM_SHARE if is_loss else ROOM_POINTS
    return validation - room if larger_is_better else validation + room


def keeps(row: Row, bound: float, whole: Row) -> bool:
    """Whether the validation figure of a row keeps to a bound."""
    if "validation" not in row:
        return False
    return bool(row["validation"] >= bound if whole["larger_is_better"] else row["validation"] <= bound)


def is_of_same(row: Row, other: Row) -> bool:
    """Whether two rows are of one loop and seed."""
    return bool((row["loop"], row["seed"]) == (other["loop"], other["seed"]))


def summary(rows: Rows) -> dict[str, Any]:
    """How often one number was enough, over all loops and seeds, and ratios but for the first count."""
    goals = [row for row in rows.all if row["way"] == GOAL and rows.find(row["loop"], row["seed"], FLOAT)]
    easy = [row for row in goals if row["ratio"] == EASY_RATIO]
    figures = [row for row in rows.all if row["way"] == FIGURE and rows.find(row["loop"], row["seed"], FLOAT)]
    return {
        "as_good_as_float": _count(easy, [is_as_good(row, _float_of(rows, row)) for row in easy]),
        "goals_met": _count(goals, [is_met(row) for row in goals]),
        "figures_kept": _count(figures, [keeps(row, row["bound"], _float_of(rows, row)) for row in figures]),
        **{f"better_than_{way}": _compared(rows, goals, way) for way in OTHERS},
    }


def summary_lines(told: dict[str, Any]) -> str:
    """What :func:`summary` says, in words."""
    easy, met = told["as_good_as_float"], told["goals_met"]
    lines = [
        f"At {EASY_RATIO}x, {easy['yes']} of {easy['of']} are as good as float "
        f"({LOSS_SHARE:.0%} of a loss, {ACCURACY_POINTS} points of an accuracy).",
        f"{met['yes']} of {met['of']} goals are met: files of {LEAST_SHARE:.0%} to 100% of them.",
    ]
    kept = told["figures_kept"]
    if kept["of"]:
        lines.append(f"{kept['yes']} of {kept['of']} trainings to a figure keep to it on validation data.")
    for way in OTHERS:
        found = told[f"better_than_{way}"]
        lines.append(
            f"A goal is better than {way} in {found['better']} of {found['of']}, equal in {found['equal']}; "
            f"{way} is refused in {found['refused']}."
        )
    return "\n".join(lines)


def is_as_good(row: Row, whole: Row) -> bool:
    """Whether the test figure is about that of the float model."""
    if "test" not in row:
        return False
    if not whole["is_loss"]:
        return bool(row["test"] >= whole["test"] - ACCURACY_POINTS)
    return bool(row["test"] <= whole["test"] * (1 + LOSS_SHARE))


def is_met(row: Row) -> bool:
    """Whether the file is no larger than was asked for, and not much smaller."""
    return "bytes" in row and LEAST_SHARE * row["limit"] <= row["bytes"] <= row["limit"]


def tests(found: Sequence[Row], whole: Row) -> str:
    """Test figures of one way."""
    if found and not any("test" in row for row in found):
        return "refused"
    return shown([row["test"] for row in found if "test" in row], whole)


def shown(figures: Sequence[float], whole: Row) -> str:
    """Figures with the digits that are worth showing."""
    return _spread(figures, ".4g" if whole["is_loss"] else ".2f")


def _spread(figures: Sequence[float], digits: str) -> str:
    if not figures:
        return ""
    middle = f"{statistics.median(figures):{digits}}"
    return middle if len(figures) == 1 else f"{middle} ({min(figures):{digits}} to {max(figures):{digits}})"


def _overheads(rows: Rows, goals: Sequence[Row]) -> Iterator[float]:
    for row in goals:
        whole = rows.find(row["loop"], row["seed"], FLOAT)
        if whole is not None and "seconds" in row:
            yield row["seconds"] / whole["seconds"]


def _float_of(rows: Rows, row: Row) -> Row:
    found = rows.find(row["loop"], row["seed"], FLOAT)
    assert found is not None
    return found


def _count(found: Sequence[Row], are: Sequence[bool]) -> dict[str, int]:
    return {"yes": sum(are), "of": len(found)}


def _compared(rows: Rows, goals: Sequence[Row], way: str) -> dict[str, int]:
    """Against another way at the same ratio; what is refused, or not a number, is worse than any figure."""
    pairs = [(row, rows.find(row["loop"], row["seed"], way, row["ratio"]), _float_of(rows, row)) for row in goals]
    known = [(_badness(row, whole), _badness(other, whole), other) for row, other, whole in pairs if other is not None]
    return {
        "better": sum(one < two for one, two, _ in known),
        "equal": sum(one == two for one, two, _ in known),
        "refused": sum("refused" in other for _, _, other in known),
        "of": len(known),
    }


def _badness(row: Row, whole: Row) -> float:
    value = float(row.get("test", math.nan))
    if math.isnan(value):
        return math.inf
    return -value if whole["larger_is_better"] else value
