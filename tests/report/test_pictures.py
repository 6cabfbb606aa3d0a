from __future__ import annotations

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaq.report import drawing, first_layer, histograms
from metaq.report.drawing import Curve, chart
from metaq.report.subject import Share
from metaq.report.treemap import squarify, treemaps
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor


def text_of(picture):
    """The SVG of a picture."""
    kind, _, data = picture.address.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


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
        assert [(tile.label, tile.size) for tile in map_.tiles] == [("large", "9,000"), ("50 small parts", "100")]


def test_many_parts_are_drawn_by_their_numbered_blocks():
    shares = [Share(label=f"layer.{n}.{part}", bytes=50, is_tensor=True) for n in range(20) for part in ("a.0.w", "b")]
    shares += [Share(label="notes.2.txt", bytes=50, is_tensor=False), Share(label="header", bytes=50, is_tensor=False)]
    for map_ in treemaps(shares, file_bytes=2100):
        assert {tile.size for tile in map_.tiles} == {"50"}
        blocks = {f"layer.{n}.a.0.w" for n in range(20)} | {f"layer.{n}.b" for n in range(20)}
        assert {tile.label for tile in map_.tiles} == blocks | {"notes.2.txt", "header"}
    shares += [Share(label=f"layer.{n}.c", bytes=25, is_tensor=True) for n in range(20)]
    for map_ in treemaps(shares, file_bytes=2600):
        tiles = [(tile.label, tile.size) for tile in map_.tiles]
        assert tiles[:20] == [(f"layer.{n}.*", "75") for n in range(20)]
        assert len(tiles) == 42


POINTS = [(1, 50.0), (2, 75.0), (3, 80.0)]


def test_a_chart_has_a_line_for_each_curve_and_a_dot_at_the_epoch_kept():
    latent = Curve(label="latent", points=[(1, 60.0), (2, 70.0)], kind="second")
    figure = drawing.figure_of([Curve(label="quantised", points=POINTS, kept_epoch=2), latent])
    assert figure is not None
    (axes,) = figure.axes
    drawn = [(line.get_xydata().tolist(), line.get_linestyle(), line.get_marker()) for line in axes.lines]
    assert drawn == [
        ([[1, 50], [2, 75], [3, 80]], "-", "None"),
        ([[1, 60], [2, 70]], "--", "None"),
        ([[2, 75]], "None", "o"),
    ]
    assert axes.get_xlabel() == "epoch"
    assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("values", [(1.0, 1.1), (3.0, 40.0), (900.0, 1400.0), (1e-6, 1e6), (0.5, 0.5)])
def test_logarithmic_charts_have_a_few_ticks_and_gaps_for_what_has_no_logarithm(values):
    figure = drawing.figure_of(
        [Curve(label="", points=[(1, values[0]), (2, 0.0), (3, values[1])])], is_logarithmic=True
    )
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, True, False]
    low, high = axes.get_ylim()
    assert 1 <= sum(low <= tick <= high for tick in axes.get_yticks()) <= 9


def test_a_close_axis_is_where_the_later_half_and_the_levels_are():
    points = [(epoch, 10.0 if epoch < 4 else 98.0 + epoch / 10) for epoch in range(1, 9)]
    level = drawing.Level(label="float", value=99.2)
    figure = drawing.figure_of([Curve(label="", points=points)], levels=[level], is_close=True)
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert 98 < low < 98.5
    assert 99.2 < high < 99.5
    assert figure.axes[0].lines[1].get_ydata() == [99.2, 99.2]
    drawn = chart("Accuracy", [Curve(label="quantised", points=points)], unit="%", levels=[level], is_close=True)
    assert drawn is not None
    assert drawn.cut
    assert drawn.legend == [("quantised", "first"), ("float", "level")]
    assert drawn.picture.alternative.endswith(" float: 99.2 %.")


