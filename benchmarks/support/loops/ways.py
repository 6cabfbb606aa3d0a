"""The ways to a small model that benchmarks/knob.py has for a training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import metaq
from metaq.errors import MetaqError
from support.loops.base import Loop, evaluating
from support.loops.pruning import pruned_to
from support.loops.rows import FIGURE, FLOAT, GOAL, HAND, POST_TRAINING, PRUNING, Row, bound_of
from support.loops.tables import Regression

SETTINGS = ((0.01, 0.5), (0.1, 0.5), (0.1, 1.0), (1.0, 1.0), (10.0, 1.0))
"""λ over the first training loss per weight, and the step size over the root mean square: what one may try by hand."""

LOOKS = 20
"""At the validation figure, in a training to one."""

MOST_ERROR = 0.1
"""Of outputs of the weights read back, over those that the model holds: a file leaves out units without effect, has the
others in any order, and rounds vectors of batch normalisation."""

Weights = dict[str, torch.Tensor]


class Trial:
    """One training loop with one seed, in all ways.

    The float model is trained when it is first needed, and once.
    """

    def __init__(self, kind: type[Loop], seed: int, data: Path | None) -> None:
        self.kind = kind
        self.seed = seed
        self.data = data

    def run(self, way: str, ratio: float | None) -> Row:
        """Figures of one way; the sentence under ``"refused"`` if metaq says that it cannot be done."""
        try:
            found = self._found(way, ratio)
        except MetaqError as error:
            found = {"refused": str(error)}
        return {"loop": self.kind.name, "seed": self.seed, "way": way, "ratio": ratio, **found}

    def _found(self, way: str, ratio: float | None) -> Row:
        if way == FLOAT:
            return self.as_float()
        if way.startswith(HAND):
            return self.by_hand(*SETTINGS[int(way.removeprefix(HAND)) - 1])
        if way == FIGURE:
            return self.to_figure()
        assert ratio is not None
        limit = int(self._float_bytes / ratio)
        if way == GOAL:
            return {"limit": limit, **self.to_goal(ratio)}
        return {"limit": limit, **{POST_TRAINING: self.post_training, PRUNING: self.pruning}[way](limit)}

    def as_float(self) -> Row:
        """The loop as it is."""
        loop, row, weights = self._trained
        return {**row, **_judged(loop, weights)}

    def to_goal(self, ratio: float) -> Row:
        """The loop with one number given, in which all else is as before."""
        loop = self.kind(self.seed, self.data)
        regularizer = metaq.EntropyRegularizer(loop.model, total_steps=loop.steps, target_ratio=ratio)
        return _regularized(loop, regularizer)

    def to_figure(self) -> Row:
        """The loop with a bound for its validation figure, which is looked at :data:`LOOKS` times, and at the end."""
        whole, loop = self._trained[0], self.kind(self.seed, self.data)
        with self._float_model():
            before = whole.validation()
        bound = bound_of(before, larger_is_better=loop.larger_is_better, is_loss=loop.is_loss)
        regularizer = metaq.EntropyRegularizer(
            loop.model, total_steps=loop.steps, target_value=bound, larger_is_better=loop.larger_is_better
        )
        every = max(1, loop.steps // LOOKS)

        def look(number: int) -> None:
            if (number + 1) % every == 0:
                regularizer.observe(loop.validation())

        return {"bound": bound, **_regularized(loop, regularizer, look)}

    def by_hand(self, strength: float, step_scale: float) -> Row:
        """The loop with λ and the step size given."""
        loop = self.kind(self.seed, self.data)
        weights = sum(parameter.numel() for parameter in loop.model.parameters())
        config = metaq.RegularizerConfig(
            strength=strength * self._trained[1]["first_loss"] / weights,
            buckets=metaq.BucketConfig(step_scale=step_scale),
        )
        regularizer = metaq.EntropyRegularizer(loop.model, config, total_steps=loop.steps)
        return {"strength": strength, "step_scale": step_scale, **_regularized(loop, regularizer)}

    def post_training(self, limit: int) -> Row:
        """The float model, compressed with calibration and no more training."""
        loop = self._trained[0]
        with self._float_model() as model:
            begun = time.process_time()
            found = metaq.compress(model, target_bytes=limit, batches=loop.batches())
            seconds = time.process_time() - begun
        return {"bytes": found.file_bytes, "seconds": seconds, **_judged(loop, found.state_dict())}

    def pruning(self, limit: int) -> Row:
        """The float model without its smallest weights, the others as 8-bit integers."""
        loop, _, weights = self._trained
        found = pruned_to(weights, limit)
        return {"bytes": found.size_bytes, "pruned_share": found.share, **_judged(loop, found.weights)}

    @cached_property
    def _trained(self) -> tuple[Loop, Row, Weights]:
        """The loop after the float training, what is known of that, and its weights."""
        loop = self.kind(self.seed, self.data)
        losses, seconds = _train(loop)
        weights = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
        row = {
            "figure": loop.figure,
            "larger_is_better": loop.larger_is_better,
            "is_loss": loop.is_loss,
            "steps": loop.steps,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights.values()),
            "first_loss": losses[0],
            "seconds": seconds,
        }
        return loop, row, weights

    @cached_property
    def _float_bytes(self) -> int:
        state = self.kind(self.seed, self.data).model.state_dict()
        return sum(tensor.numel() * tensor.element_size() for tensor in state.values())

    @contextmanager
    def _float_model(self) -> Iterator[nn.Module]:
        loop, _, weights = self._trained
        loop.model.load_state_dict(weights)
        yield loop.model


def warm_up() -> None:
    """Go through a training to a goal once, so that no measurement counts what happens once a process."""
    Trial(Regression, 0, None).to_goal(8)


def _train(loop: Loop, after_step: Callable[[int], None] | None = None) -> tuple[list[float], float]:
    """Losses of all steps, and the seconds of the process that these took, and `after_step` with its number."""
    begun, losses = time.process_time(), []
    for number in range(loop.steps):
        losses.append(loop.step(number))
        if after_step is not None:
            after_step(number)
    return losses, time.process_time() - begun


def _regularized(
    loop: Loop, regularizer: metaq.EntropyRegularizer, after_step: Callable[[int], None] | None = None
) -> Row:
    """Figures of the file that a training leaves behind."""
    regularizer.attach(*loop.optimizers)
    _, seconds = _train(loop, after_step)
    begun = time.process_time()
    regularizer.finish(evaluate=None if after_step is None else loop.validation)
    finish_seconds = time.process_time() - begun
    held_outputs, held_test = _outputs(loop), loop.quality()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.metaq"
        regularizer.save(path)
        size, restored = path.stat().st_size, metaq.load(path)
    figures = _judged(loop, restored)
    restored_outputs = _outputs(loop)
    error = float((restored_outputs - held_outputs).norm() / held_outputs.norm())
    if error > MOST_ERROR:
        raise RuntimeError(
            f"{loop.name}: the file is of another model than the training left; outputs differ by {error:.0%}."
        )
    return {
        "bytes": size,
        "seconds": seconds,
        "finish_seconds": finish_seconds,
        "held_test": held_test,
        "outputs_error": error,
        **figures,
    }


def _outputs(loop: Loop) -> torch.Tensor:
    """Outputs of the model, as it is used after training, for some training inputs."""
    with evaluating(loop.model):
        outputs: torch.Tensor = loop.model(*loop.batches()[0])
    return outputs


def _judged(loop: Loop, weights: Mapping[str, Any]) -> Row:
    """Figures of some weights."""
    loop.model.load_state_dict(weights)
    return {"validation": loop.validation(), "test": loop.quality()}
