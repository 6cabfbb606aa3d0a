"""Networks by name. A new one is a file with a module and a line in :mod:`metaq.lab.registry`."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from metaq.config import near_match
from metaq.errors import ConfigError
from metaq.lab.nets.factory import create_from_factory
from metaq.lab.registry import NETWORKS, resolve


def create(name: str) -> nn.Module:
    """A new network with PyTorch's default initialisation, drawn from its global generator.

    The `name` is a key of :data:`metaq.lab.registry.NETWORKS`, or ``package.module:factory``, which imports the module
    (the current folder is searched first) and calls the factory without arguments. That runs the module's code. Raises
    :class:`ConfigError` if there is none, it fails, or it does not return a ``torch.nn.Module``.

    Examples
    --------
    >>> sum(weights.numel() for weights in create("lenet5").parameters())
    44426
    """
    if name in NETWORKS:
        model: nn.Module = resolve(NETWORKS[name])()
        return model
    if ":" in name:
        return create_from_factory(name)
    raise ConfigError(
        f"network: {name!r} is not known; {near_match(name, NETWORKS)} A network of your own is written "
        "package.module:factory."
    )


def input_shape(name: str) -> tuple[int, ...] | None:
    """Shape of one input of a registered network, without the batch; None for a network of one's own.

    Examples
    --------
    >>> input_shape("lenet5")
    (1, 28, 28)
    """
    if name not in NETWORKS:
        return None
    shape: tuple[int, ...] = import_module(NETWORKS[name].partition(":")[0]).INPUT_SHAPE
    return shape
