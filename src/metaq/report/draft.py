"""A report's subject while its parts are found one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metaq.report.subject import Subject

Json = dict[str, Any]

LARGEST_INTEGER = 1 << 63


@dataclass
class Draft:
    """Parts of a :class:`~metaq.report.subject.Subject` as they are found.

    Attributes
    ----------
    parts
        By the name of its attribute.
    missing, notes
        See there.
    """

    parts: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def finish(self, *, name: str, title: str) -> Subject:
        """The subject."""
        return Subject(name=name, title=title, missing=self.missing, notes=self.notes, **self.parts)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number, an integer of any reasonable size."""
    return isinstance(value, float) or is_integer(value)


def is_integer(value: object) -> bool:
    """Whether a value of JSON is an integer of 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_INTEGER
