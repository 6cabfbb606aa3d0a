from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from metaq import EntropyRegularizer
from metaq.errors import ConfigError
from metaq.regularizer.config import PlanConfig, RegularizerConfig
from metaq.regularizer.schedule import FixedSchedule, PlannedSchedule, phase_at, schedule_of

PLAN = PlanConfig(press=0.5, fall=0.8, undershoot=0.8, settle=0.1)
WARMUP = 0.1


def planned(**changes) -> PlannedSchedule:
    config = RegularizerConfig(warmup=WARMUP, plan=PLAN, **changes)
    schedule = schedule_of(config, weights=1000)
    assert isinstance(schedule, PlannedSchedule)
    return schedule


def test_phases_follow_each_other_without_gaps():
    seen = [phase_at(PLAN, WARMUP, step / 1000) for step in range(1001)]
    order = [phase.kind for phase in seen]
    assert [order[0], *(b for a, b in itertools.pairwise(order) if a != b)] == ["warmup", "press", "settle"]
    assert all(0 <= phase.share <= 1 for phase in seen)
    assert seen[-1].share == 1


def test_weights_settle_until_the_end():
    plan = PlanConfig(press=0.5, settle=0.2)
    assert phase_at(plan, 0.1, 1.0).kind == "settle"


def simulate(schedule: PlannedSchedule, bits: float, *, refreshes: int, sensitivity: float) -> list[float]:
    """A model whose bits relax towards a level that falls with the strength."""
    trace = []
    for refresh in range(refreshes):
        progress = WARMUP + (1 - WARMUP) * refresh / refreshes
        schedule.observe(bits, progress)
        level = sensitivity * schedule.strength(progress) ** -0.5
        bits += 0.1 * (min(level, 2 * bits) - bits)
        trace.append(bits)
    return trace


@pytest.mark.parametrize("sensitivity", [1.0, 30.0, 1000.0])
def test_the_strength_finds_the_bits_whatever_the_scale_of_the_loss(sensitivity):
    schedule = planned(target_bits=5000.0)
    trace = simulate(schedule, 100_000.0, refreshes=600, sensitivity=sensitivity)
    pressed = trace[int(600 * 0.5 / 0.9) - 5]
    assert pressed == pytest.approx(5000, rel=0.1)
    assert min(trace) < 5000


def test_the_path_undershoots_and_comes_back():
    schedule = planned(target_bits=1000.0)
    path = []
    for step in range(100, 600):
        schedule.observe(4000.0, step / 1000)
        path.append(math.exp(schedule._path))
    assert path[0] == pytest.approx(4000)
    assert min(path) == pytest.approx(800, rel=0.01)
    assert path[-1] == pytest.approx(1000, rel=0.01)
    assert path.index(min(path)) == pytest.approx(400, abs=2)


def test_without_a_goal_the_path_falls_at_the_given_speed_until_it_is_told_to_stop():
    schedule = planned()
    schedule.observe(10_000.0, 0.1)
    schedule.observe(10_000.0, 0.2)
    fallen = schedule._path
    assert fallen == pytest.approx(math.log(10_000) - math.log(PLAN.deepest) * 0.1 / PLAN.press)
    schedule.speed = 0.0
    schedule.observe(10_000.0, 0.3)
    assert schedule._path == fallen
    schedule.set_lowest(800.0)
    schedule.observe(800.0, 0.65)
    assert math.exp(schedule._path) == pytest.approx(1000)


def settling(bits_of, **changes) -> tuple[PlannedSchedule, list[float]]:
    """A schedule and its strengths while weights settle, at `bits_of` the time of settling that is done."""
    schedule = planned(**changes)
    if schedule.goal is None:
        schedule.set_lowest(1000.0 * PLAN.undershoot)
    for step in range(100, 600):
        schedule.observe(1000.0, step / 1000)
    strengths = [schedule.strength(0.6)]
    for step in range(600, 700):
        schedule.observe(bits_of((step - 600) / 100), step / 1000)
        strengths.append(schedule.strength(0.7))
    return schedule, strengths


