"""The tables of constants in docs/controller.md hold the values of the code."""

from __future__ import annotations

import importlib
import math
import re

import pytest
from pages import ROOT

ROW = re.compile(r"^\| (`[A-Z][^|]*) \| ([^|]+) \|", re.MULTILINE)
TABLE = re.compile(r"^[A-Z][^\n]* in `(\w+)\.py`[^\n]*:\n\n\| constant ((?:.*\n)+?)(?:\n|\Z)", re.MULTILINE)
MODULE = re.compile(r"`(\w+)\.py`")
WORDS = {"ln 2": math.log(2)}


def number_of(text: str) -> float:
    return WORDS[text] if text in WORDS else float(text.replace("−", "-"))


def rows() -> list[tuple[list[str], list[str], list[str]]]:
    """Modules, names and values of every row."""
    page = (ROOT / "docs/controller.md").read_text(encoding="utf-8")
    found = []
    for table in TABLE.finditer(page):
        modules = MODULE.findall(table[0].split("\n", 1)[0])
        for name, value in ROW.findall(table[2]):
            names = re.findall(r"`([A-Z_]+)`", name)
            found.append((modules + MODULE.findall(name), names, value.split(", ")))
    return found


def test_every_table_is_found():
    assert {modules[0] for modules, _, _ in rows()} == {
        "step_control",
        "pace",
        "size_control",
        "quality_control",
        "last_choice",
    }


@pytest.mark.parametrize(("modules", "names", "values"), rows(), ids=lambda part: "-".join(part))
def test_a_constant_has_the_value_of_the_code(modules, names, values):
    loaded = [importlib.import_module(f"metaq.regularizer.{module}") for module in modules]
    told: list[float] = []
    for name in names:
        owner = next(module for module in loaded if hasattr(module, name))
        value = getattr(owner, name)
        told += value if isinstance(value, tuple) else [value]
    assert told == [number_of(text) for text in values]
