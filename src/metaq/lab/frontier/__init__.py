"""The frontier of size and accuracy of a network, drawn by many trainings to different sizes."""

from metaq.lab.frontier.execution import draw, frontier_to_dict
from metaq.lab.frontier.plan import (
    Frontier,
    Settled,
    SweepPlan,
    Trial,
    float_bytes_of,
    frontier_of,
    is_hopeless,
)

__all__ = [
    "Frontier",
    "Settled",
    "SweepPlan",
    "Trial",
    "draw",
    "float_bytes_of",
    "frontier_of",
    "frontier_to_dict",
    "is_hopeless",
]
