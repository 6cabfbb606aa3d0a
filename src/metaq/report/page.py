"""The report as one HTML page that needs nothing besides: style, program and pictures are inside, the network is out.

Names, metadata and settings come from files and may be anything: the templates escape them, and a policy lets no style
and no program run but those of this package.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metaq.config import flat
from metaq.errors import ConfigError
from metaq.report import first_layer, histograms
from metaq.report.changes import Change
from metaq.report.comparison import figures, part_bytes
from metaq.report.drawing import Chart, Curve, Level, Picture, chart
from metaq.report.subject import Filters, Histogram, Subject, TensorFacts
from metaq.report.text import breakable, printable, shown
from metaq.report.treemap import treemaps

TEMPLATES = "templates"
MOST_ROWS = 2000
"""Tensors, and epochs, listed one by one."""

MARK, MARK_WITHIN_BYTES = '<meta name="generator" content="metaq report">', 2000

MOST_HISTOGRAMS_COMPARED = 12

BYTES = "Size, bytes"
FLOAT_LEVEL, FLOAT_TEST_LEVEL = "float weights before", "float network, test images"

Named = TypeVar("Named", TensorFacts, Histogram)


def render(subjects: Sequence[Subject], changes: Sequence[Change] | None = None) -> str:
    """The page of one subject, or of two beside each other with the `changes` of their tensors.

    Raises :class:`ConfigError` for any other number of subjects.
    """
    if not 1 <= len(subjects) <= 2:
        raise ConfigError(f"report: takes one or two runs or files, not {len(subjects)}.")
    style, program = (_resource(name) for name in ("page.css", "page.js"))
    labels = ["A", "B"] if len(subjects) == 2 else [""]
    template = _environment().get_template("comparison.html.j2" if len(subjects) == 2 else "page.html.j2")
    return template.render(
        subjects=list(zip(labels, subjects, strict=True)),
        style=Markup(style),
        program=Markup(program),
        mark=Markup(MARK),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(program)}; "
        "base-uri 'none'; form-action 'none'",
        charts=_charts(labels, subjects),
        figures=figures(*(subject for subject in subjects)) if len(subjects) == 2 else [],
        parts_bytes=part_bytes(*(subject for subject in subjects)) if len(subjects) == 2 else [],
        differences=_differences(subjects),
        pairs=_pairs(subjects, lambda subject: subject.tensors),
        # Without latent weights, which two pictures beside each other have no room for.
        histogram_pairs=_pairs(subjects, lambda subject: [replace(each, latent=None) for each in subject.histograms]),
        changes=changes,
        most_rows=MOST_ROWS,
        most_histograms=MOST_HISTOGRAMS_COMPARED,
    )


def is_report(path: Path) -> bool:
    """Whether a file is a page of :func:`render`, by its beginning."""
    with path.open("rb") as stream:
        return MARK.encode() in stream.read(MARK_WITHIN_BYTES)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("metaq.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": shown,
        "breakable": breakable,
        "printable": printable,
        "whole": lambda value: f"{value:,.0f}",
        "short": _short,
        "percent": lambda share: f"{share:.1%}".replace("%", " %"),
        "shape": lambda shape: "×".join(map(str, shape)) or "scalar",
        "duration": _duration,
        "settings": _settings,
        "figure": lambda value: "–" if value is None else f"{value:.4g}",
    }
    environment.globals |= {
        "treemaps": treemaps,
        "bars": histograms.draw,
        "both_bars": histograms.draw_both,
        "pictures": _pictures,
    }
    return environment


def _resource(name: str) -> str:
    return (files("metaq.report") / TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def _settings(config: Mapping[str, Any]) -> str:
    return "\n".join(map(printable, json.dumps(config, indent=2, ensure_ascii=False).split("\n")))


def _short(value: float) -> str:
    """A large number in three figures.

    Examples
    --------
    >>> _short(416520)
    '417 k'
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _charts(labels: Sequence[str], subjects: Sequence[Subject]) -> list[Chart]:
    """Curves of all subjects; of two, quantised weights alone."""
    is_alone = len(subjects) == 1

    def curves(field: str, label: str, *, is_second: bool = False) -> list[Curve]:
        return [
            Curve(
                label=label if is_alone else f"{mark} {shown(subject.name)}",
                points=[(record.epoch, float(getattr(record, field))) for record in subject.records],
                kept_epoch=subject.kept_epoch,
                kind="second" if is_second else "other" if mark == "B" else "first",
            )
            for mark, subject in zip(labels, subjects, strict=True)
            if subject.records
        ]

    accuracy = curves("quantized_accuracy", "quantised weights")
    size = curves("estimated_bytes", "entropy of the bucket indices")
    if is_alone:
        accuracy += curves("float_accuracy", "latent (float) weights", is_second=True)
    levels = [
        Level(
            label=f"{mark} {FLOAT_LEVEL if 'validation' in subject.before.images else FLOAT_TEST_LEVEL}".strip(),
            value=subject.before.percent,
            kind="other level" if mark == "B" else "level",
        )
        for mark, subject in zip(labels, subjects, strict=True)
        if subject.before is not None and subject.records
    ]
    drawn = [
        chart("Validation accuracy, %", accuracy, unit="%", levels=levels, is_close=True),
        chart(BYTES, size, unit="bytes", is_logarithmic=True),
        chart("Training loss, nats", curves("loss", "loss"), is_logarithmic=True),
        chart("Price of a bit, λ", curves("strength", "λ")),
        chart("Distance of latent weights from the grid", curves("distance", "root mean square")),
    ]
    return [each for each in drawn if each is not None]


def _pictures(found: Filters) -> list[tuple[str, Picture]]:
    """Before and after in the same colours, with their captions."""
    both = {"before, latent weights": found.before, "after, restored from the file": found.after}
    given = {caption: tiles for caption, tiles in both.items() if tiles is not None and tiles.size}
    largest = max((float(abs(tiles).max()) for tiles in given.values()), default=0.0)
    drawn = []
    for caption, tiles in given.items():
        units, channels, height, width = tiles.shape
        live = int(tiles.any(axis=(1, 2, 3)).sum())
        each = f"{channels} × {height} × {width}" if channels > 1 else f"{height} × {width}"
        alternative = (
            f"{shown(found.layer)} {caption}: {units} pictures of {each} weights, {live} of them with weights other "
            f"than zero; the largest is {float(abs(tiles).max()):.3g}."
        )
        drawn.append((caption, first_layer.draw(tiles, largest=largest, alternative=alternative)))
    return drawn


def _pairs(
    subjects: Sequence[Subject], parts_of: Callable[[Subject], Iterable[Named]]
) -> list[tuple[str, Named | None, Named | None]]:
    """Parts of two subjects by name; none of a single one."""
    if len(subjects) < 2:
        return []
    first, second = ({part.name: part for part in parts_of(subject)} for subject in subjects)
    return [(name, first.get(name), second.get(name)) for name in {**first, **second}]


def _differences(subjects: Sequence[Subject]) -> list[tuple[str, str, str]]:
    """Settings and facts of the environment that are not the same in two runs; of a file none is known."""
    if len(subjects) < 2 or any(subject.config is None for subject in subjects):
        return []
    first, second = (
        {name: str(value) for name, value in (flat(subject.config or {}) | flat(subject.environment)).items()}
        for subject in subjects
    )
    return [
        (name, first.get(name, "–"), second.get(name, "–"))
        for name in {**first, **second}
        if first.get(name) != second.get(name)
    ]
