"""Networks by name, a new one is a file with a module and a line in :mod:`metaq.lab.registry`; or by their factory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from metaq.config import near_match
from metaq.errors import ConfigError
from metaq.lab.registry import NETWORKS, resolve


def create_from_factory(spec: str) -> nn.Module:
    """Import and call the factory that `spec` names as ``package.module:factory``.

    The current folder is searched first, as ``python -m`` does. Raises :class:`ConfigError` if `spec` is malformed, the
    module cannot be imported, or the factory is missing, fails, or does not return a ``torch.nn.Module``.
    """
    module_name, attribute = _parse(spec)
    with _current_folder_first():
        factory = _find(spec, module_name, attribute)
        try:
            model = factory()
        except Exception as error:
            raise ConfigError(
                f"network {spec!r}: calling {attribute}() without arguments failed ({_describe(error)})."
            ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"network {spec!r}: {attribute}() returned {type(model).__name__}; it must return a torch.nn.Module."
        )
    return model


def _parse(spec: str) -> tuple[str, str]:
    module_name, _, attribute = spec.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"network {spec!r}: write it as package.module:factory.")
    return module_name, attribute


def _find(spec: str, module_name: str, attribute: str) -> Callable[[], Any]:
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"network {spec!r}: {module_name} cannot be imported ({_describe(error)}); check its name, and run from "
            "the folder that holds it."
        ) from error
    factory: Callable[[], Any] | None = getattr(module, attribute, None)
    if factory is None:
        raise ConfigError(f"network {spec!r}: {module_name} has no {attribute}.")
    if not callable(factory):
        raise ConfigError(
            f"network {spec!r}: {attribute} is of type {type(factory).__name__} and cannot be called; name a function "
            "or class that returns the network."
        )
    return factory


@contextmanager
def _current_folder_first() -> Iterator[None]:
    entry = str(Path.cwd())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        # Unless the imported code took it out already.
        with suppress(ValueError):
            sys.path.remove(entry)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


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
