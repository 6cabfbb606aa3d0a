"""Training with the entropy regulariser."""

from metaq.lab.registry import PRESETS
from metaq.lab.train.config import GoalConfig, TrainConfig, aim, plain
from metaq.lab.train.devices import CPU, device_named
from metaq.lab.train.evaluate import accuracy
from metaq.lab.train.loop import Candidate, Loss, Trainer, label_loss
from metaq.lab.train.observing import Observer, Silent
from metaq.lab.train.presets import preset
from metaq.lab.train.processes import ALONE, Processes, launched
from metaq.lab.train.records import EpochRecord

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
    "Silent",
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
