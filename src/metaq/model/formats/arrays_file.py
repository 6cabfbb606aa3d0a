"""Files of numpy arrays: a ``.npy`` file is an array, and a ``.npz`` file is a zip archive of them.

After NEP 1 and the documentation of numpy.lib.format, versions 1 to 3. Nothing in a file is unpickled.
"""

import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from metaq.errors import FormatError
from metaq.model.formats.weight_file import WeightFile
from metaq.model.formats.zip_records import Record, is_zip, records
from metaq.model.stored import FileRange, StoredTensor
from metaq.tensors.quantized import Dtype

MAGIC = b"\x93NUMPY"
SUFFIX = ".npy"
ONLY_NAME = "array"
"""Of the array that is a file of its own."""

MOST_HEADER_BYTES = 10_000
"""As numpy itself has it."""

MOST_ELEMENTS = 1 << 62
MOST_UNPACKED_BYTES = 1 << 26
MOST_UNPACKED_RATIO = 100
"""Of what the compressed arrays of a file take to the size of the file, once it is more than the former."""

BIG_ENDIAN, FORTRAN = "is big-endian", "is in Fortran order"
"""Why arrays of numbers are no tensors where they lie."""

DTYPES = {
    dtype.storage.str: dtype for dtype in Dtype if dtype not in (Dtype.bfloat16, Dtype.float8_e4m3fn, Dtype.float8_e5m2)
}
"""Types that numpy has itself, by what it calls them."""


@dataclass(frozen=True, kw_only=True)
class _Header:
    """Type and shape of an array, and where its elements begin."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    is_fortran: bool
    size: int

    @property
    def reason(self) -> str:
        """Why the array is no tensor where it lies, or nothing."""
        reason = "needs pickle" if self.dtype.hasobject else reason_against(self.dtype)
        return reason or (FORTRAN if self.is_transposed else "")

    @property
    def is_transposed(self) -> bool:
        """Whether the order of the elements in the file is not that of C."""
        return self.is_fortran and len(self.shape) > 1


def reason_against(dtype: np.dtype[np.generic]) -> str:
    """Why arrays of a type cannot be tensors where they lie, or nothing."""
    if dtype.str in DTYPES:
        return ""
    return BIG_ENDIAN if dtype.newbyteorder().str in DTYPES else f"is of type {dtype.str}"


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file with this beginning holds arrays of numpy, or by its name ought to."""
    if not is_zip(head):
        return head.startswith(MAGIC) or path.suffix == SUFFIX
    if path.suffix == ".npz":
        return True
    try:
        return all(name.endswith(SUFFIX) for name in records(path))
    except FormatError:
        return False


def read(path: Path, *, keep_all: bool = False) -> WeightFile:
    """The arrays of a ``.npy`` or ``.npz`` file, each under the name that numpy gives it.

    If arrays of an archive are compressed, these are read, and the file is a state dict, to be written anew. So it is,
    without `keep_all`, if all are numbers, and some are big-endian or in Fortran order. Raises :class:`FormatError` if
    the file cannot be read or is damaged, if its compressed arrays take more than 100 times the size of the file and
    64 MiB, and if some are compressed and it holds more than numbers.
    """
    try:
        with path.open("rb") as stream:
            if not is_zip(stream.read(4)):
                return _read_array(path, stream)
            return _read_archive(path, stream, keep_all=keep_all)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


def _read_array(path: Path, stream: IO[bytes]) -> WeightFile:
    found = _stored(path, stream, ONLY_NAME, 0, stream.seek(0, 2))
    if isinstance(found, str):
        return WeightFile(path=path, tensors=(), left_out={ONLY_NAME: found})
    return WeightFile(path=path, tensors=(found,))


def _read_archive(path: Path, stream: IO[bytes], *, keep_all: bool) -> WeightFile:
    found = records(path)
    packed = [record for record in found.values() if not record.is_stored]
    unpacked_bytes = sum(record.length for record in packed)
    if unpacked_bytes > max(MOST_UNPACKED_BYTES, MOST_UNPACKED_RATIO * stream.seek(0, 2)):
        raise FormatError(
            f"{path}: its compressed arrays claim to take {unpacked_bytes} bytes, more than {MOST_UNPACKED_RATIO} "
            "times the size of the file; save them with numpy.savez."
        )
    tensors = {record.name: _tensor(path, stream, record) for record in found.values()}
    left_out = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, str)}
    if left_out and (packed or not keep_all) and set(left_out.values()) <= {BIG_ENDIAN, FORTRAN}:
        tensors |= {name: _unpacked(path, stream, found[name]) for name in left_out}
        left_out, packed = {}, list(found.values())
    if packed and left_out:
        name, reason = next(iter(left_out.items()))
        raise FormatError(
            f"{path}: cannot be written anew, for {name.removesuffix(SUFFIX)!r} {reason} and there are compressed "
            "arrays; save all with numpy.savez."
        )
    taken = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, str)}
    checksums = tuple(checksum for name in taken for checksum in found[name].checksums)
    return WeightFile(
        path=path,
        tensors=tuple(taken.values()),
        is_state_dict=bool(packed),
        checksums={} if packed else {path: checksums},
        left_out={name.removesuffix(SUFFIX): reason for name, reason in left_out.items()},
    )


