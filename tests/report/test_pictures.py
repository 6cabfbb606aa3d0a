from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaq.report import filters, histograms
from metaq.report.curves import Curve, chart
from metaq.report.subject import Share
from metaq.report.svg import Axis, axis_over
from metaq.report.treemap import squarify, treemaps
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor

from .page_checks import parsed


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
def test_a_treemap_gives_every_part_its_area_and_overlaps_nowhere(sizes):
    sizes = sorted(map(float, sizes), reverse=True)
    boxes = squarify(sizes, (0.0, 0.0, 640.0, 320.0))
    for size, (x, y, width, height) in zip(sizes, boxes, strict=True):
        assert width * height == pytest.approx(size / sum(sizes) * 640 * 320, rel=1e-6)
        assert min(x, y) >= -1e-6
        assert x + width <= 640 + 1e-6
        assert y + height <= 320 + 1e-6
    assert sum(width * height for _, _, width, height in boxes) == pytest.approx(640 * 320)
    for number, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:number]:
            across = min(x + width, other_x + other_width) - max(x, other_x)
            along = min(y + height, other_y + other_height) - max(y, other_y)
            assert min(across, along) < 1e-6


def test_tiles_too_small_to_see_are_drawn_together_and_none_is_lost():
    shares = [Share(label="large", bytes=9000, is_tensor=True)]
    shares += [Share(label=f"small {number}", bytes=2, is_tensor=True) for number in range(50)]
    shares += [Share(label="nothing", bytes=0, is_tensor=True)]
    for map_ in treemaps(shares, file_bytes=9100):
        titles = [title.text for title in parsed(map_).all("title")]
        assert titles == ["large: 9,000 bytes", "50 small parts: 100 bytes"]


def test_many_parts_are_drawn_by_their_numbered_blocks():
    shares = [Share(label=f"layer.{n}.{part}", bytes=50, is_tensor=True) for n in range(20) for part in ("a.0.w", "b")]
    shares += [Share(label="notes.2.txt", bytes=50, is_tensor=False), Share(label="header", bytes=50, is_tensor=False)]
    for map_ in treemaps(shares, file_bytes=2100):
        titles = {title.text for title in parsed(map_).all("title")}
        blocks = {f"layer.{n}.a.0.w: 50 bytes" for n in range(20)} | {f"layer.{n}.b: 50 bytes" for n in range(20)}
        assert titles == blocks | {"notes.2.txt: 50 bytes", "header: 50 bytes"}
    shares += [Share(label=f"layer.{n}.c", bytes=25, is_tensor=True) for n in range(20)]
    for map_ in treemaps(shares, file_bytes=2600):
        titles = [title.text for title in parsed(map_).all("title")]
        assert titles[:20] == [f"layer.{n}.*: 75 bytes" for n in range(20)]
        assert len(titles) == 42


@pytest.mark.parametrize("is_logarithmic", [False, True])
@given(ends=st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)))
def test_axes_hold_all_values_and_have_a_few_ticks(is_logarithmic, ends):
    axis = axis_over(ends, 100.0, 0.0, is_logarithmic=is_logarithmic, has_round_ends=True)
    assert axis is not None
    assert axis.low <= min(ends) * (1 + 1e-9)
    assert axis.high >= max(ends) * (1 - 1e-9)
    assert 0 <= axis(max(ends)) <= axis(min(ends)) <= 100
    ticks = axis.ticks(6)
    assert 1 <= len(ticks) <= 7
    assert ticks == sorted(ticks)


def test_an_axis_of_nothing_is_none():
    assert axis_over([float("nan")], 0, 1) is None
    assert axis_over([-1.0, 0.0], 0, 1, is_logarithmic=True) is None
    assert Axis(low=1, high=100, start=0, end=10, is_logarithmic=True)(10) == pytest.approx(5)


def test_a_chart_says_where_its_lines_begin_and_end():
    points = [(1, 50.0), (2, 75.0), (3, 80.0)]
    drawn = chart("Accuracy", [Curve(label="quantised", points=points, kept_epoch=2)], unit="%")
    assert drawn is not None
    (picture,) = parsed(drawn.svg).all("svg")
    assert picture.attributes["aria-label"] == (
        "Accuracy. quantised: 50 % in epoch 1, 80 % in epoch 3, 75 % in epoch 2, which was kept."
    )
    assert len(parsed(drawn.svg).all("circle")) == 1
    assert chart("Accuracy", [Curve(label="quantised", points=[])]) is None


def test_a_histogram_has_a_bar_a_bucket_at_the_buckets_value():
    grid = BucketGrid(center=0.0, radius=4.5, count=9)
    tensor = QuantizedTensor(name="w", indices=np.array([3, 4, 4, 4, 6]), grid=grid, dtype=Dtype.float32)
    found = histograms.of_buckets(tensor, None)
    assert found.centers.tolist() == [-1.0, 0.0, 1.0, 2.0]
    assert found.counts.tolist() == [1, 3, 0, 1]
    (picture,) = parsed(histograms.draw(found)).all("svg")
    assert picture.attributes["aria-label"] == (
        "Histogram of w: 5 weights in 3 buckets, from -1 to 2; 60.0% of them at 0, the most common."
    )


def test_many_buckets_share_bars():
    grid = BucketGrid(center=0.0, radius=1.0, count=4001)
    indices = np.random.default_rng(0).integers(0, 4001, size=20_000)
    found = histograms.of_buckets(QuantizedTensor(name="w", indices=indices, grid=grid, dtype=Dtype.float32), None)
    assert len(found.counts) <= histograms.MOST_BARS
    assert found.counts.sum() == 20_000
    assert found.width == pytest.approx(found.buckets_per_bar * grid.step_size)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e300, -1e300], [5.0], [1.0, float("inf"), float("nan")]])
def test_histograms_of_any_floats_can_be_drawn(values):
    found = histograms.of_values("w", np.array(values))
    assert found is not None
    assert found.counts.sum() == np.isfinite(values).sum()
    assert "nan" not in histograms.draw(found)


def test_nothing_finite_has_no_histogram():
    assert histograms.of_values("w", np.array([float("nan")])) is None


def test_filters_are_blue_where_positive_orange_where_negative_clear_where_zero():
    tiles = np.array([[[[2.0, 0.0], [-2.0, 1.0]]]])
    address, width, height = filters.data_uri(tiles, largest=2.0)
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert image.size == (width, height)
        scale = (width - filters.FRAME_WIDTH) // 2
        places = [(filters.FRAME_WIDTH + scale // 2 + scale * x, filters.FRAME_WIDTH + scale // 2 + scale * y)
                  for y in range(2) for x in range(2)]  # fmt: skip
        positive, zero, negative, smaller = (image.getpixel(place) for place in places)
    assert positive == (*filters.POSITIVE, 255)
    assert zero[3] == 0
    assert negative == (*filters.NEGATIVE, 255)
    assert smaller[:3] == filters.POSITIVE
    assert 0 < smaller[3] < 255
