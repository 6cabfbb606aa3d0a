"""How well outputs of a restored file agree with the original's, where the bank has no measure of its own.

As in support/qualities.py, the "score" is 1 for equal outputs.
"""

from __future__ import annotations

import torch

from support.qualities import Quality, by_classes

LEAST_PROBABILITY = 1e-30
LANDMARK_PIXELS = 192
"""Side of the pictures that landmarks are found in."""


def by_relative_error(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Size of the difference over that of the outputs, of all of them together."""
    error = (found.double() - reference.double()).norm() / reference.double().norm()
    return {"score": 1 - float(error), "relative_error_percent": 100 * float(error)}


def by_channels(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """The mean of relative errors of channels, which are of different units; shape (inputs, channels, ...)."""
    before, after = (outputs.double().transpose(0, 1).flatten(1) for outputs in (reference, found))
    error = ((after - before).norm(dim=1) / before.norm(dim=1)).mean()
    return {"score": 1 - float(error), "relative_error_percent": 100 * float(error)}


def by_probabilities(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """As logits of classes are judged, from their probabilities."""
    before, after = (outputs.double().clamp(min=LEAST_PROBABILITY).log() for outputs in (reference, found))
    return by_classes(before, after)


def by_landmarks(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Mean distance of coordinates, as a share of the picture's side."""
    apart = float((found.double() - reference.double()).abs().mean())
    return {"score": 1 - apart / LANDMARK_PIXELS, "mean_pixels": apart}
