"""The parts of benchmarks/knob.py, with a training loop of a second."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.optim import Adam

from knob import missing, run, wanted
from metaq.errors import ConfigError
from support.knob_plot import plot
from support.loops.base import MinibatchLoop, Parts
from support.loops.pruning import pruned_to
from support.loops.rows import Rows, figure_table, hand_table, is_as_good, is_met, summary, summary_lines, table

RATIO = 8.0


class Doubling(MinibatchLoop):
    """A layer that learns to double its inputs; `trainings` counts objects that began to train."""

    name: ClassVar[str] = "doubling"
    steps: ClassVar[int] = 30
    batch_size: ClassVar[int] = 16
    trainings: ClassVar[int] = 0

    def load(self, *_):
        inputs = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
        part = (inputs, 2 * inputs)
        return Parts(train=part, validation=part, test=part)

    def network(self):
        return nn.Linear(32, 32)

    def make_optimizers(self):
        return [Adam(self.model.parameters(), lr=1e-2)]

    def step(self, number):
        type(self).trainings += number == 0
        return super().step(number)


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(3)
    return {
        "large": torch.randn(40, 3, 5, generator=generator),
        "small": 0.01 * torch.randn(50, 20, generator=generator),
        "bias": torch.randn(50, generator=generator),
        "count": torch.tensor(7),
    }


def row(way, ratio, **figures):
    return {"loop": "doubling", "seed": 0, "way": way, "ratio": ratio, **figures}


def known(path=None):
    """Rows of a loss whose goal is met at 8x and refused at 40x."""
    rows = Rows(path)
    whole = {"figure": "mean squared error", "is_loss": True, "larger_is_better": False, "bytes": 8000}
    rows.add(row("float", None, **whole, test=1.0, validation=1.0, seconds=2.0))
    rows.add(row("goal", 8.0, bytes=990, limit=1000, test=1.01, seconds=3.0))
    rows.add(row("post-training", 8.0, bytes=1000, limit=1000, test=1.5, seconds=1.0))
    rows.add(row("pruning", 8.0, bytes=1000, limit=1000, test=float("nan")))
    rows.add(row("goal", 40.0, limit=200, refused="goal: 200 bytes cannot be reached."))
    rows.add(row("post-training", 40.0, limit=200, bytes=200, test=4.0))
    return rows


@pytest.mark.parametrize("limit", [300, 700, 1200, 1500])
def test_pruning_fills_its_bytes_and_never_exceeds_them(limit, state):
    found = pruned_to(state, limit)
    assert 0.9 * limit <= found.size_bytes <= limit


def test_pruning_keeps_the_largest_weights_of_all_tensors_together(state):
    found = pruned_to(state, 700)
    kept = {name: found.weights[name] != 0 for name in ("large", "small")}
    zeros = sum(int((~its).sum()) for its in kept.values())
    assert zeros == pytest.approx(1600 * found.share, abs=2)
    assert not kept["small"].any()
    assert state["large"].abs()[kept["large"]].min() >= state["large"].abs()[~kept["large"]].max()


def test_pruning_with_room_for_everything_prunes_nothing_but_rounds(state):
    found = pruned_to(state, 10_000)
    assert found.share == 0
    for name in ("large", "small"):
        step = state[name].abs().max() / 127
        assert (found.weights[name] - state[name]).abs().max() <= 0.5001 * step
    assert torch.equal(found.weights["bias"], state["bias"].half().float())
    assert torch.equal(found.weights["count"], state["count"])


def test_pruning_says_when_a_size_is_out_of_reach(state):
    with pytest.raises(ConfigError, match=r"50 bytes cannot be reached"):
        pruned_to(state, 50)


def test_a_run_that_is_in_the_file_is_not_repeated(tmp_path):
    path, ways = tmp_path / "knob.json", list(wanted([RATIO], to_figures=False, by_hand=False))
    rows = Rows(path)
    before = Doubling.trainings
    run(Doubling, 0, ways, rows, None)
    first = json.loads(path.read_text())["rows"]
    assert [(each["way"], each["ratio"]) for each in first] == ways
    assert Doubling.trainings == before + 2  # one float, one to the goal

    again = Rows(path)
    assert list(missing(["doubling"], [0], ways, again)) == []
    assert list(missing(["doubling"], [0, 1], [*ways, ("goal", 9.0)], again)) == [
        ("doubling", 0, [("goal", 9.0)]),
        ("doubling", 1, [*ways, ("goal", 9.0)]),
    ]
    assert again.all == first


def test_a_stopped_run_goes_on_to_the_same_figures(tmp_path):
    ways = [("float", None), ("post-training", RATIO), ("pruning", RATIO)]
    whole, stopped = Rows(None), Rows(tmp_path / "knob.json")
    run(Doubling, 0, ways, whole, None)
    run(Doubling, 0, ways[:1], stopped, None)
    gone_on = Rows(tmp_path / "knob.json")
    run(Doubling, 0, ways[1:], gone_on, None)
    assert [each["test"] for each in gone_on.all] == [each["test"] for each in whole.all]


def test_all_ways_come_to_at_most_the_bytes_of_the_goal():
    rows = Rows(None)
    run(Doubling, 0, list(wanted([RATIO], to_figures=True, by_hand=True)), rows, None)
    assert not [each for each in rows.all if "refused" in each]
    small = [each for each in rows.all if each["ratio"] == RATIO]
    assert {each["limit"] for each in small} == {int(4 * 33 * 32 / RATIO)}
    assert all(each["bytes"] <= each["limit"] for each in small)
    assert "| doubling | 0 | 0.01 | 0.5 |" in hand_table(rows)
    (found,) = [each for each in rows.all if each["way"] == "figure"]
    assert found["bound"] == pytest.approx(1.05 * rows.find("doubling", 0, "float")["validation"])
    assert found["validation"] <= found["bound"]
    assert figure_table(rows).splitlines()[2].startswith("| doubling | 0 | ")


def test_a_goal_out_of_reach_is_recorded_with_its_sentence():
    rows = Rows(None)
    run(Doubling, 0, [("goal", 1000.0), ("pruning", 1000.0)], rows, None)
    assert all("4 bytes cannot be reached" in each["refused"] for each in rows.all)


def test_the_table_has_a_line_per_ratio():
    lines = table(known()).splitlines()
    assert lines[2:] == [
        "| doubling | mean squared error | 1 | 8 | 1.01 | 1.5 | nan | 0.990 | 1.50 |",
        "| doubling | mean squared error | 1 | 40 | refused | 4 |  |  |  |",
    ]


def test_the_table_of_several_seeds_has_medians_and_ranges():
    rows = known()
    for seed, test in ((1, 2.0), (2, 3.0)):
        rows.add({**rows.all[0], "seed": seed, "test": test})
    assert "| 2 (1 to 3) |" in table(rows)


def test_the_summary_counts_what_is_refused_as_worse():
    told = summary(known())
    assert told == {
        "as_good_as_float": {"yes": 1, "of": 1},
        "goals_met": {"yes": 1, "of": 2},
        "figures_kept": {"yes": 0, "of": 0},
        "better_than_post-training": {"better": 1, "equal": 0, "refused": 0, "of": 2},
        "better_than_pruning": {"better": 1, "equal": 0, "refused": 0, "of": 1},
    }
    assert "1 of 2 goals are met" in summary_lines(told)


def test_figures_that_are_kept_are_counted_and_set_beside_the_smallest_by_hand():
    rows = known()
    rows.add(row("figure", None, bytes=500, bound=1.05, validation=1.04, test=1.06))
    for number, (size, validation) in enumerate([(900, 1.0), (400, 1.05), (100, 1.06)]):
        rows.add(row(f"hand {number + 1}", None, bytes=size, validation=validation, test=1.0))
    assert "1 of 1 trainings to a figure keep to it" in summary_lines(summary(rows))
    assert figure_table(rows).splitlines()[2:] == ["| doubling | 0 | 1 | 1.05 | 1.04 | 1.06 | 16.0 | 20.0 |"]
    assert figure_table(known()) == ""


@pytest.mark.parametrize(
    ("is_loss", "whole", "small", "is_good"),
    [(True, 1.0, 1.02, True), (True, 1.0, 1.03, False), (False, 90.0, 89.5, True), (False, 90.0, 89.4, False)],
)
def test_as_good_is_by_ratio_for_losses_and_by_points_for_accuracies(is_loss, whole, small, is_good):
    assert is_as_good({"test": small}, {"test": whole, "is_loss": is_loss}) is is_good


@pytest.mark.parametrize(("size", "expected"), [(1000, True), (1001, False), (970, True), (969, False)])
def test_a_goal_is_met_from_just_below_it(size, expected):
    assert is_met({"bytes": size, "limit": 1000}) is expected


def test_the_picture_has_a_line_of_every_way_that_has_figures(tmp_path):
    plot(known(), tmp_path / "knob.png")
    assert (tmp_path / "knob.png").read_bytes().startswith(b"\x89PNG")
