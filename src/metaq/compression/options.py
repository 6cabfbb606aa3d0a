"""Options of compression that are of the wrong kind: refused before any work, with a sentence."""

import os
from collections.abc import Iterable, Mapping
from reprlib import repr as shortened

from torch import nn

from metaq import container
from metaq.config import require
from metaq.container.carried import KEYS
from metaq.container.coders import CHUNK_CODERS


def require_model(name: str, given: object, *others: type) -> None:
    """Raise :class:`ConfigError` unless what is given under this name is a model in memory or the path of one, or of
    the `others` that are taken there.
    """
    require(
        isinstance(given, (nn.Module, Mapping, str, os.PathLike, *others)),
        f"{name}: {shortened(given)} is no model; give a module, a state dict, or the path of a file or folder.",
    )


def require_functions(**given: object) -> None:
    """Raise :class:`ConfigError` unless all that is given, by name, can be called or is None."""
    for name, function in given.items():
        require(
            function is None or callable(function),
            f"{name}: {shortened(function)} is no function; give one, or leave it out.",
        )


def require_progress(progress: object) -> None:
    """Raise :class:`ConfigError` unless it is None, or has what :class:`metaq.progress.Progress` has."""
    is_one = all(callable(getattr(progress, name, None)) for name in ("stage", "advance"))
    require(
        progress is None or is_one,
        f"progress: {shortened(progress)} shows nothing; give an object with the methods stage and advance.",
    )


def require_metadata(metadata: object) -> None:
    """Raise :class:`ConfigError` unless it is None, or facts that a file can hold."""
    if metadata is None:
        return
    require(
        isinstance(metadata, Mapping),
        f"metadata: {shortened(metadata)} is no mapping; give strings and numbers by their names.",
    )
    assert isinstance(metadata, Mapping)
    for key in metadata:
        require(isinstance(key, str), f"metadata: the key {shortened(key)} is no string; give facts by their names.")
    reserved = sorted(KEYS & metadata.keys())
    require(not reserved, f"metadata: {', '.join(reserved)} say what a file was made of; use other keys.")
    container.encode([], metadata=metadata)


def require_coder(coder: object) -> None:
    """Raise :class:`ConfigError` unless it is the name of one that codes whole models."""
    known = isinstance(coder, str) and coder in CHUNK_CODERS
    require(known, f"coder: there is no coder {shortened(coder)}; choose {' or '.join(CHUNK_CODERS)}.")


def globs(name: str, given: object) -> tuple[str, ...]:
    """Name globs that are given under this name, of which a single one needs no list; raises :class:`ConfigError` if
    they are none.
    """
    if isinstance(given, str):
        return (given,)
    found = tuple(given) if isinstance(given, Iterable) else (None,)
    require(
        all(isinstance(glob, str) for glob in found),
        f"{name}: {shortened(given)} is no list of name globs; give strings, as in ['layer1.*'].",
    )
    return found
