"""The ``.metaq`` file format; docs/format.md says what every byte means. Nothing here needs PyTorch."""

from metaq.container.contents import Chunk, Contents, Entry, File, Metadata, Piece, TensorReport, WriteReport
from metaq.container.layout import MAGIC, MAJOR_VERSION, MINOR_VERSION
from metaq.container.reader import DEFAULT_MAX_BYTES, decode, describe, read, stream
from metaq.container.source import is_metaq
from metaq.container.writer import DEFAULT_CODER, encode, write

__all__ = [
    "DEFAULT_CODER",
    "DEFAULT_MAX_BYTES",
    "MAGIC",
    "MAJOR_VERSION",
    "MINOR_VERSION",
    "Chunk",
    "Contents",
    "Entry",
    "File",
    "Metadata",
    "Piece",
    "TensorReport",
    "WriteReport",
    "decode",
    "describe",
    "encode",
    "is_metaq",
    "read",
    "stream",
    "write",
]
