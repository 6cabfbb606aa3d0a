"""Trainings to a figure of merit, and trainings whose length is not known or changes."""

from __future__ import annotations

import io
import math

import pytest
import torch
from teacher_loop import STEPS, Loop, float_bytes, trained

from metaq import ConfigError, EntropyRegularizer, load
from metaq.compression.compressed import Goal
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.last_choice import LOOKS, coarsest
from metaq.regularizer.pace import SCALE, SETTLE, Pace
from metaq.regularizer.quality_control import LATEST, QualityControl

LOOK = 20


def untouched_error(*, steps: int = STEPS) -> float:
    loop = Loop()
    for _ in range(steps):
        loop.step()
    return loop.error()


def observed(loop: Loop, *, steps: int = STEPS, figure=None, **goal) -> EntropyRegularizer:
    regularizer = EntropyRegularizer(loop.model, total_steps=STEPS, **goal).attach(loop.optimizer)
    go_on(loop, regularizer, steps, figure)
    return regularizer


def go_on(loop: Loop, regularizer: EntropyRegularizer, steps: int, figure=None) -> None:
    for _ in range(steps):
        loop.step()
        if regularizer.steps % LOOK == 0:
            regularizer.observe((figure or loop.error)())


def size(regularizer, tmp_path) -> int:
    return regularizer.save(tmp_path / "model.metaq").file_bytes


@pytest.mark.parametrize(("slack", "ratio"), [(1.2, 4), (2.0, 5), (6.0, 5)])
def test_the_figure_keeps_to_its_target(tmp_path, slack, ratio):
    target, loop = slack * untouched_error(), Loop()
    regularizer = observed(loop, target_value=target, larger_is_better=False)
    regularizer.finish()
    assert loop.error() <= target
    assert size(regularizer, tmp_path) < float_bytes(loop.model) / ratio
    loop.model.load_state_dict(load(tmp_path / "model.metaq"))
    assert loop.error() <= target * (1 + 1e-5)


def test_the_more_may_be_lost_the_smaller_the_file(tmp_path):
    sizes, target = [], untouched_error()
    for slack in (1.2, 3.0, 20.0):
        regularizer = observed(Loop(), target_value=slack * target, larger_is_better=False)
        regularizer.finish()
        sizes.append(size(regularizer, tmp_path))
    assert sizes[0] > 1.2 * sizes[1] > 1.2**2 * sizes[2]


def test_neither_the_scale_of_the_figure_nor_its_sign_matters(tmp_path):
    target, files = 2 * untouched_error(), []
    for scale, offset in ((1.0, 0.0), (1024.0, 0.0), (-1024.0, 4096.0)):
        loop = Loop()
        regularizer = observed(
            loop,
            figure=lambda loop=loop, scale=scale, offset=offset: scale * loop.error() + offset,
            target_value=scale * target + offset,
            larger_is_better=scale < 0,
        )
        regularizer.finish()
        files.append(size(regularizer, tmp_path))
    assert files[0] == files[1]
    assert files[2] == pytest.approx(files[0], rel=0.02)


def test_a_trained_network_loses_what_it_may(tmp_path):
    loop = Loop()
    for _ in range(STEPS):
        loop.step()
    for group in loop.optimizer.param_groups:
        group["lr"] = 3e-4
    before = loop.error()
    regularizer = EntropyRegularizer(loop.model, total_steps=STEPS, max_drop=before, larger_is_better=False)
    regularizer.observe(before)
    go_on(loop, regularizer.attach(loop.optimizer), STEPS)
    regularizer.finish()
    assert loop.error() <= 2 * before
    assert size(regularizer, tmp_path) < float_bytes(loop.model) / 7


