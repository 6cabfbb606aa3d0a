"""Grids of a training belong to a model whatever a wrapper or an adapter makes of its names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metaq import BucketGrid, compress
from metaq.errors import ConfigError

GRID = BucketGrid(center=0.0, radius=1.5, count=3)


def weights(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([[-1.0, 0.0], [1.0, 1.0]]) for name in names}


@pytest.mark.parametrize(
    ("of_the_model", "of_the_grids"),
    [
        ("0.weight", "module.0.weight"),
        ("0.weight", "_orig_mod.0.weight"),
        ("module.0.weight", "0.weight"),
        ("model.q_proj.lora_A.weight", "model.q_proj.lora_A.default.weight"),
        ("layers.0._checkpoint_wrapped_module.q.weight", "layers.0.q.weight"),
    ],
)
def test_one_part_more_or_less_makes_no_difference(of_the_model, of_the_grids):
    state = weights(of_the_model, "other.bias")
    found = compress(state, grids={of_the_grids: GRID})
    assert [part.name for part in found.coverage.left_out] == ["other.bias"]
    assert torch.equal(found.state_dict()[of_the_model], state[of_the_model])


def test_a_name_that_may_mean_several_is_refused():
    with pytest.raises(ConfigError, match=r"a\.b\.weight: a grid is given for it but there is no such tensor"):
        compress(weights("a.weight", "b.weight"), grids={"a.b.weight": GRID})


def test_the_last_part_says_what_a_tensor_is():
    with pytest.raises(ConfigError, match="no such tensor"):
        compress(weights("0"), grids={"0.weight": GRID})


def test_the_wrapped_module_is_the_module():
    model = nn.Linear(2, 2)
    compiled = torch.compile(model, backend="eager")
    grids = dict.fromkeys(dict(compiled.named_parameters()), GRID)
    assert compress(compiled, grids=grids).coverage.share == 1.0
