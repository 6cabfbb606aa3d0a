"""Networks by name, a new one is a file with a module and a line in :mod:`metaq.lab.registry`; or by their factory."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name

from torch import nn
from torch.nn.parameter import is_lazy

from metaq.config import near_match, require
from metaq.errors import ConfigError
from metaq.lab.registry import NETWORKS


def _create_from_factory(spec: str) -> nn.Module:
    """Import and call the factory that `spec` names."""
    module_name, _, attribute = spec.partition(":")
    is_well_formed = all(part.isidentifier() for part in (attribute, *module_name.split(".")))
    require(is_well_formed, f"network {spec!r}: write it as package.module:factory.")
    with _current_folder_first():
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise ConfigError(
                f"network {spec!r}: {module_name} cannot be imported ({type(error).__name__}: {error}); check its "
                "name, and run from the folder that holds it."
            ) from error
        require(hasattr(module, attribute), f"network {spec!r}: {module_name} has no {attribute}.")
        factory = getattr(module, attribute)
        require(
            callable(factory),
            f"network {spec!r}: {attribute} is of type {type(factory).__name__} and cannot be called; name a function "
            "or class that returns the network.",
        )
        try:
            model = factory()
        except Exception as error:
            raise ConfigError(
                f"network {spec!r}: calling {attribute}() without arguments failed ({type(error).__name__}: {error})."
            ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"network {spec!r}: {attribute}() returned {type(model).__name__}; it must return a torch.nn.Module."
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        message = f"network {spec!r}: {name} has no shape yet; let {attribute}() send one batch through the network."
        require(not is_lazy(tensor), message)
    return model


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
        model: nn.Module = resolve_name(NETWORKS[name])()
        return model
    if ":" in name:
        return _create_from_factory(name)
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
    shape: tuple[int, ...] = importlib.import_module(NETWORKS[name].partition(":")[0]).INPUT_SHAPE
    return shape
