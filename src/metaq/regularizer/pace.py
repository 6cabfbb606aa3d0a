"""Where a training stands between its first step and its last, which may not be known."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from metaq.config import require

SCALE = 500
"""Steps after which a training of unknown length has half its way to the goal behind it."""

SETTLE = 0.1
"""Last share of a training, in which step sizes keep still and oscillating weights are frozen."""


def require_steps(total_steps: float) -> None:
    """Raise :class:`~metaq.errors.ConfigError` for what is no number of steps."""
    is_whole = isinstance(total_steps, Integral) and not isinstance(total_steps, bool)
    require(is_whole and total_steps >= 1, f"total_steps: {total_steps} is no whole number from 1 upwards.")


class Pace:
    """From steps to the share of a training that is over, from 0 to 1, and beyond once there are more than planned.

    Of `total_steps` steps the share grows in proportion; without them it approaches that at which weights begin to
    settle. The number may be changed at any time: what is left of the path to a goal is then spread over what is left
    of the steps, and weights that have begun to settle are free again until shortly before the new end.
    """

    def __init__(self, total_steps: int | None) -> None:
        if total_steps is not None:
            require_steps(total_steps)
        self.total_steps = total_steps
        self._from_steps, self._from_share = 0, 0.0

    def at(self, steps: int) -> float:
        """Share that is over after so many steps."""
        passed = steps - self._from_steps
        if self.total_steps is None:
            return (1 - SETTLE) * passed / (passed + SCALE)
        return self._from_share + (1 - self._from_share) * (passed / (self.total_steps - self._from_steps))

    def change(self, total_steps: int, *, steps: int) -> None:
        """Plan for so many steps in all, `steps` of which are done."""
        require_steps(total_steps)
        require(
            total_steps > steps,
            f"total_steps: {total_steps} leaves nothing to train after {steps} steps; call finish().",
        )
        share = self.at(steps)
        # Weights that have begun to settle are to do so at the new end.
        self._from_share = share if share <= 1 - SETTLE else 1 - 2 * SETTLE
        self._from_steps, self.total_steps = steps, total_steps

    def state_dict(self) -> dict[str, Any]:
        """Numbers that :meth:`load_state_dict` takes over."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        vars(self).update(state_dict)
