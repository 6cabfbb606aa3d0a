"""The coders a file may name, and the checks around all of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import ChunkCoder, StreamShape
from metaq.coding.constant import ConstantCoder
from metaq.coding.context.fast import FastCoder
from metaq.coding.context.small import SmallCoder
from metaq.config import near_match, require
from metaq.errors import CodecError

CHUNK_CODERS: dict[str, ChunkCoder] = {"small": SmallCoder(), "fast": FastCoder()}
"""Coders of any symbols, by name: what a model may be coded with."""

CODERS: dict[str, ChunkCoder] = {"constant": ConstantCoder(), **CHUNK_CODERS}
"""All coders by name."""


def check_name(name: str) -> None:
    """Raise :class:`ConfigError` if no coder is called so."""
    require(name in CODERS, f"coder: there is no {name!r}; {near_match(name, CODERS)}")


def name_of(identifier: int) -> str | None:
    """Name of the coder with this number in files, or None if there is none."""
    return next((coder.name for coder in CODERS.values() if coder.identifier == identifier), None)


def encode_chunk(
    name: str, streams: Sequence[NDArray[np.integer]], shapes: Sequence[StreamShape], tensor: str | None = None
) -> bytes:
    """Code `streams`; what is returned has been decoded and compared.

    Raises :class:`CodecError`, which names the `tensor`, if the coder cannot hold a stream, or does not restore it.
    """
    try:
        payload = CODERS[name].encode_chunk(streams, shapes)
        restored = CODERS[name].decode_chunk(payload, shapes)
        if not all(np.array_equal(left, right) for left, right in zip(streams, restored, strict=True)):
            raise CodecError(f"{name}: decoding does not give the symbols back; please report this.")
    except CodecError as error:
        raise CodecError(f"{tensor}: {error}" if tensor else str(error)) from error
    return payload
