from __future__ import annotations

import pytest
import torch

from metaq.errors import ConfigError
from metaq.lab.train import device_named

HAS_GPU = torch.cuda.is_available()


def test_names_of_devices():
    assert device_named("cpu") == torch.device("cpu")


def test_devices_that_machines_have_several_of(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="'cuda:2': PyTorch finds 2 such devices"):
        device_named("cuda:2")


@pytest.mark.skipif(HAS_GPU, reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="'cuda': PyTorch finds 0 such devices"):
        device_named("cuda")


@pytest.mark.parametrize(
    ("name", "words"), [("gpu", "is not known; choose"), ("", "is not known"), ("meta", "does not run there")]
)
def test_what_is_no_device_is_refused(name, words):
    with pytest.raises(ConfigError, match=words):
        device_named(name)