def test_an_evaluation_at_an_early_end_is_enough(tmp_path):
    target, loop = 20 * untouched_error(), Loop()
    regularizer = EntropyRegularizer(loop.model, total_steps=STEPS, target_value=target, larger_is_better=False)
    regularizer.attach(loop.optimizer)
    for _ in range(STEPS // 2):
        loop.step()
    regularizer.finish(evaluate=loop.error)
    assert loop.error() <= target
    assert size(regularizer, tmp_path) < float_bytes(loop.model) / 8


@pytest.mark.parametrize("is_other", [False, True])
@pytest.mark.parametrize("goal", [{"target_ratio": 12}, {"config": RegularizerConfig(strength=1e-5)}])
def test_an_evaluation_is_for_figures(goal, is_other):
    loop = Loop()
    regularizer = trained(loop, steps=100, **goal)
    if is_other:
        loop.model.load_state_dict(Loop(seed=1).model.state_dict())
    with pytest.raises(ConfigError, match="evaluate: is for goals of a figure"):
        regularizer.finish(evaluate=lambda: 1.0)
    assert not regularizer.finished


def test_an_evaluation_beside_grids_is_refused_before_the_training_ends():
    loop = Loop()
    regularizer = observed(loop, steps=100, target_value=1.0, larger_is_better=False)
    with pytest.raises(ConfigError, match="evaluate: grids say what the file holds"):
        regularizer.finish(regularizer.grids(), evaluate=loop.error)
    loop.step()
    assert regularizer.steps == 101


def foreign_weights() -> dict[str, torch.Tensor]:
    """Of a good network that has nothing to do with that of seed 0."""
    loop = Loop(seed=1)
    for _ in range(STEPS):
        loop.step()
    return loop.model.state_dict()


def are_of(loop: Loop, weights: dict[str, torch.Tensor]) -> bool:
    """Whether the model holds `weights`, but for an error of quantisation."""
    pairs = [(tensor, weights[name]) for name, tensor in loop.model.state_dict().items()]
    apart, whole = (
        sum(float(t.square().sum()) for t in of) for of in ([t - w for t, w in pairs], [w for _, w in pairs])
    )
    return apart < 0.2 * whole


def test_foreign_weights_are_what_an_evaluation_makes_smaller(tmp_path):
    target, given, sizes = 1.1 * untouched_error(), foreign_weights(), []
    for evaluates in (False, True):
        loop = Loop()
        regularizer = observed(loop, target_value=target, larger_is_better=False)
        loop.model.load_state_dict(given)
        regularizer.finish(evaluate=loop.error if evaluates else None)
        assert loop.error() <= target
        assert are_of(loop, given)
        sizes.append(size(regularizer, tmp_path))
    assert sizes[1] < 0.8 * sizes[0]


def test_an_evaluation_leads_foreign_weights_to_the_goal():
    """Those that the training kept reach it with half the bits, but somebody has put others in their place."""
    target, given, loop = 4 * untouched_error(), foreign_weights(), Loop()
    regularizer = observed(loop, target_value=target, larger_is_better=False)
    loop.model.load_state_dict(given)
    regularizer.finish(evaluate=loop.error)
    assert loop.error() <= target
    assert are_of(loop, given)


@pytest.mark.parametrize("evaluates", [False, True])
def test_foreign_weights_that_are_never_good_enough_stay(caplog, evaluates):
    loop, given = Loop(), Loop(seed=1).model.state_dict()
    target = 2 * untouched_error()
    regularizer = observed(loop, target_value=target, larger_is_better=False)
    loop.model.load_state_dict(given)
    regularizer.finish(evaluate=loop.error if evaluates else None)
    assert are_of(loop, given)
    assert "No figure of these weights was seen to keep to the goal" in caplog.text


def test_with_an_evaluation_at_the_end_no_room_is_left(tmp_path):
    target, sizes = 4 * untouched_error(), []
    for squeezes in (False, True):
        loop = Loop()
        regularizer = observed(loop, target_value=target, larger_is_better=False)
        regularizer.finish(evaluate=loop.error if squeezes else None)
        assert loop.error() <= target
        sizes.append(size(regularizer, tmp_path))
    assert sizes[1] <= sizes[0]


def test_weights_whose_figure_misses_at_the_end_give_way_to_those_that_kept_to_it():
    target, loop = 2 * untouched_error(), Loop()
    regularizer = observed(loop, target_value=target, larger_is_better=False)
    for _ in range(30):
        loop.model[0].weight.data.add_(torch.randn(()))
        loop.step()
    regularizer.finish()
    assert loop.error() <= target


def test_that_nothing_kept_to_it_is_told(caplog):
    loop = Loop()
    best = []
    regularizer = observed(
        loop, figure=lambda: best.append(loop.error()) or best[-1], target_value=0.0, larger_is_better=False
    )
    regularizer.finish()
    assert "No figure kept to the goal (target_value=0.0" in caplog.text
    assert loop.error() == pytest.approx(min(best[4:]), rel=5e-3)


def test_a_resumed_training_ends_in_the_same_weights():
    goal = {"target_value": 2 * untouched_error(), "larger_is_better": False}
    straight = Loop()
    observed(straight, **goal).finish()
    first, kept = Loop(), io.BytesIO()
    regularizer = observed(first, steps=STEPS // 2, **goal)
    saved = first.model.state_dict(), first.optimizer.state_dict(), regularizer.state_dict()
    torch.save([*saved, first._generator.get_state()], kept)
    kept.seek(0)
    model, optimizer, state, batches = torch.load(kept, weights_only=True)
    second = Loop()
    regularizer = EntropyRegularizer(second.model, total_steps=STEPS, **goal).attach(second.optimizer)
    second.model.load_state_dict(model)
    second.optimizer.load_state_dict(optimizer)
    regularizer.load_state_dict(state)
    second._generator.set_state(batches)
    go_on(second, regularizer, STEPS // 2)
    regularizer.finish()
    for one, other in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    other = EntropyRegularizer(Loop().model, total_steps=STEPS, target_ratio=10)
    with pytest.raises(ConfigError, match="give the same goal"):
        other.load_state_dict(state)


@pytest.mark.parametrize("before", [None, 1.0])
def test_a_figure_that_is_never_told_is_asked_for(before):
    loop = Loop()
    regularizer = EntropyRegularizer(loop.model, total_steps=50, max_drop=1.0, larger_is_better=True)
    regularizer.attach(loop.optimizer)
    if before is not None:
        regularizer.observe(before)
    for _ in range(math.ceil(LATEST * 50)):
        loop.step()
    with pytest.raises(ConfigError, match=r"call observe\(value\) after every evaluation"):
        loop.step()


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        ({"max_drop": 1.0}, "larger_is_better: say whether"),
        ({"target_value": 1.0}, "larger_is_better: say whether"),
        ({"max_drop": -1.0, "larger_is_better": True}, "must be zero or more"),
        ({"target_value": math.nan, "larger_is_better": True}, "must be a finite number"),
        ({"max_drop": 1.0, "target_ratio": 8.0, "larger_is_better": True}, "give one of them"),
        ({"target_ratio": 8.0, "larger_is_better": True}, "is about a figure"),
    ],
)
def test_goals_that_make_no_sense_are_refused(goal, told):
    with pytest.raises(ConfigError, match=told):
        EntropyRegularizer(Loop().model, total_steps=STEPS, **goal)


def control(**goal) -> QualityControl:
    return QualityControl(RegularizerConfig(), Goal(**goal), counts=torch.tensor([1000.0]).double())


def test_the_bound_follows_the_best_figure():
    own = control(max_drop=1.0, larger_is_better=True)
    own.observe(90.0, None, 0.05)
    own.observe(92.0, None, 0.1)
    own.observe(91.0, None, 0.15)
    assert own.keeps(91.0)
    assert not own.keeps(90.9)
    assert not own.keeps(math.nan)


def test_a_bad_figure_stops_the_fall():
    for bad in (math.nan, math.inf, -math.inf, 80.0):
        own = control(target_value=90.0, larger_is_better=True)
        own.observe(95.0, None, 0.1)
        own.path(5000.0, 0.15, 0.0)
        own.observe(95.0, 5000.0, 0.2)
        fallen = own.path(5000.0, 0.25, 0.05)
        assert fallen < math.log(5000.0)
        for _ in range(2):
            own.observe(bad, 4000.0, 0.3)
        assert own.path(4000.0, 0.35, 0.05) > fallen


class TestPace:
    def test_a_known_length_is_divided_evenly(self):
        assert [Pace(40).at(steps) for steps in (0, 10, 40, 50)] == [0.0, 0.25, 1.0, 1.25]

    def test_an_unknown_length_never_settles(self):
        shares = [Pace(None).at(steps) for steps in (0, 1, SCALE, 10**9)]
        assert shares == sorted(shares)
        assert shares[0] == 0.0
        assert shares[2] == pytest.approx((1 - SETTLE) / 2)
        assert shares[3] < 1 - SETTLE

    @pytest.mark.parametrize("before", [None, 200, 400])
    def test_a_change_spreads_what_is_left(self, before):
        pace = Pace(before)
        share = pace.at(100)
        pace.change(300, steps=100)
        assert pace.at(100) == share
        assert pace.at(200) == pytest.approx((1 + share) / 2)
        assert pace.at(300) == 1.0

    def test_there_must_be_steps_left(self):
        with pytest.raises(ConfigError, match="call finish"):
            Pace(None).change(100, steps=100)
        with pytest.raises(ConfigError, match="no whole number from 1 upwards"):
            Pace(0)


@pytest.mark.parametrize("steps", [150, 400, 1200])
def test_a_training_of_unknown_length_may_end_at_any_step(tmp_path, steps):
    loop = Loop()
    regularizer = trained(loop, steps=steps, total_steps=None, target_ratio=12)
    assert regularizer.total_steps is None
    regularizer.finish()
    assert 0.97 <= size(regularizer, tmp_path) * 12 / float_bytes(loop.model) <= 1.0


def test_the_length_may_be_told_late(tmp_path):
    loop = Loop()
    regularizer = trained(loop, steps=300, total_steps=None, target_ratio=12)
    regularizer.total_steps = 400
    for _ in range(100):
        loop.step()
    assert regularizer.report().frozen > 0
    regularizer.finish()
    assert 0.97 <= size(regularizer, tmp_path) * 12 / float_bytes(loop.model) <= 1.0
    with pytest.raises(ConfigError, match="has come to its end"):
        regularizer.total_steps = 500


@pytest.mark.parametrize("is_told", [True, False])
def test_weights_that_have_settled_train_on(tmp_path, is_told):
    loop = Loop()
    regularizer = trained(loop, steps=148, total_steps=150, target_ratio=12)
    assert regularizer.report().frozen > 0
    if is_told:
        regularizer.total_steps = 300
    for _ in range(50):
        loop.step()
    assert regularizer.report().frozen == 0
    for _ in range(102):
        loop.step()
    regularizer.finish()
    assert 0.93 <= size(regularizer, tmp_path) * 12 / float_bytes(loop.model) <= 1.0
    right = Loop()
    trained(right, steps=300, total_steps=300, target_ratio=12).finish()
    assert loop.error() < 1.5 * right.error()


def test_a_changed_length_survives_a_checkpoint():
    first = trained(Loop(), steps=50, total_steps=400, target_ratio=12)
    first.total_steps = 100
    second = EntropyRegularizer(Loop().model, total_steps=400, target_ratio=12)
    second.load_state_dict(first.state_dict())
    assert second.total_steps == 100
    assert second.state_dict()["pace"] == first.state_dict()["pace"]


def test_a_loop_that_ends_early_meets_the_goal_at_its_finish(tmp_path):
    for steps in (30, 200):
        loop = Loop()
        regularizer = trained(loop, steps=steps, target_ratio=12)
        regularizer.finish()
        assert 0.97 <= size(regularizer, tmp_path) * 12 / float_bytes(loop.model) <= 1.0


def test_without_a_goal_the_length_is_needed():
    with pytest.raises(ConfigError, match="give the number of optimiser steps, or a goal"):
        EntropyRegularizer(Loop().model, RegularizerConfig(strength=1e-4), total_steps=None)


def test_the_coarsest_is_found_in_few_looks():
    looks = []
    found = coarsest(lambda value: looks.append(value) or value <= 1.5, low=0.5, high=4.0)
    assert 1.4 < found <= 1.5
    assert len(looks) == LOOKS
    assert coarsest(lambda value: value <= 9, low=0.5, high=4.0) == 4.0
    assert coarsest(lambda value: value < 0, low=0.5, high=4.0) is None


def test_bits_for_which_there_is_no_room_fall_no_further():
    """They follow their path late, and it has gone on meanwhile."""
    own = control(target_value=90.0, larger_is_better=True)
    own.observe(95.0, None, 0.0)
    own.observe(95.0, 4000.0, 0.2)
    paths = [own.path(4000.0, 0.2 + number / 100, 0.01) for number in range(30)]
    assert paths[-1] < math.log(3000.0)
    own.observe(50.0, 4000.0, 0.5)
    assert own.path(4000.0, 0.5, 0.0) >= math.log(4000.0)
