"""A regulariser whose life somebody else's training loop decides on: what the trainers' callbacks have in common."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from torch import nn

from metaq import container
from metaq.compression.compressed import Goal
from metaq.config import require
from metaq.container import WriteReport
from metaq.errors import ConfigError
from metaq.model.sharding import is_sharded, unwrapped, whole
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.entropy_regularizer import EntropyRegularizer
from metaq.tensors.grid import BucketGrid

FIGURES = ("bits_per_weight", "bits", "phi_bits", "distance", "frozen")
"""Of a report, what is logged."""

NO_GOAL = Goal()


class TrainingSession:
    """A regulariser from the first step of a training to its end, however that comes.

    Takes what :class:`metaq.EntropyRegularizer` takes, its goal as one object; `regularizer` is the one of `model`, to
    be attached.
    """

    def __init__(
        self, model: nn.Module, config: RegularizerConfig | None, *, total_steps: int | None, goal: Goal = NO_GOAL
    ) -> None:
        self.model = model
        self.regularizer = EntropyRegularizer(model, config, total_steps=total_steps, **goal.of_training())
        self._evaluation: contextlib.ExitStack | None = None
        self._rounding: contextlib.ExitStack | None = None

    @classmethod
    def of_state(
        cls, model: nn.Module, config: RegularizerConfig | None, state: Mapping[str, Any], *, goal: Goal = NO_GOAL
    ) -> Self:
        """One that stands where the session that gave `state` stood; errors as of :meth:`load_state_dict`."""
        session = cls(model, config, total_steps=_total_steps(state), goal=goal)
        session.load_state_dict(state)
        return session

    def detach(self) -> None:
        """Leave optimisers and model; the model keeps the weights that it trains with."""
        self.release()
        self.regularizer.detach()

    def interrupt(self) -> None:
        """Detach; see :meth:`EntropyRegularizer.interrupt`."""
        self.release()
        self.regularizer.interrupt()

    def hold(self) -> None:
        """Let the model hold the weights that its file would hold, until :meth:`release`."""
        if self.regularizer.finished or self._evaluation is not None:
            return
        evaluation = contextlib.ExitStack()
        evaluation.enter_context(self.regularizer.quantized_weights())
        self._evaluation = evaluation

    def round(self) -> None:
        """Let the model hold what others have put into it since :meth:`hold` as a file would, until :meth:`unround`."""
        if self._evaluation is not None and self._rounding is None:
            rounding = contextlib.ExitStack()
            rounding.enter_context(self.regularizer.rounded_weights())
            self._rounding = rounding

    def unround(self) -> None:
        """Give the model back what it held before :meth:`round`."""
        if self._rounding is not None:
            self._rounding.close()
            self._rounding = None

    def release(self) -> None:
        """Give the model back the weights that it trains with."""
        self.unround()
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None

    def finish(self, grids: Mapping[str, BucketGrid] | None = None) -> None:
        """Leave quantised weights in the model; by `grids` if weights of an earlier moment were loaded into it."""
        if not self.regularizer.finished:
            self.detach()
            self.regularizer.finish(grids)

    def metrics(self) -> dict[str, float]:
        """The figures to log, of the weights that the model trains with; O(n)."""
        was_holding = self._evaluation is not None
        self.release()
        report = self.regularizer.report()
        if was_holding:
            self.hold()
        figures = {name: float(getattr(report, name)) for name in FIGURES}
        return {**figures, "strength": self.regularizer.current_strength()}

    def save(self, path: str | os.PathLike[str], **options: Any) -> WriteReport:
        """Write the model as a ``.metaq`` file; see :meth:`EntropyRegularizer.save`."""
        self.release()
        return self.regularizer.save(path, **options)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model and the optimisers: whole tensors, numbers and strings.

        Where parameters are sharded, every process has to ask for it.
        """
        return cast(dict[str, Any], _gathered(self.regularizer.state_dict()))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; a ConfigError if model, configuration or number of steps differ."""
        saved, total_steps = _total_steps(state), self.regularizer.planned_steps
        require(
            saved == total_steps,
            f"checkpoint: it is of a training of {saved} steps and this one has {total_steps}; the way to the goal "
            "is planned over all of them: give the trainer the same number of epochs or steps to resume.",
        )
        parameters = dict(unwrapped(self.model).named_parameters())
        weights = {
            name: {key: _like(parameters[name], value) for key, value in kept.items()}
            for name, kept in state["weights"].items()
            if name in parameters
        }
        self.regularizer.load_state_dict({**state, "weights": weights})


class SessionHolder:
    """What both callbacks offer of the present or last training."""

    _session: TrainingSession | None = None

    @property
    def regularizer(self) -> EntropyRegularizer:
        """That of the present or last training; a ConfigError if there was none yet."""
        return self._present().regularizer

    def grids(self) -> dict[str, BucketGrid]:
        """Grid of every tensor that takes part, by its name in what is trained: those of the weights that it holds."""
        return self._present().regularizer.grids()

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str | int | float] | None = None,
        coder: str = container.DEFAULT_CODER,
    ) -> WriteReport:
        """Write what was trained as a ``.metaq`` file, as :meth:`metaq.EntropyRegularizer.save` does.

        Raises
        ------
        ConfigError
            If nothing was trained or loaded yet, or the model has got other weights since.
        """
        return self._present().save(path, metadata=metadata, coder=coder)

    def _present(self) -> TrainingSession:
        if self._session is None:
            raise ConfigError(
                f"{type(self).__name__}: nothing was trained or loaded yet; give it to a Trainer and train first."
            )
        return self._session


def _total_steps(state: Mapping[str, Any]) -> int | None:
    """Of the training whose state this is."""
    if not {"finished", "total_steps", "weights"} <= set(state):
        raise ConfigError("checkpoint: the state of metaq in it is damaged or of another version; train anew.")
    return None if state["total_steps"] is None else int(state["total_steps"])


def _gathered(state: Any) -> Any:
    """`state` with whole tensors in the place of sharded ones."""
    if isinstance(state, Mapping):
        return {key: _gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_gathered(value) for value in state]
    return whole(state) if isinstance(state, torch.Tensor) else state


def _like(parameter: torch.Tensor, value: Any) -> Any:
    """`value`, sharded as `parameter` is if it is a tensor of its shape."""
    if not is_sharded(parameter) or not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded = cast(Any, parameter)
    return distribute_tensor(value.to(sharded.device), sharded.device_mesh, sharded.placements)
