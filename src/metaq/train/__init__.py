"""Training with the entropy regulariser."""

from metaq.train.config import PRESETS, TrainConfig, preset
from metaq.train.evaluate import accuracy
from metaq.train.loop import Candidate, Observer, Trainer
from metaq.train.records import EpochRecord

__all__ = ["PRESETS", "Candidate", "EpochRecord", "Observer", "TrainConfig", "Trainer", "accuracy", "preset"]
