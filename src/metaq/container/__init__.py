"""The ``.metaq`` file format; docs/format.md says what every byte means. Nothing here needs PyTorch."""

from metaq.container.contents import Contents, Entry, File, Metadata, TensorReport, WriteReport
from metaq.container.layout import MAGIC, MAJOR_VERSION, MINOR_VERSION
from metaq.container.reader import DEFAULT_MAX_BYTES, decode, describe, read
from metaq.container.writer import encode, write

__all__ = [
    "DEFAULT_MAX_BYTES",
    "MAGIC",
    "MAJOR_VERSION",
    "MINOR_VERSION",
    "Contents",
    "Entry",
    "File",
    "Metadata",
    "TensorReport",
    "WriteReport",
    "decode",
    "describe",
    "encode",
    "read",
    "write",
]
