"""Small training loops of many kinds, each with its own model, data, optimisers and schedule."""

from support.loops.base import Loop
from support.loops.registry import LOOPS, loop

__all__ = ["LOOPS", "Loop", "loop"]