@pytest.mark.parametrize("values", [[50.0], [50.0, 50.0], [float("nan"), 50.0]])
def test_a_close_axis_has_room_for_a_single_value(values):
    curve = Curve(label="", points=list(enumerate(values, start=1)))
    figure = drawing.figure_of([curve], is_close=True)
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert low < 50 < high


def test_two_histograms_have_the_same_axes_and_each_its_colour():
    wide = histograms.of_values("w", np.array([-4.0, 0.0, 4.0]))
    narrow = histograms.of_values("w", np.linspace(-0.1, 0.1, 5000))
    limits = histograms.shared_limits([wide, narrow])
    figures = [histograms.figure_of(each, limits=limits) for each in (wide, narrow)]
    assert figures[0].axes[0].get_xlim() == figures[1].axes[0].get_xlim()
    assert figures[0].axes[0].get_ylim() == figures[1].axes[0].get_ylim()
    one, other = histograms.draw_both(wide, narrow)
    assert f"fill: var(--c{list(drawing.DARK).index(drawing.BAR)})" in text_of(one)
    assert f"fill: var(--c{list(drawing.DARK).index(drawing.OTHER_BAR)})" in text_of(other)
    assert histograms.draw_both(None, narrow)[0] is None


def test_nothing_that_can_be_drawn_gives_no_chart():
    assert chart("Accuracy", [Curve(label="quantised", points=[])]) is None
    assert chart("Loss", [Curve(label="loss", points=[(1, float("nan"))])]) is None
    assert chart("Loss", [Curve(label="loss", points=[(1, -1.0), (2, 0.0)])], is_logarithmic=True) is None


def test_a_chart_says_where_its_lines_begin_and_end():
    drawn = chart("Accuracy", [Curve(label="quantised", points=POINTS, kept_epoch=2)], unit="%")
    assert drawn is not None
    assert drawn.picture.alternative == (
        "Accuracy. quantised: 50 % in epoch 1, 80 % in epoch 3, 75 % in epoch 2, which was kept."
    )


def test_a_chart_is_the_same_svg_every_time_and_follows_light_and_dark():
    one, other = (chart("Accuracy", [Curve(label="", points=POINTS)]) for _ in range(2))
    assert one is not None
    assert one == other
    svg = text_of(one.picture)
    root = ElementTree.fromstring(svg)
    assert (one.picture.width, one.picture.height) == (drawing.WIDTH, drawing.HEIGHT)
    assert root.get("viewBox") == f"0 0 {drawing.WIDTH} {drawing.HEIGHT}"
    assert "epoch" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "prefers-color-scheme:dark" in svg
    for light, dark in drawing.DARK.items():
        # Each colour is named where it is defined, and nowhere else.
        assert svg.count(light) == svg.count(dark) == 1
    assert "date" not in svg


def test_a_histogram_has_a_bar_a_bucket_at_the_buckets_value():
    grid = BucketGrid(center=0.0, radius=4.5, count=9)
    tensor = QuantizedTensor(name="w", indices=np.array([3, 4, 4, 4, 6]), grid=grid, dtype=Dtype.float32)
    found = histograms.of_buckets(tensor, None)
    assert found.centers.tolist() == [-1.0, 0.0, 1.0, 2.0]
    assert found.counts.tolist() == [1, 3, 0, 1]
    (bars,) = histograms.figure_of(found).axes[0].patches
    values, edges, baseline = bars.get_data()
    assert edges[::2] == pytest.approx([-1.4, -0.4, 1.6])
    assert edges[1::2] == pytest.approx([-0.6, 0.4, 2.4])
    assert values.tolist() == [1, baseline, 3, baseline, 1]
    assert histograms.draw(found).alternative == (
        "Histogram of w: 5 weights in 3 buckets, from -1 to 2; 60.0% of them at 0, the most common."
    )


