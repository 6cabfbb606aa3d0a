"""A callback for the Trainer of Transformers: the regulariser in ``Trainer(callbacks=[EntropyTrainerCallback()])``."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from metaq.config import missing, near_match, require
from metaq.errors import ConfigError, FormatError
from metaq.files import write_atomically
from metaq.model.sharding import whole
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.entropy_regularizer import training_goal
from metaq.regularizer.session import SessionHolder, TrainingSession
from metaq.tensors.grid import BucketGrid

try:
    from transformers import (
        DefaultFlowCallback,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise missing("transformers") from error

FILE_NAME = "metaq_regularizer.pt"
"""File in a checkpoint's folder that holds the regulariser's state."""

_LOGGER = logging.getLogger(__name__)


class EntropyTrainerCallback(SessionHolder, TrainerCallback):
    """Trains the weights of a model to few bits.

    The regulariser is built when training begins and works inside the optimiser's steps, after gradient clipping.
    ``bits_per_weight``, ``bits``, ``phi_bits``, ``distance``, ``frozen`` and ``strength`` are logged with every
    training loss. Evaluation during training sees the weights that the file would hold. Every checkpoint's folder gets
    the regulariser's state, and ``train(resume_from_checkpoint=…)`` goes on to the identical result. When training
    ends, the model holds its final, quantised weights: with ``load_best_model_at_end``, those of the best checkpoint.

    Give it to the trainer by :meth:`attach`. By ``Trainer(callbacks=[…])`` it works, too, but there it comes after the
    callbacks that write to TensorBoard and the like: then its figures are only in ``trainer.state.log_history`` and in
    the callbacks that are added later, and of several evaluation sets only the first sees the weights of the file.

    Parameters
    ----------
    config
        See :class:`~metaq.RegularizerConfig`.
    target_bytes, target_ratio, target_bits_per_weight, max_drop, target_value
        The goal, one of these, as of :class:`metaq.EntropyRegularizer`.
    metric_for_best_model, greater_is_better
        For `max_drop` and `target_value`: the metric of evaluation that these are about, and which way it improves; by
        default those of the trainer's arguments.
    resume_from_checkpoint
        Folder of the checkpoint that the trainer is told to resume from, if it is not in its `output_dir`.
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
        metric_for_best_model: str | None = None,
        greater_is_better: bool | None = None,
        resume_from_checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config = config or RegularizerConfig()
        self.goal = training_goal(
            self.config,
            target_bytes=target_bytes,
            target_ratio=target_ratio,
            target_bits_per_weight=target_bits_per_weight,
            max_drop=max_drop,
            target_value=target_value,
            # Which way it is may only be known when training begins.
            larger_is_better=None if max_drop is None and target_value is None else greater_is_better is not False,
        )
        require(
            self.goal.is_quality or (metric_for_best_model is None and greater_is_better is None),
            "metric_for_best_model, greater_is_better: are about max_drop or target_value; leave them out.",
        )
        self.metric_for_best_model = metric_for_best_model
        self.greater_is_better = greater_is_better
        self.resume_from_checkpoint = resume_from_checkpoint
        self._session: TrainingSession | None = None
        self._trainer: Trainer | None = None
        self._evaluations_left = 0
        self._seen_metrics: set[str] = set()

    def attach(self, trainer: Trainer) -> EntropyTrainerCallback:
        """Become a callback of `trainer` that comes before its loggers; returns the callback itself."""
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        flow = [place for place, callback in enumerate(callbacks) if isinstance(callback, DefaultFlowCallback)]
        # After the one that decides when to evaluate.
        callbacks.insert(flow[-1] + 1 if flow else 0, self)
        self._trainer = trainer
        return self

    def finish(self) -> None:
        """Leave the final weights in the model and detach; the end of training does so, an interruption does not."""
        self._present().finish()

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Build the regulariser: the model is on its device and has its optimiser."""
        if self._session is not None:
            self._session.detach()
        if self.goal.is_quality:
            self._name_metric(args)
        self._session = TrainingSession(kwargs["model"], self.config, total_steps=state.max_steps, goal=self.goal)
        self._session.regularizer.attach(kwargs["optimizer"])
        self._resume(self._session, args, state)
        if self._trainer is None and args.report_to and state.is_world_process_zero:
            _LOGGER.warning(
                "The metrics of metaq will not reach %s; use EntropyTrainerCallback(…).attach(trainer).",
                ", ".join(args.report_to),
            )
        if args.eval_on_start:
            self._start_evaluation()

    @override
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Go back to the weights of the training."""
        self._present().release()

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show quantised weights if the trainer is about to evaluate."""
        if control.should_evaluate:
            self._start_evaluation()

    on_epoch_end = on_step_end

    @override
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Go back to the weights of the training after the last evaluation set; tell how good those of the file are."""
        self._evaluations_left -= 1
        if self._session is None:
            return
        if self._evaluations_left <= 0:
            self._session.release()
        name, metrics = self.metric_for_best_model, kwargs.get("metrics", {})
        if not self.goal.is_quality or name is None or self._session.regularizer.finished:
            return
        if name in metrics:
            self._session.regularizer.observe(float(metrics[name]))
        elif self._evaluations_left <= 0 and name not in self._seen_metrics:
            raise ConfigError(f"metric_for_best_model: {name!r} was not evaluated; {near_match(name, metrics)}")
        self._seen_metrics.update(metrics)

    @override
    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the metrics to what is logged of the training."""
        if "loss" in kwargs["logs"] and self._session is not None and not self._session.regularizer.finished:
            metrics = self._session.metrics()
            kwargs["logs"].update(metrics)
            state.log_history[-1].update(metrics)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the state into the checkpoint's folder."""
        session = self._present()
        saved = {
            "weights": _checksum(session.model),
            "grids": {name: dataclasses.asdict(grid) for name, grid in self.grids().items()},
            "session": None if args.save_only_model else session.state_dict(),
        }
        if state.is_world_process_zero:
            write_atomically(_state_path(args, state), lambda stream: torch.save(saved, stream))

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the final weights in the model."""
        session = self._present()
        is_other = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if is_other and self.goal.is_quality:
            # Weights that the goal has led to stand above those of the trainer's best checkpoint.
            session.load_state_dict(session.state_dict())
        if not is_other or self.goal.is_quality:
            session.finish()
            return
        saved = _read(Path(str(state.best_model_checkpoint)) / FILE_NAME)
        if saved["session"] is not None:
            session.load_state_dict(saved["session"])
            session.finish()
        else:
            session.finish({name: BucketGrid(**grid) for name, grid in saved["grids"].items()})

    def _name_metric(self, args: TrainingArguments) -> None:
        """Find out what the goal is about."""
        name = self.metric_for_best_model or args.metric_for_best_model
        is_greater = self.greater_is_better if self.greater_is_better is not None else args.greater_is_better
        require(
            name is not None and is_greater is not None,
            "metric_for_best_model, greater_is_better: say which metric max_drop or target_value are about, and which "
            "way it improves, to EntropyTrainerCallback or in the trainer's arguments.",
        )
        is_evaluated = args.eval_strategy != "no" or args.eval_on_start
        require(
            is_evaluated,
            'eval_strategy: a goal of quality needs evaluations during the training; give "epoch" or "steps".',
        )
        self.metric_for_best_model = name if str(name).startswith("eval_") else f"eval_{name}"
        self.goal = dataclasses.replace(self.goal, larger_is_better=is_greater)

    def _start_evaluation(self) -> None:
        datasets = None if self._trainer is None else self._trainer.eval_dataset
        self._evaluations_left = len(datasets) if isinstance(datasets, dict) else 1
        self._present().hold()

    def _resume(self, session: TrainingSession, args: TrainingArguments, state: TrainerState) -> None:
        folder = self.resume_from_checkpoint
        if state.global_step == 0:
            require(
                folder is None,
                f"resume_from_checkpoint: {folder} was given to EntropyTrainerCallback, but the trainer starts anew; "
                "give it to trainer.train, too, or to neither.",
            )
            return
        path = _state_path(args, state) if folder is None else Path(folder) / FILE_NAME
        saved = _read(path)
        require(
            saved["weights"] == _checksum(session.model),
            f"{path}: belongs to other weights than those that the trainer resumes with; give the folder that it "
            "resumes from to EntropyTrainerCallback(resume_from_checkpoint=…), too.",
        )
        require(
            saved["session"] is not None,
            f"{path}: was written with save_only_model and holds nothing to resume from; start a new training.",
        )
        session.load_state_dict(saved["session"])


def _state_path(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the state of the present step is kept."""
    require(
        not state.is_hyper_param_search,
        "hyperparameter_search: its checkpoints cannot hold the regulariser's state; give the trainer "
        'save_strategy="no".',
    )
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / FILE_NAME


def _checksum(model: nn.Module) -> int:
    """Of all weights; where they are sharded, every process has to ask for it."""
    found = 0
    for parameter in model.parameters():
        weights = whole(parameter.detach()).cpu().contiguous()
        if weights.numel():
            found = zlib.crc32(weights.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _read(path: Path) -> dict[str, Any]:
    """What :meth:`EntropyTrainerCallback.on_save` wrote."""
    if not path.is_file():
        raise FormatError(
            f"{path}: no such file; the checkpoint was written without EntropyTrainerCallback, or not to its end, or "
            "is not in the trainer's output_dir: then give its folder to EntropyTrainerCallback("
            "resume_from_checkpoint=…)."
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise FormatError(f"{path}: is damaged ({type(error).__name__}); resume from another checkpoint.") from error
    if not isinstance(saved, dict) or {"weights", "grids", "session"} != set(saved):
        raise FormatError(f"{path}: is of another version of metaq, or damaged; resume from another checkpoint.")
    return saved
