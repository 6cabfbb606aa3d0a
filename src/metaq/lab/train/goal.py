"""Steering a training to an accuracy or to a size: the only thing a user has to name."""

import math
from collections.abc import Mapping
from typing import Any

from metaq.lab.train.config import GoalConfig
from metaq.lab.train.records import EpochRecord
from metaq.regularizer.schedule import PlannedSchedule

LOOSE_ERROR = 2.5
"""Error while weights still flip between buckets, over that once they have settled."""

FALL_SOFTNESS = 1.2
"""The bits fall at full speed while the logarithm of the error is further than this below what it may be."""

SLOWEST_SPEED = -0.3
"""While the bits are pressed down, they may also rise again so fast."""

MOST_FALL = math.log(2)
"""Of the logarithm of the bits between two looks at the accuracy, however few epochs there are."""

SMOOTHING = 0.5
"""Weight of the newest epoch in the running mean of the accuracy."""


class Goal:
    """Drives the schedule of the regulariser by what every epoch measured on so many validation `images`."""

    def __init__(self, config: GoalConfig, schedule: PlannedSchedule, *, images: int) -> None:
        self._config = config
        self._schedule = schedule
        self._images = images
        self._target = math.nan if config.accuracy is None else config.accuracy
        self._smoothed = math.nan

    def steer(self, record: EpochRecord, progress: float, next_progress: float) -> None:
        """After an epoch that ended at `progress`; the next one ends at `next_progress`."""
        schedule, bits = self._schedule, max(record.bits, 1.0)
        fastest = schedule.speed_of(MOST_FALL, next_progress - progress)
        if schedule.phase(progress).kind == "warmup":
            schedule.speed = fastest
            return
        accuracy = record.quantized_accuracy
        before = accuracy if math.isnan(self._smoothed) else self._smoothed
        self._smoothed = before + SMOOTHING * (accuracy - before)
        if self._config.bytes is not None:
            assert record.file_bytes is not None
            schedule.goal = self._config.bytes * bits / record.file_bytes
            return
        if schedule.goal is None and schedule.rises_at(next_progress):
            schedule.set_lowest(bits)
        elif schedule.goal is None:
            error = max(1 - self._smoothed / 100, 0.5 / self._images)
            allowed = max(1 - self._target / 100, 1 / self._images)
            room = math.log(LOOSE_ERROR * allowed / error) / FALL_SOFTNESS
            schedule.speed = max(SLOWEST_SPEED, min(fastest, room))

    def rank(self, record: EpochRecord, progress: float) -> tuple[float, ...]:
        """Of the epoch last steered by: larger is better; what meets the goal, then what is best beyond it.

        Settled weights come before others. An epoch counts as no more accurate than the running mean, so that one
        which is lucky on the validation images is not taken at its word.
        """
        assert record.file_bytes is not None
        settled = self._schedule.phase(min(progress, 1.0) - 1e-9).kind == "settle"
        accuracy, size = record.quantized_accuracy, record.file_bytes
        if not math.isnan(self._smoothed):
            accuracy = min(accuracy, self._smoothed)
        if self._config.bytes is not None:
            fits = size <= self._config.bytes
            return (settled, fits, accuracy, -size) if fits else (settled, fits, -size, accuracy)
        is_met = accuracy >= self._target
        return (settled, is_met, -size, accuracy) if is_met else (settled, is_met, accuracy, -size)

    def state_dict(self) -> dict[str, Any]:
        """Numbers that :meth:`load_state_dict` takes over."""
        return {"smoothed": self._smoothed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._smoothed = state_dict["smoothed"]
