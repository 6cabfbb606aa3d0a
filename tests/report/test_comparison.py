from __future__ import annotations

import pytest

from metaq.report.comparison import figures, part_bytes
from metaq.report.subject import Accuracy, Layer, Share, Subject


def subject(size=100, *, percent=None, images="the test images of mnist", **values):
    sizes = {"bytes": size, "float_bytes": 400, "ratio": 400 / size, "weights": 100, "bits_per_weight": 8 * size / 100}
    after = None if percent is None else Accuracy(percent=percent, what=f"weights restored from the file, on {images}")
    return Subject(name="m", title="m", sizes=sizes, after=after, **values)


def words(first, second):
    return {row.name: (row.words, row.verdict) for row in figures(first, second)}


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (100, 50, ("2.0 times smaller", "better")),
        (50, 100, ("2.0 times larger", "worse")),
        (100, 103, ("3.0 % larger", "worse")),
        (100, 100, ("the same", "")),
    ],
)
def test_a_smaller_file_is_better(first, second, told):
    assert words(subject(first), subject(second))["file, bytes"] == told


@pytest.mark.parametrize(
    ("second", "told"),
    [(99.0, ("0.50 points higher", "better")), (98.0, ("0.50 points lower", "worse")), (98.5, ("the same", ""))],
)
def test_a_higher_accuracy_is_better(second, told):
    assert words(subject(percent=98.5), subject(percent=second))["accuracy, %"] == told


def test_accuracies_of_other_images_are_not_judged():
    other = subject(percent=98.5, images="the test images of digits")
    assert words(subject(percent=98.5), other)["accuracy, %"] == ("of other images", "")


def test_what_neither_has_is_left_out_and_what_one_has_is_shown():
    work = Layer(name="fc", kind="Linear", output=(10,), weights=100, multiply_adds=100, live_multiply_adds=50, bytes=9)
    rows = {row.name: row for row in figures(subject(), subject(layers=[work], goal="at most 9 bytes"))}
    assert "accuracy, %" not in rows
    assert (rows["multiply-adds"].first, rows["multiply-adds"].second) == ("–", "50")
    assert rows["goal"].second == "at most 9 bytes"
    assert words(subject(layers=[work]), subject(layers=[work]))["multiply-adds"] == ("the same", "")


def test_bytes_of_parts_are_on_one_axis():
    a = subject(shares=[Share(label="w", bytes=80, is_tensor=True), Share(label="header", bytes=20, is_tensor=False)])
    b = subject(shares=[Share(label="w", bytes=40, is_tensor=True), Share(label="v", bytes=10, is_tensor=True)])
    found = {part.label: part for part in part_bytes(a, b)}
    assert list(found) == ["w", "header", "v"]
    assert (found["w"].first_percent, found["w"].second_percent) == (100, 50)
    assert (found["v"].first, found["v"].second_percent) == (None, 12.5)
    assert part_bytes(a, subject()) == []
