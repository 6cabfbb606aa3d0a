"""Training with the entropy regulariser."""

from metaq.lab.registry import PRESETS
from metaq.lab.train.config import TrainConfig, aim, of_length, plain
from metaq.lab.train.evaluate import accuracy
from metaq.lab.train.loop import Candidate, Loss, Trainer, label_loss
from metaq.lab.train.presets import preset
from metaq.lab.train.processes import ALONE, CPU, Processes, device_named, launched
from metaq.lab.train.records import EpochRecord, Observer, Silent

__all__ = [
    "ALONE",
    "CPU",
    "PRESETS",
    "Candidate",
    "EpochRecord",
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
    "of_length",
    "plain",
    "preset",
]