def test_latent_weights_are_a_line_over_the_bars():
    grid = BucketGrid(center=0.0, radius=4.5, count=9)
    tensor = QuantizedTensor(name="w", indices=np.array([3, 4, 4, 4, 6]), grid=grid, dtype=Dtype.float32)
    latent = np.array([-1.1, 0.1, 0.2, 0.1, 2.0])
    (line,) = histograms.figure_of(histograms.of_buckets(tensor, latent)).axes[0].lines
    places, heights = line.get_data()
    assert heights[np.argmin(abs(places - 0.125))] == 3
    assert heights[heights > histograms.LEAST].sum() == 5


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
    assert "nan" not in text_of(histograms.draw(found)).lower()


def test_nothing_finite_has_no_histogram():
    assert histograms.of_values("w", np.array([float("nan")])) is None


def test_histograms_of_several_tensors_stand_two_by_two_in_one_png(tmp_path):
    drawn = [histograms.of_values(name, np.linspace(-1, 1, 9)) for name in ("a", "b", "c")]
    histograms.save(tmp_path / "b.png", drawn)
    with Image.open(tmp_path / "b.png") as image:
        assert image.format == "PNG"
        quarters = [image.crop(box).convert("L") for box in ((0, 0, 660, 286), (660, 286, 1320, 572))]
    assert len(np.unique(np.asarray(quarters[0]))) > 10
    assert np.unique(np.asarray(quarters[1])).tolist() == [255]


def test_filters_are_blue_where_positive_orange_where_negative_clear_where_zero():
    tiles = np.array([[[[2.0, 0.0], [-2.0, 1.0]]]])
    drawn = first_layer.draw(tiles, largest=2.0, alternative="")
    with Image.open(io.BytesIO(base64.b64decode(drawn.address.partition(",")[2]))) as image:
        assert image.size == (drawn.width, drawn.height)
        scale = (drawn.width - 2 * first_layer.FRAME_WIDTH) // 2
        places = [(first_layer.FRAME_WIDTH + scale // 2 + scale * x, first_layer.FRAME_WIDTH + scale // 2 + scale * y)
                  for y in range(2) for x in range(2)]  # fmt: skip
        positive, zero, negative, smaller = (image.getpixel(place) for place in places)
    assert positive == (*first_layer.POSITIVE, 255)
    assert zero[3] == 0
    assert negative == (*first_layer.NEGATIVE, 255)
    assert smaller[:3] == first_layer.POSITIVE
    assert 0 < smaller[3] < 255


def test_filters_stand_in_rows_and_the_channels_of_a_unit_below_each_other():
    tiles = np.arange(1.0, 1 + 5 * 2).reshape(5, 2, 1, 1) * np.ones((1, 1, 4, 4))
    drawn = first_layer.draw(tiles, largest=10.0, alternative="")
    side = 4 * first_layer.LARGEST_SCALE + 2 * first_layer.FRAME_WIDTH
    with Image.open(io.BytesIO(base64.b64decode(drawn.address.partition(",")[2]))) as image:
        across, down = image.width // side, image.height // side
        alphas = [[image.getpixel((side * x + side // 2, side * y + side // 2))[3] for x in range(across)]
                  for y in range(down)]  # fmt: skip
    expected = np.round(255 * np.sqrt(np.arange(1, 11) / 10)).astype(int).reshape(5, 2)
    assert across == 4
    assert alphas == [[*expected[:4, 0]], [*expected[:4, 1]], [expected[4, 0], 0, 0, 0], [expected[4, 1], 0, 0, 0]]


def test_weights_that_nobody_ships_do_not_set_the_axis():
    points = [(epoch, 98.0 + epoch / 100) for epoch in range(20)]
    falling = [(epoch, 98.0 - 4 * epoch) for epoch in range(20)]
    curves = [Curve(label="quantised", points=points), Curve(label="latent", points=falling, kind="second")]
    figure = drawing.figure_of(curves, is_close=True)
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert 97 < low < 98.1
    assert 98.2 < high < 99
