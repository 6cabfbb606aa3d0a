"""How λ, freezing and learning rates of step sizes change over a training, whatever leads it."""

from __future__ import annotations

import pytest
import torch

from metaq.regularizer.config import FreezeConfig, RegularizerConfig
from metaq.regularizer.pace import SETTLE
from metaq.regularizer.schedule import FixedSchedule, Schedule
from metaq.regularizer.size_control import SizeControl

FREEZE = FreezeConfig(start=1 - SETTLE, first_threshold=0.04, last_threshold=0.002)


def fixed() -> FixedSchedule:
    return FixedSchedule(RegularizerConfig(strength=1.0, freeze=FREEZE))


def led(led_by: str) -> SizeControl:
    """A control whose bits are on their path to 125 bytes."""
    control = SizeControl(
        RegularizerConfig(led_by=led_by, freeze=FREEZE),
        limit_bytes=145,
        fixed_bytes=20,
        fixed_estimate=0.0,
        counts=torch.tensor([4000.0]).double(),
    )
    control.watch(torch.tensor([1.0]).double(), 0.9)
    control.weigh(1.0, torch.ones(1).double(), 0.9)
    return control


SCHEDULES = pytest.mark.parametrize(
    "schedule", [fixed(), led("step"), led("strength")], ids=["fixed", "by step", "by strength"]
)


@SCHEDULES
def test_the_threshold_of_freezing_falls_geometrically_once_weights_settle(schedule: Schedule) -> None:
    assert schedule.freeze_threshold(1 - SETTLE - 1e-9) is None
    found = [schedule.freeze_threshold(1 - SETTLE * (1 - share)) for share in (0.0, 0.5, 1.0)]
    assert found == pytest.approx([0.04, (0.04 * 0.002) ** 0.5, 0.002])


@SCHEDULES
def test_step_sizes_are_learned_ever_slower_as_weights_settle(schedule: Schedule) -> None:
    rates = [schedule.step_learning_rate(progress) for progress in (0.2, 1 - SETTLE, 1 - SETTLE / 2, 1.0)]
    assert rates == pytest.approx([1e-3, 1e-3, 5.5e-4, 1e-4])


@SCHEDULES
def test_the_strength_decays_as_weights_settle(schedule: Schedule) -> None:
    strengths = [schedule.strength(1 - SETTLE * (1 - share / 10)) for share in range(11)]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[-1] < 0.9 * strengths[0]


def test_a_training_that_goes_on_beyond_its_end_stays_there_and_trains_on() -> None:
    for schedule in (fixed(), led("step"), led("strength")):
        assert schedule.freeze_threshold(1.3) is None
        assert schedule.settled(1.3) == pytest.approx(schedule.settled(1.0))
        assert schedule.strength(1.3) == pytest.approx(schedule.strength(1.0))
