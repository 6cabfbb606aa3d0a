"""Bucket indices in, bytes out, and back: the coders ``small`` and ``fast``, constants, and zstd for exact tensors."""

from metaq.coding.chunks import ChunkCoder, StreamShape
from metaq.coding.entropy import zero_order_entropy_bits

__all__ = ["ChunkCoder", "StreamShape", "zero_order_entropy_bits"]
