"""Two subjects beside each other: figures with words for better and worse, and bytes of their parts on one axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metaq.report.subject import Accuracy, Subject

Verdict = Literal["better", "worse", ""]
Wish = Literal["smaller", "larger", ""]

TIMES = 1.1
"""From this ratio on, one is told as a multiple of the other, below in percent."""

MOST_BARS = 16
"""Parts whose bytes are drawn on one axis."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A row of the table of figures: what A and B have as text, B against A in words, and whether that is better."""

    name: str
    first: str
    second: str
    words: str
    verdict: Verdict = ""


@dataclass(frozen=True, kw_only=True)
class PartBytes:
    """Bytes of a part in A and in B, None where a file has no such part, and the percent of the axis that they take."""

    label: str
    first: int | None
    second: int | None
    first_percent: float
    second_percent: float


def figures(a: Subject, b: Subject) -> list[Figure]:
    """Rows of the table of figures, those that neither of two has left out."""
    sizes = [("file, bytes", "bytes", "{:,.0f}", "smaller"), ("tensors, bytes", "float_bytes", "{:,.0f}", "")]
    sizes += [("ratio", "ratio", "{:,.1f}", "larger"), ("bits per weight", "bits_per_weight", "{:.3f}", "smaller")]
    rows = [_factor(name, _of(a, key), _of(b, key), form, wish) for name, key, form, wish in sizes]  # type: ignore[arg-type]
    rows.append(_points("accuracy, %", a.after, b.after, is_judged=True))
    rows.append(_points("accuracy before, %", a.before, b.before, is_judged=False))
    rows.append(_factor("multiply-adds", _work(a), _work(b), "{:,.0f}", "smaller", ways=("more", "fewer")))
    rows.append(_factor("training, seconds", a.seconds, b.seconds, "{:,.1f}", "", ways=("longer", "shorter")))
    if a.kept or b.kept:
        rows.append(Figure(name="outputs kept", first=a.kept or "–", second=b.kept or "–", words="–"))
    if a.goal or b.goal:
        rows.append(Figure(name="goal", first=a.goal or "–", second=b.goal or "–", words="–"))
    return [row for row in rows if (row.first, row.second) != ("–", "–")]


def _of(subject: Subject, key: str) -> float | None:
    return None if subject.sizes is None else subject.sizes[key]


def _work(subject: Subject) -> float | None:
    """Multiplications and additions with weights other than zero."""
    known = [layer.live_multiply_adds for layer in subject.layers if layer.live_multiply_adds is not None]
    return sum(known) if known else None


def _factor(
    name: str,
    first: float | None,
    second: float | None,
    form: str,
    wish: Wish,
    *,
    ways: tuple[str, str] = ("larger", "smaller"),
) -> Figure:
    """A row in which B is so many times, or percent, larger or smaller than A, in these words."""
    texts = ["–" if value is None else form.format(value) for value in (first, second)]
    words, verdict = _compared(first, second, wish, ways)
    return Figure(name=name, first=texts[0], second=texts[1], words=words, verdict=verdict)


def _compared(first: float | None, second: float | None, wish: Wish, ways: tuple[str, str]) -> tuple[str, Verdict]:
    if first is None or second is None or first <= 0 or second <= 0:
        return "–", ""
    if first == second:
        return "the same", ""
    way: Wish = "larger" if second > first else "smaller"
    word = ways[0] if second > first else ways[1]
    ratio = max(first, second) / min(first, second)
    share = abs(second - first) / first
    words = f"{ratio:,.1f} times {word}" if ratio >= TIMES else f"{100 * share:.1f} % {word}"
    if not wish:
        return words, ""
    return words, "better" if way == wish else "worse"


def _points(name: str, first: Accuracy | None, second: Accuracy | None, *, is_judged: bool) -> Figure:
    """A row in which B is so many points higher or lower than A; of other images nothing is said."""
    texts = ["–" if each is None else f"{each.percent:.2f}" for each in (first, second)]
    words, verdict = "–", ""
    if first is not None and second is not None:
        words = "of other images"
        if first.images == second.images:
            difference = round(second.percent, 2) - round(first.percent, 2)
            words = f"{abs(difference):.2f} points {'higher' if difference > 0 else 'lower'}"
            verdict = ("better" if difference > 0 else "worse") if is_judged else ""
            if abs(difference) < 0.005:
                words, verdict = "the same", ""
    return Figure(name=name, first=texts[0], second=texts[1], words=words, verdict=verdict)  # type: ignore[arg-type]


def part_bytes(a: Subject, b: Subject) -> list[PartBytes]:
    """Bytes of the parts of two files, the largest ones, in falling order of their sum."""
    first, second = ({share.label: share.bytes for share in subject.shares} for subject in (a, b))
    if not first or not second:
        return []
    labels: Sequence[str] = list({**first, **second})
    largest = sorted(labels, key=lambda label: -(first.get(label, 0) + second.get(label, 0)))[:MOST_BARS]
    most = max(max(first.get(label, 0), second.get(label, 0)) for label in largest) or 1
    return [
        PartBytes(
            label=label,
            first=first.get(label),
            second=second.get(label),
            first_percent=100 * first.get(label, 0) / most,
            second_percent=100 * second.get(label, 0) / most,
        )
        for label in largest
    ]
