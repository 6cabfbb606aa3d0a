"""Whatever looks at a module leaves every part of it in the mode that it was in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metaq
from metaq.lab.data.dataset import ImageDataset
from metaq.lab.train.evaluate import is_right
from metaq.model.evaluating import evaluating


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.Dropout(0.5), nn.ReLU(), nn.Linear(30, 4))


def modes_of(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def in_mode(which: str) -> nn.Sequential:
    """A network in a mode: of training with frozen statistics, as many fine-tune, if it is mixed."""
    module = network().train(which != "evaluation")
    if which == "mixed":
        module[1].eval()
    return module


@pytest.mark.parametrize("which", ["training", "evaluation", "mixed"])
def test_evaluating_ends_with_the_modes_before(which: str) -> None:
    module = in_mode(which)
    before = modes_of(module)
    with evaluating(module):
        assert not any(modes_of(module))
    assert modes_of(module) == before
    with pytest.raises(KeyError), evaluating(module):
        raise KeyError
    assert modes_of(module) == before


@pytest.mark.parametrize("which", ["training", "evaluation", "mixed"])
def test_calibration_leaves_modes_as_they_were(which: str) -> None:
    module = in_mode(which)
    before = modes_of(module)
    batches = [torch.randn(8, 20) for _ in range(4)]
    metaq.compress(module, target_ratio=8, batches=batches)
    assert modes_of(module) == before
    metaq.compress(module.state_dict(), target_ratio=8, batches=batches, module=module)
    assert modes_of(module) == before
    metaq.diff(network().state_dict(), module.state_dict(), target_bytes=400, batches=batches, module=module)
    assert modes_of(module) == before


def test_counting_right_answers_leaves_modes_as_they_were() -> None:
    module = nn.Sequential(nn.Flatten(), *in_mode("mixed"))
    before = modes_of(module)
    images = torch.randint(0, 256, (6, 1, 4, 5), dtype=torch.uint8)
    is_right(module, ImageDataset(images=images, labels=torch.zeros(6, dtype=torch.int64), classes=4))
    assert modes_of(module) == before
