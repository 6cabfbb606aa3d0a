"""A callback for Lightning: the regulariser in ``Trainer(callbacks=[EntropyCallback()])``."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal, cast

from torch import nn
from typing_extensions import override

from metaq.config import missing, near_match, require
from metaq.errors import ConfigError
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.entropy_regularizer import training_goal
from metaq.regularizer.pace import require_steps
from metaq.regularizer.session import SessionHolder, TrainingSession

try:
    import lightning.pytorch as pl
    from lightning.pytorch import callbacks
    from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
    from lightning.pytorch.trainer.states import TrainerFn
except ImportError as error:
    raise missing("lightning") from error


# The second is younger than the oldest Lightning that will do.
AVERAGING = (StochasticWeightAveraging, getattr(callbacks, "WeightAveraging", StochasticWeightAveraging))
"""Callbacks that leave averaged weights in the module when a training ends."""


class EntropyCallback(SessionHolder, pl.Callback):
    """Trains the weights of a LightningModule to few bits.

    The regulariser is built when a fit starts and works inside the steps of all optimisers, after gradient clipping.
    Validation, tests and predictions see the weights that the file would hold. After every epoch ``bits_per_weight``,
    ``bits``, ``phi_bits``, ``distance``, ``frozen`` and ``strength`` are logged, and can be monitored. Checkpoints hold
    the regulariser's state: ``fit(ckpt_path=…)`` goes on to the identical result, and after
    ``trainer.test(ckpt_path=…)`` :meth:`save` writes the model of that checkpoint. When a fit ends, the module holds
    its final, quantised weights; after an exception those it had, and the regulariser is detached.

    Beside a ``BaseFinetuning`` callback, such as ``BackboneFinetuning``, frozen parameters take part from the start, as
    they are trained later; leave out those that are not by the configuration's ``exclude``. Beside callbacks that
    average weights (``StochasticWeightAveraging``, ``WeightAveraging``), the averages are what is quantised when a fit
    ends.

    Parameters
    ----------
    config
        See :class:`~metaq.RegularizerConfig`; its name globs are relative to `submodule`.
    target_bytes, target_ratio, target_bits_per_weight, max_drop, target_value
        The goal, one of these, as of :class:`metaq.EntropyRegularizer`, of the file of `submodule`.
    monitor, mode
        For `max_drop` and `target_value`: the metric that these are about, as logged by validation (by training where
        there is none), and whether it is better when larger (``"max"``) or smaller (``"min"``).
    submodule
        Dotted name of the part of the LightningModule that is trained to few bits and saved, such as ``"model"``; all
        of it by default.
    total_steps
        Optimiser steps of the whole training, of the last optimiser where there are several; by default those the
        trainer expects. If it does not know, the goal is approached so that the training may end at any step.
    log_every_n_steps
        Log also every so many optimiser steps.
    evaluate_quantized
        Whether validation, tests and predictions see the weights that the file would hold, or those of the training.
    """

    def __init__(
        self,
        config: RegularizerConfig | None = None,
        *,
        target_bytes: int | None = None,
        target_ratio: float | None = None,
        target_bits_per_weight: float | None = None,
        max_drop: float | None = None,
        target_value: float | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        submodule: str = "",
        total_steps: int | None = None,
        log_every_n_steps: int | None = None,
        evaluate_quantized: bool = True,
    ) -> None:
        if total_steps is not None:
            require_steps(total_steps)
        every = log_every_n_steps
        require(every is None or every >= 1, f"log_every_n_steps: {every} is below 1.")
        self.config = config or RegularizerConfig()
        is_quality = max_drop is not None or target_value is not None
        require(
            (mode is not None) == is_quality,
            "mode: says whether the metric of max_drop or target_value is better when it is larger, 'max', or smaller, "
            "'min'; give it with these alone.",
        )
        self.goal = training_goal(
            self.config,
            target_bytes=target_bytes,
            target_ratio=target_ratio,
            target_bits_per_weight=target_bits_per_weight,
            max_drop=max_drop,
            target_value=target_value,
            larger_is_better=None if mode is None else mode == "max",
        )
        require(mode in (None, "min", "max"), f"mode: {mode!r} is neither 'min' nor 'max'.")
        require(
            (monitor is not None) == self.goal.is_quality,
            "monitor: names the metric that max_drop or target_value are about; give both or neither.",
        )
        require(
            evaluate_quantized or not self.goal.is_quality,
            "evaluate_quantized: the goal is about quantised weights; leave it out.",
        )
        self.monitor = monitor
        self.submodule = submodule
        self.total_steps = total_steps
        self.log_every_n_steps = log_every_n_steps
        self.evaluate_quantized = evaluate_quantized
        self._session: TrainingSession | None = None
        self._loaded: dict[str, Any] | None = None
        self._logged_step = 0
        self._follows_averages = False

    @override
    def state_dict(self) -> dict[str, Any]:
        """What Lightning puts into its checkpoints."""
        if self._session is not None:
            return self._session.state_dict()
        return self._loaded or {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a checkpoint, as soon as there is a module."""
        self._loaded = dict(state_dict)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget what was trained before, unless it is the module now used."""
        if stage == "fit" or (self._session is not None and self._session.model is not self._part_of(pl_module)):
            if self._session is not None:
                self._session.detach()
            self._session = None
        if stage == "fit":
            self._come_after_averages(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Build the regulariser: the module is on its device, has its optimisers, and a checkpoint has been read.

        Not before, since to ask earlier for the number of steps keeps Lightning from resuming amid an epoch.
        """
        loaded, self._loaded = self._loaded, None
        path = trainer.ckpt_path
        require(
            path is None or loaded is not None,
            f"{path}: holds no state of EntropyCallback, so the training cannot be resumed from it; load its weights "
            "into the module instead and start a new one.",
        )
        require(
            bool(trainer.optimizers), "configure_optimizers: gives no optimizer; give the one that updates the module."
        )
        done = 0 if loaded is not None else trainer.global_step // len(trainer.optimizers)
        total_steps = self.total_steps
        if total_steps is None:
            expected = trainer.estimated_stepping_batches
            left = expected - done - _steps_without_update(trainer, pl_module)
            total_steps = int(left) if 0 < left < math.inf else None
        with _thawed(trainer, self._part_of(pl_module)) as part:
            self._session = TrainingSession(part, self.config, total_steps=total_steps, goal=self.goal)
        self._session.regularizer.attach(*trainer.optimizers)
        if loaded is not None:
            self._session.load_state_dict(loaded)
        require(
            not self._session.regularizer.finished,
            f"{path}: was written after its training had ended and holds no latent weights to go on with; resume from "
            "an earlier checkpoint, or load its weights into the module and start a new training.",
        )
        self._logged_step = self._session.regularizer.steps

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Log every few steps, if asked to."""
        session, every = self._present(), self.log_every_n_steps
        step = session.regularizer.steps
        if every is None or step % every != 0 or step == self._logged_step:
            return
        self._logged_step = step
        metrics = session.metrics()
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log; every process has the figures of all, which their mean leaves as they are."""
        if not sum(trainer.num_val_batches):
            self._observe(trainer)
        pl_module.log_dict(self._present().metrics(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    @override
    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Leave the final weights in the module."""
        self._present().finish()

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over a checkpoint after which there was nothing left to train."""
        self._open_loaded(pl_module)

    @override
    def on_exception(self, *_: Any, **__: Any) -> None:
        """Leave whole weights in the module and detach; the state stays, so that a checkpoint can be written."""
        self._loaded = None
        if self._session is not None:
            self._session.interrupt()

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show quantised weights."""
        is_fitting = trainer.state.fn == TrainerFn.FITTING
        # Outside a fit and without a checkpoint, the module has its final weights, or others that were given to it; and
        # there is no session yet while Lightning checks its sanity before the training.
        opened = not is_fitting and self._open_loaded(pl_module)
        if self.evaluate_quantized and self._session is not None and (is_fitting or opened):
            self._session.hold()

    on_test_start = on_predict_start = on_validation_start

    @override
    def on_validation_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Go back to the weights of the training; tell how good those of the file were."""
        if self._session is not None:
            self._session.release()
            if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
                self._observe(trainer)

    @override
    def on_test_end(self, *_: Any, **__: Any) -> None:
        """Go back to the weights of the training."""
        if self._session is not None:
            self._session.release()

    on_predict_end = on_test_end

    def _observe(self, trainer: pl.Trainer) -> None:
        """Tell the figure that the goal is about, if it is about one."""
        if self.monitor is None:
            return
        metrics = trainer.callback_metrics
        advice = near_match(self.monitor, metrics) if metrics else "nothing was; call self.log in the module."
        require(self.monitor in metrics, f"monitor: {self.monitor!r} was not logged; {advice}")
        self._present().regularizer.observe(float(metrics[self.monitor]))

    @override
    def on_validation_epoch_start(self, *_: Any, **__: Any) -> None:
        """Show averages that have just been put into the module as the file would hold them."""
        if self._session is not None and self._follows_averages:
            self._session.round()

    def stop_rounding(self) -> None:
        """Give the module back its averages as they were."""
        if self._session is not None:
            self._session.unround()

    def _open_loaded(self, pl_module: pl.LightningModule) -> bool:
        """Stand where the checkpoint stood that was read last; whether one was."""
        if self._loaded is None:
            return False
        loaded, self._loaded = self._loaded, None
        with _thawed(pl_module.trainer, self._part_of(pl_module)) as part:
            self._session = TrainingSession.of_state(part, self.config, loaded, goal=self.goal)
        if self._session.regularizer.adopt_weights():
            # Averages that the checkpoint holds.
            self._session.finish()
        return True

    def _come_after_averages(self, trainer: pl.Trainer) -> None:
        """Take the place behind the callbacks that average weights, so that these are there when the training ends."""
        # Lightning goes on through the list that there was.
        callbacks = cast(Any, trainer).callbacks
        others = [callback for callback in callbacks if callback is not self and not isinstance(callback, _Forerunner)]
        places = [place for place, callback in enumerate(others) if isinstance(callback, AVERAGING)]
        self._follows_averages = bool(places)
        if places:
            first = [_Forerunner(self), *others[: places[-1] + 1], self]
            cast(Any, trainer).callbacks = [*first, *others[places[-1] + 1 :]]

    def _part_of(self, pl_module: pl.LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self.submodule)
        except AttributeError as error:
            names = [name for name, _ in pl_module.named_modules() if name]
            raise ConfigError(
                f"submodule: the module has no part {self.submodule!r}; {near_match(self.submodule, names)}"
            ) from error


class _Forerunner(pl.Callback):
    """Does what is to be done for a callback before those that average weights have their turn."""

    def __init__(self, entropy: EntropyCallback) -> None:
        self._entropy = entropy

    @override
    def on_validation_epoch_end(self, *_: Any, **__: Any) -> None:
        """Give the module back its averages, which are then taken out of it."""
        self._entropy.stop_rounding()


@contextlib.contextmanager
def _thawed(trainer: pl.Trainer, part: nn.Module) -> Iterator[nn.Module]:
    """`part`; all of it trained, where a callback has frozen some of it until later."""
    is_frozen_for_a_time = any(isinstance(callback, BaseFinetuning) for callback in cast(Any, trainer).callbacks)
    frozen = [p for p in part.parameters() if is_frozen_for_a_time and p.is_floating_point() and not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield part
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _steps_without_update(trainer: pl.Trainer, pl_module: pl.LightningModule) -> int:
    """Of the steps that `trainer` expects, those of the epoch that only renews statistics of batch normalisation."""
    averages = any(isinstance(callback, StochasticWeightAveraging) for callback in cast(Any, trainer).callbacks)
    if not averages or not StochasticWeightAveraging.pl_module_contains_batch_norm(pl_module):
        return 0
    return int(trainer.estimated_stepping_batches) // (trainer.max_epochs or 1)
