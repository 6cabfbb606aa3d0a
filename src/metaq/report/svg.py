"""Pictures as text: elements of SVG with everything escaped, and the axes that charts share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Steps between ticks, times a power of ten."""

ROUND_STEPS = 5
"""Between the ends of an axis, at most."""

LOG_FACTORS = ((1, 2, 5), (1, 3), (1,))
"""Of powers of ten, from many ticks to few."""


MOST_NAME_CHARACTERS = 120
"""Shown of either end of a name."""


def printable(text: str) -> str:
    """A line with what does not print, directions of writing among it, as its number.

    Examples
    --------
    >>> printable("a\\x00b")
    'a\\\\x00b'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shown(text: object) -> str:
    """A name or a sentence as it can be shown: printable, and without its middle if it is very long."""
    plain, half = printable(str(text)), MOST_NAME_CHARACTERS
    return plain if len(plain) <= 2 * half else f"{plain[:half]} … {plain[-half:]}"


def breakable(text: object) -> Markup:
    """A dotted name as :func:`shown`, that may be continued on the next line after any of its parts.

    Examples
    --------
    >>> print(breakable("fc1.bias"))
    fc1.<wbr>bias
    """
    return Markup("<wbr>").join(re.split(r"(?<=[._/])(?![._/]|$)", shown(text)))


def tag(name: str, /, *children: str, **attributes: object) -> Markup:
    """An element. Attributes in Python's spelling: ``class_`` for ``class``, ``stroke_width`` for ``stroke-width``.

    Examples
    --------
    >>> print(tag("text", "<b>", class_="tick", text_anchor="end"))
    <text class="tick" text-anchor="end">&lt;b&gt;</text>
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(children))


def picture(label: str, width: float, height: float, *children: str) -> Markup:
    """An image that scales, with `label` as its text alternative."""
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=label, class_="chart", focusable="false")


def line(points: Sequence[tuple[float, float]], *, class_: str) -> Markup:
    """A line through points; where one is not finite there is a gap."""
    commands = []
    pen = "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            commands.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return tag("path", d="".join(commands), class_=class_)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From values to places.

    Attributes
    ----------
    low, high
        Values at the ends, ``low < high``; positive if logarithmic.
    start, end
        Their places.
    is_logarithmic
        Whether equal ratios take equal room.
    """

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Place of a value; of one outside, the nearer end."""
        if not math.isfinite(value):
            return math.nan
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """At most about so many round values between the ends."""
        if self.is_logarithmic:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found: list[float] = []
            for factors in LOG_FACTORS:
                values = (factor * 10.0**exponent for exponent in exponents for factor in factors)
                found = [value for value in values if self.low <= value <= self.high]
                if len(found) <= most:
                    break
            if len(found) > 1:
                return found[:: -(-len(found) // most)]
        step = _nice_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_over(
    values: Sequence[float], start: float, end: float, *, is_logarithmic: bool = False, has_round_ends: bool = False
) -> Axis | None:
    """An axis that holds all finite values (positive ones if logarithmic), or None if there is none."""
    usable = [value for value in values if math.isfinite(value) and (value > 0 or not is_logarithmic)]
    if not usable:
        return None
    low, high = min(usable), max(usable)
    if low == high:
        low, high = (low / 2, high * 2) if is_logarithmic else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
    axis = Axis(low=low, high=high, start=start, end=end, is_logarithmic=is_logarithmic)
    return _to_round_ends(axis) if has_round_ends else axis


def short(value: float) -> str:
    """A number for a tick.

    Examples
    --------
    >>> short(12000), short(0.25), short(97.0)
    ('12,000', '0.25', '97')
    """
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"


def _to_round_ends(axis: Axis) -> Axis:
    """The axis from a round value below its lowest to one above its highest."""
    if not axis.is_logarithmic:
        step = _nice_step((axis.high - axis.low) / ROUND_STEPS)
        ends = math.floor(axis.low / step + 1e-9) * step, math.ceil(axis.high / step - 1e-9) * step
        return replace(axis, low=ends[0], high=ends[1])
    exponents = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 2)
    marks = [factor * 10.0**exponent for exponent in exponents for factor in LOG_FACTORS[0]]
    low = max((mark for mark in marks if mark <= axis.low), default=axis.low)
    high = min((mark for mark in marks if mark >= axis.high), default=axis.high)
    return replace(axis, low=low, high=high) if low < high else axis


def _nice_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next((nice * power for nice in NICE if nice * power >= least), 10 * power)


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
