"""Training with the entropy regulariser."""

from metaq.train.config import PRESETS, GoalConfig, TrainConfig, aim, plain, preset
from metaq.train.devices import CPU, device_named
from metaq.train.evaluate import accuracy
from metaq.train.loop import Candidate, Loss, Observer, Trainer, label_loss
from metaq.train.processes import ALONE, Processes, launched
from metaq.train.records import EpochRecord

__all__ = [
    "ALONE",
    "CPU",
    "PRESETS",
    "Candidate",
    "EpochRecord",
    "GoalConfig",
    "Loss",
    "Observer",
    "Processes",
    "TrainConfig",
    "Trainer",
    "accuracy",
    "aim",
    "device_named",
    "label_loss",
    "launched",
    "plain",
    "preset",
]
