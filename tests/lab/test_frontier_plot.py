from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from metaq.lab.plots import REFERENCES, Point, save_frontier

TRIALS = [Point(700, 97.0), Point(900, 98.5), Point(4000, 98.0)]
MEMBERS = [Point(700, 96.5), Point(900, 98.75)]


def pixels(path, trials, members, **names):
    save_frontier(path, trials=trials, members=members, **{"net": "lenet5", "data": "digits", **names})
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(image, color):
    return float((np.abs(image - np.array(color)).sum(axis=2) < 30).mean())


BLUE, ORANGE = (0x0B, 0x5C, 0xAD), (0xC2, 0x57, 0x0C)


def test_the_frontier_is_drawn(tmp_path):
    image = pixels(tmp_path / "f.png", TRIALS, MEMBERS)
    assert min(image.shape[:2]) > 500
    assert share_of(image, BLUE) > 1e-3
    assert share_of(image, ORANGE) == 0


@pytest.mark.parametrize(("net", "data"), REFERENCES)
def test_published_results_are_drawn_where_there_are_any(tmp_path, net, data):
    image = pixels(tmp_path / "f.png", TRIALS, MEMBERS, net=net, data=data)
    assert share_of(image, ORANGE) > 1e-4


@pytest.mark.parametrize("accuracy", [0.0, 50.0, 100.0])
def test_any_accuracy_can_be_drawn(tmp_path, accuracy):
    image = pixels(tmp_path / "f.png", [Point(1, accuracy)], [Point(1, 100.0)])
    assert share_of(image, BLUE) > 1e-4
