"""The ``.metaq`` file format; docs/format.md says what every byte means. Nothing here needs PyTorch."""

from metaq.container.accounts import Account, account
from metaq.container.contents import Chunk, Contents, Entry, File, Metadata, Piece, WriteReport, sizes
from metaq.container.estimate import estimated_bits
from metaq.container.layout import MAGIC, UPDATE_MAGIC, VERSION
from metaq.container.reader import DEFAULT_MAX_BYTES, decode, describe, read, stream
from metaq.container.source import head_of, is_metaq
from metaq.container.writer import DEFAULT_CODER, encode, write

__all__ = [
    "DEFAULT_CODER",
    "DEFAULT_MAX_BYTES",
    "MAGIC",
    "UPDATE_MAGIC",
    "VERSION",
    "Account",
    "Chunk",
    "Contents",
    "Entry",
    "File",
    "Metadata",
    "Piece",
    "WriteReport",
    "account",
    "decode",
    "describe",
    "encode",
    "estimated_bits",
    "head_of",
    "is_metaq",
    "read",
    "sizes",
    "stream",
    "write",
]
