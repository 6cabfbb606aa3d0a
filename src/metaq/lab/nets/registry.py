"""Networks by name. A new one is a file with a module and a line in the table below."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from metaq.config import near_match
from metaq.errors import ConfigError
from metaq.lab.nets import lenet5, lenet5_caffe, lenet300, resnet20, vgg11
from metaq.lab.nets.factory import create_from_factory

_NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    lenet5.NAME: (lenet5.LeNet5, lenet5.INPUT_SHAPE),
    lenet5_caffe.NAME: (lenet5_caffe.LeNet5Caffe, lenet5_caffe.INPUT_SHAPE),
    lenet300.NAME: (lenet300.LeNet300, lenet300.INPUT_SHAPE),
    resnet20.NAME: (resnet20.ResNet20, resnet20.INPUT_SHAPE),
    vgg11.NAME: (vgg11.VGG11, vgg11.INPUT_SHAPE),
}
"""Factory and shape of one input by name."""


def names() -> list[str]:
    """Names that :func:`create` knows, sorted.

    Examples
    --------
    >>> names()
    ['lenet300', 'lenet5', 'lenet5-caffe', 'resnet20', 'vgg11']
    """
    return sorted(_NETWORKS)


def create(name: str) -> nn.Module:
    """A new network with PyTorch's default initialisation, drawn from its global generator.

    Parameters
    ----------
    name
        One of :func:`names`, or ``package.module:factory``, which imports the module (the current folder is searched
        first) and calls the factory without arguments. That runs the module's code.

    Raises
    ------
    ConfigError
        If the name is unknown, or the factory cannot be imported or called, or does not return a ``torch.nn.Module``.

    Examples
    --------
    >>> sum(weights.numel() for weights in create("lenet5").parameters())
    44426
    """
    if name in _NETWORKS:
        return _NETWORKS[name][0]()
    if ":" in name:
        return create_from_factory(name)
    raise ConfigError(
        f"network: {name!r} is not known; {near_match(name, _NETWORKS)} A network of your own is written "
        "package.module:factory."
    )


def input_shape(name: str) -> tuple[int, ...] | None:
    """Shape of one input of a network in :func:`names`, without the batch; None for a network of one's own.

    Examples
    --------
    >>> input_shape("lenet5")
    (1, 28, 28)
    """
    return _NETWORKS[name][1] if name in _NETWORKS else None