def _tensor(path: Path, stream: IO[bytes], record: Record) -> StoredTensor | str:
    if not record.name.endswith(SUFFIX):
        return "is no array"
    if not record.is_stored:
        return _unpacked(path, stream, record)
    return _stored(path, stream, record.name.removesuffix(SUFFIX), record.start, record.size)


def _stored(path: Path, stream: IO[bytes], name: str, start: int, size: int) -> StoredTensor | str:
    """The array in so many bytes from `start` on, or why it is no tensor there."""
    stream.seek(start)
    header = _header(path, name, stream, size)
    if header.reason:
        return header.reason
    place = FileRange(path, start + header.size)
    return StoredTensor(name=name, dtype=DTYPES[header.dtype.str], shape=header.shape, place=place)


def _unpacked(path: Path, stream: IO[bytes], record: Record) -> StoredTensor | str:
    """The array read into memory, its elements as a tensor has them, or why it is no tensor."""
    name = record.name.removesuffix(SUFFIX)
    stream.seek(record.start)
    content = stream.read(record.size)
    if not record.is_stored:
        try:
            # One byte more tells contents that are longer than the archive claims.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, record.length + 1)
        except zlib.error as error:
            raise _damaged(path, name, f"it cannot be unpacked ({error})") from error
    if len(content) != record.length or zlib.crc32(content) != record.checksum:
        raise _damaged(path, name, "its checksum is wrong")
    header = _header(path, name, BytesIO(content), record.length)
    dtype = header.dtype.newbyteorder("<")
    if dtype.hasobject or reason_against(dtype):
        return header.reason
    elements = np.frombuffer(content, dtype=header.dtype, count=prod(header.shape), offset=header.size)
    if header.is_transposed:
        elements = elements.reshape(header.shape, order="F").reshape(-1)
    elements = elements.astype(dtype, copy=False)
    return StoredTensor(name=name, dtype=DTYPES[dtype.str], shape=header.shape, place=elements)


def _header(path: Path, name: str, stream: IO[bytes], available: int) -> _Header:
    """The header of the array that begins in `stream`, which has so many bytes `available` for all of it."""
    start = stream.read(8)
    size_bytes = {b"\x01": 2, b"\x02": 4, b"\x03": 4}.get(start[6:7])
    if not start.startswith(MAGIC) or size_bytes is None:
        raise _damaged(path, name, "it does not begin as arrays do")
    text_size = int.from_bytes(stream.read(size_bytes), "little")
    if text_size > MOST_HEADER_BYTES:
        raise _damaged(path, name, f"its header takes {text_size} bytes")
    text = stream.read(text_size)
    try:
        with warnings.catch_warnings():
            # Python 2 wrote them otherwise, which numpy says of each array.
            warnings.simplefilter("ignore")
            shape, is_fortran, dtype = npy_format.read_array_header_2_0(BytesIO(text_size.to_bytes(4, "little") + text))
    except Exception as error:
        # It is read as a Python literal, and then as a type: each fails in ways of its own.
        raise _damaged(path, name, "its header cannot be read") from error
    size = len(start) + size_bytes + text_size
    if min(shape, default=0) < 0 or prod(max(length, 1) for length in shape) > MOST_ELEMENTS:
        raise _damaged(path, name, f"its shape is {shape}")
    if not dtype.hasobject and size + prod(shape) * dtype.itemsize > available:
        raise _damaged(path, name, "it ends within its elements")
    return _Header(dtype=dtype, shape=tuple(map(int, shape)), is_fortran=is_fortran, size=size)


def _damaged(path: Path, name: str, reason: str) -> FormatError:
    return FormatError(f"{path}: the array {name!r} is damaged: {reason}; make the file again.")
