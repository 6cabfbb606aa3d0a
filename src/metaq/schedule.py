"""How strength, freezing and learning of step sizes change over a training: pure functions of its progress."""

from __future__ import annotations

from metaq.config import RegularizerConfig


def strength_at(config: RegularizerConfig, progress: float) -> float:
    """λ at a share `progress` of all steps, once the warm-up is over: a geometric ramp up, then a geometric decay."""
    ramp_end = config.warmup + config.ramp
    if progress < ramp_end:
        return float(config.strength * config.ramp_start ** ((ramp_end - progress) / config.ramp))
    if ramp_end == 1:
        return config.strength
    return float(config.strength * config.decay_end ** ((min(progress, 1.0) - ramp_end) / (1 - ramp_end)))


def freeze_threshold_at(config: RegularizerConfig, progress: float) -> float | None:
    """Flips per step above which a weight is frozen; None before freezing sets in."""
    freeze = config.freeze
    if freeze.start >= 1 or progress < freeze.start:
        return None
    share = min((progress - freeze.start) / (1 - freeze.start), 1.0)
    return float(freeze.first_threshold * (freeze.last_threshold / freeze.first_threshold) ** share)


def step_learning_rate_at(config: RegularizerConfig, progress: float) -> float:
    """Learning rate of the logarithm of a step size: falls linearly to a tenth once freezing sets in."""
    late = max(0.0, progress - config.freeze.start) / max(1 - config.freeze.start, 1e-9)
    return config.step_learning_rate * (1 - 0.9 * min(late, 1.0))
