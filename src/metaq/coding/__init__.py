"""Coders: integer symbols in, bytes out. Nothing here needs PyTorch."""

from metaq.coding.entropy import zero_order_entropy_bits
from metaq.coding.interface import CodedSymbols, Coder
from metaq.coding.registry import CODERS, CODERS_BY_IDENTIFIER, coder_named, encode_smallest

__all__ = [
    "CODERS",
    "CODERS_BY_IDENTIFIER",
    "CodedSymbols",
    "Coder",
    "coder_named",
    "encode_smallest",
    "zero_order_entropy_bits",
]
