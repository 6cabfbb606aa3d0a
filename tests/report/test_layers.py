from __future__ import annotations

import pytest
import torch
from torch import nn

from metaq import container
from metaq.compression import pipeline
from metaq.lab import nets
from metaq.report import gathering
from metaq.report.layers import layers_of


def saved(path, state, **metadata):
    container.write(path, pipeline.to_tensors(state, grids={}), metadata=metadata)
    return path


def test_multiply_adds_are_counted_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)
    )
    with torch.no_grad():
        model[0].weight[0] = 0
    conv, norm, linear = layers_of(model, (2, 6, 6), {"0": 30})
    assert (conv.name, conv.kind, conv.output, conv.weights) == ("0", "Conv2d", (4, 6, 6), 4 * 9 + 4)
    # Every output is a sum over the 3 by 3 places of one of two channels.
    assert conv.multiply_adds == 4 * 6 * 6 * 9
    assert conv.live_multiply_adds == 3 * 6 * 6 * 9
    assert (conv.bytes, linear.bytes) == (30, None)
    assert (norm.multiply_adds, norm.output) == (None, (4, 6, 6))
    assert linear.multiply_adds == 5 * 4 * 6 * 6


def test_layers_of_a_sequence_are_counted_at_every_place():
    (layer,) = layers_of(nn.Sequential(nn.Linear(3, 7)), (11, 3), {})
    assert layer.multiply_adds == 11 * 21


def test_a_file_that_names_a_reference_network_has_its_layers(tmp_path):
    found = gathering.gather(saved(tmp_path / "m.metaq", nets.create("lenet5").state_dict(), net="lenet5"))
    assert [layer.output for layer in found.layers] == [(6, 24, 24), (16, 8, 8), (120,), (84,), (10,)]
    assert sum(layer.multiply_adds for layer in found.layers) == 281_640
    tensors = {tensor.name: tensor.bytes for tensor in found.tensors}
    assert found.layers[0].bytes == tensors["conv1.weight"] + tensors["conv1.bias"]


@pytest.mark.parametrize("metadata", [{}, {"net": "os:getcwd"}, {"net": "lenet300"}])
def test_other_files_have_none(tmp_path, metadata):
    found = gathering.gather(saved(tmp_path / "m.metaq", nets.create("lenet5").state_dict(), **metadata))
    assert found.layers == ()


def test_a_network_of_ones_own_has_layers_where_the_data_are_known(tmp_path, monkeypatch):
    (tmp_path / "own_layers.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    state = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).state_dict()
    known = gathering.gather(saved(tmp_path / "known.metaq", state, data="mnist"), net="own_layers:make")
    assert [layer.multiply_adds for layer in known.layers] == [7840]
    assert gathering.gather(saved(tmp_path / "m.metaq", state), net="own_layers:make").layers == ()
    assert gathering.gather(saved(tmp_path / "o.metaq", state, data="cifar10"), net="own_layers:make").layers == ()
