"""Files that travel inside a ``.metaq`` file beside its tensors: what they are called there, and which names are safe.

A carried file is an exact uint8 tensor named ``file:`` and its path, or ``frame:`` and its path if tensors lie in it;
the metadata ``folder`` or ``file`` say that names are meant like that. docs/format.md has the convention.
"""

import re
import zlib
from collections.abc import Mapping

from metaq.coding.varint import encode_varint

WHOLE, FRAME = "file:", "frame:"
"""What names begin with: of a file as it is, and of one with holes for tensors."""

BESIDE = "beside:"
"""What names of tensors begin with that lie in a frame and are no weights by themselves: moments of an optimizer, or
weights whose dimensions lie in another order there.
"""

FOLDER = "folder"
"""Metadata key of what was made of a folder; its value is ``CONVENTION``."""

FILE = "file"
"""Metadata key of what was made of a file that is more than its tensors; its value is the name of the file."""

WEIGHTS = "weights"
"""Metadata key of the name of the file that all tensors of a folder go to that no frame has, if not the usual one."""

KEY, NAME_PREFIX, PARTS = "key", "prefix", "parts"
"""Metadata keys of a checkpoint: the keys on the way to its state dict, joined by dots; what its names began with; the
keys of dicts that were taken together, with which names begin, a line for each dict and tabs within it.
"""

FILES = "files"
"""Metadata key of an update: :func:`checksum` of the files that travel with its result, where these or the base's are
any.
"""

KEYS = frozenset((FOLDER, FILE, WEIGHTS, KEY, NAME_PREFIX, PARTS, FILES))
"""Metadata keys that say what a file was made of."""

CONVENTION = 1

MAX_PATH_CHARACTERS = 240
MAX_PARTS = 8

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that some systems take for devices."""

UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*\ud800-\udfff]')
"""The last are what stands for bytes that are no UTF-8."""


def is_folder(metadata: Mapping[str, object]) -> bool:
    """Whether a file with this metadata was made of a folder."""
    return FOLDER in metadata


def is_made_of_files(metadata: Mapping[str, object]) -> bool:
    """Whether a file with this metadata was made of a folder, or of a file that is more than its tensors."""
    return FOLDER in metadata or FILE in metadata


def is_carried(name: str, metadata: Mapping[str, object]) -> bool:
    """Whether the tensor `name` of a file with this metadata is a carried file."""
    return is_made_of_files(metadata) and name.startswith((WHOLE, FRAME))


def is_weight(name: str, metadata: Mapping[str, object]) -> bool:
    """Whether the tensor `name` of a file with this metadata is of the model itself: no file, and not beside it."""
    # In a folder, names begin with the place of their file.
    is_beside = name.startswith(BESIDE) or f"/{BESIDE}" in name
    return not is_carried(name, metadata) and not (is_made_of_files(metadata) and is_beside)


def tensor_name(path: str, *, has_holes: bool = False) -> str:
    """Name under which the file `path`, relative and with slashes, is kept."""
    return (FRAME if has_holes else WHOLE) + path


def path_of(name: str) -> str:
    """Invert :func:`tensor_name`."""
    return name.partition(":")[2]


def checksum(files: Mapping[str, bytes]) -> int:
    """CRC-32 of files by name of the tensor: of size and bytes of the name, size and bytes of the file, one after the
    other in the order of the names.
    """
    value = 0
    for name, content in sorted((name.encode(), content) for name, content in files.items()):
        for part in (name, content):
            value = zlib.crc32(part, zlib.crc32(encode_varint(len(part)), value))
    return value


def is_safe_path(path: str) -> bool:
    """Whether `path` stays in the folder it is put in, and is a plain name on every system.

    Relative, with slashes, of at most ``MAX_PARTS`` parts; no part is empty, hidden, ``..``, the name of a device, ends
    in a dot or a space, or has a character that some system gives a meaning or that is no UTF-8.

    Examples
    --------
    >>> [is_safe_path(path) for path in ("config.json", "1_Pooling/config.json", "../x", "/x", "a//b", ".git/config")]
    [True, True, False, False, False, False]
    """
    parts = path.split("/")
    return len(path) <= MAX_PATH_CHARACTERS and len(parts) <= MAX_PARTS and all(map(_is_safe_part, parts))


def _is_safe_part(part: str) -> bool:
    if not part or part.startswith(".") or part.endswith((".", " ")):
        return False
    return UNSAFE.search(part) is None and RESERVED.fullmatch(part) is None