@pytest.mark.parametrize(
    ("bits", "changes"),
    [(1000.0, {"target_bits": 1000.0}), (5000.0, {})],
    ids=["a size that is kept", "a size that was not asked for"],
)
def test_the_strength_decays_as_weights_settle(bits, changes):
    _, strengths = settling(lambda _: bits, **changes)
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[-1] == pytest.approx(strengths[0] * PLAN.decay_end, rel=0.05)


def test_the_strength_is_driven_while_a_size_is_exceeded_and_decays_from_there():
    _, strengths = settling(lambda done: 1030.0 if 0.3 <= done < 0.6 else 999.0, target_bits=1000.0)
    exceeded, after = strengths[31:60], strengths[62:]
    assert exceeded == sorted(exceeded)
    assert after == sorted(after, reverse=True)
    assert strengths[30] < after[0] <= exceeded[-1]
    assert after[-1] / after[0] == pytest.approx(PLAN.decay_end**0.38, rel=0.1)


def test_learning_slows_down_as_weights_settle():
    schedule, _ = settling(lambda _: 1000.0, target_bits=1000.0)
    assert schedule.freeze_threshold(0.59) is None
    assert schedule.freeze_threshold(0.61) > schedule.freeze_threshold(0.69)
    assert schedule.learning_rate_share(0.3) == 1
    assert schedule.learning_rate_share(0.699) == pytest.approx(PLAN.quiet_speed * PLAN.last_speed, rel=0.01)


def test_learning_slows_down_as_the_bits_rise_again():
    schedule = planned(target_bits=1000.0)
    rise_begins = 0.1 + PLAN.press * PLAN.fall
    shares = [
        schedule.learning_rate_share(rise_begins + part * PLAN.press * (1 - PLAN.fall)) for part in (0.0, 0.5, 0.99)
    ]
    assert shares == pytest.approx([1.0, (1 + PLAN.quiet_speed) / 2, PLAN.quiet_speed], abs=0.01)


def test_the_state_goes_on():
    first, second = planned(target_bits=1000.0), planned(target_bits=1000.0)
    for step in range(100, 300):
        first.observe(9000.0 - 20 * step, step / 1000)
    second.load_state_dict(first.state_dict())
    for step in range(300, 900):
        first.observe(1500.0, step / 1000)
        second.observe(1500.0, step / 1000)
    assert first.state_dict() == second.state_dict()


def test_a_fixed_schedule_is_not_driven():
    schedule = schedule_of(RegularizerConfig(strength=1.0, warmup=0.0, ramp=0.0, decay_end=1.0), weights=10)
    assert isinstance(schedule, FixedSchedule)
    schedule.observe(1e9, 0.5)
    assert schedule.strength(0.5) == 1.0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"target_bits": 100.0}, "plan"),
        ({"plan": PLAN, "objective": "spread"}, "code_length"),
        ({"plan": PLAN, "forward": "float"}, "quantized"),
        ({"plan": PLAN, "target_bits": 0.0}, "target_bits"),
        ({"plan": PLAN, "warmup": 0.5}, "warm-up"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        RegularizerConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"press": 0.0}, {"settle": 0.8}, {"fall": 1.0}, {"deepest": 1.0}],
)
def test_plans_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match="plan"):
        PlanConfig(**changes)


def test_a_model_reaches_the_bits_asked_for():
    torch.manual_seed(0)
    teacher = nn.Linear(32, 4)
    inputs = torch.randn(2048, 32)
    labels = teacher(inputs).argmax(dim=1)
    sizes = {}
    for target in (600.0, 1800.0):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 4))
        optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
        config = RegularizerConfig(plan=PlanConfig(), warmup=0.1, target_bits=target)
        regularizer = EntropyRegularizer(model, config, total_steps=3000).attach(optimizer)
        for step in range(3000):
            batch = slice(64 * (step % 32), 64 * (step % 32) + 64)
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        regularizer.finish()
        sizes[target] = regularizer.report().bits
    assert sizes[600.0] == pytest.approx(600, rel=0.35)
    assert sizes[1800.0] == pytest.approx(1800, rel=0.35)
