from __future__ import annotations

import torch

from metaq.model.applying import model_of
from metaq.report.changes import changes


def test_changes_are_counted_tensor_by_tensor():
    torch.manual_seed(0)
    first = {
        "a": torch.randn(4, 5),
        "b": torch.arange(6),
        "c": torch.ones(3),
        "d": torch.zeros(2),
        "same": torch.ones(9),
    }
    second = {
        **first,
        "a": first["a"].clone(),
        "b": first["b"].clone(),
        "d": torch.tensor([0.0, 1.0]),
        "e": torch.ones(1),
    }
    second["a"][0] *= 2
    second["b"][2] = 9
    del second["c"]
    found = {change.name: change for change in changes(model_of(first), model_of(second))}
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert (found["a"].changed, found["a"].share) == (5, 0.25)
    assert abs(found["a"].relative - float(first["a"][0].norm() / first["a"].norm())) < 1e-6
    assert (found["b"].changed, found["b"].relative) == (1, None)
    assert (found["d"].changed, found["d"].relative) == (1, None)
    assert found["c"].changed is found["e"].changed is found["e"].share is None
