"""The IDX format of MNIST, and a folder of four such files with its names: the way to bring one's own images.

A file is a big-endian header with the shape, then unsigned bytes; gzipped or not. Files may come from anywhere, so
every size is checked before memory is asked for.
"""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Mapping
from io import SEEK_END, BufferedIOBase
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaq.errors import DataError
from metaq.lab.data.dataset import DataSplits, LoadOptions, dataset_of, splits_of

MAX_ELEMENTS = 1 << 32
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
# Deflate codes at best 258 bytes in two bits, so no honest file expands further than this.
_MAX_GZIP_RATIO = 1032


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read the array in the file `path`, gzipped or not; raises :class:`DataError` as :func:`parse_idx`."""
    try:
        with path.open("rb") as stream:
            return parse_idx(stream, origin=str(path), dimensions=dimensions)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def parse_idx(stream: BufferedIOBase, *, origin: str, dimensions: int) -> NDArray[np.uint8]:
    """Read one read-only array of unsigned bytes from a seekable stream over a whole file, gzipped or not.

    It has `dimensions` axes, none of them empty: 3 for images, 1 for labels. Messages name the file `origin`. Raises
    :class:`DataError` if the gzip wrapper is damaged, the header is not the expected one, or the number of bytes is not
    what the header states. At most that many bytes and one more are unpacked.
    """
    stored_bytes = stream.seek(0, SEEK_END)
    stream.seek(0)
    is_gzipped = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    stream.seek(0)
    if not is_gzipped:
        return _parse_plain(stream, origin=origin, dimensions=dimensions, capacity_bytes=stored_bytes)
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as plain:
            return _parse_plain(
                plain, origin=origin, dimensions=dimensions, capacity_bytes=stored_bytes * _MAX_GZIP_RATIO
            )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{origin}: the gzip file is damaged ({error}); fetch it again.") from error


def sha256_of_idx(values: NDArray[np.uint8]) -> str:
    """SHA-256, in hexadecimal, of the uncompressed IDX file that holds `values`."""
    header = bytes((0, 0, _UNSIGNED_BYTE, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _parse_plain(plain: BufferedIOBase, *, origin: str, dimensions: int, capacity_bytes: int) -> NDArray[np.uint8]:
    header = plain.read(4 + 4 * dimensions)
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if not header.startswith(expected):
        raise DataError(
            f"{origin}: starts with 0x{header[:4].hex()}; an IDX file of {dimensions}-dimensional unsigned bytes "
            f"starts with 0x{expected.hex()}. Is it another file under this name?"
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{origin}: truncated within its header; fetch it again.")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size_bytes = prod(shape)
    if size_bytes == 0:
        raise DataError(f"{origin}: its header states the shape {shape}, which holds nothing.")
    if size_bytes > min(capacity_bytes, MAX_ELEMENTS):
        raise DataError(
            f"{origin}: its header states {size_bytes} bytes of shape {shape}, more than the file can hold; "
            "it is truncated or damaged."
        )
    payload = plain.read(size_bytes + 1)
    if len(payload) != size_bytes:
        found = "more follow" if len(payload) > size_bytes else f"only {len(payload)} are there"
        raise DataError(
            f"{origin}: its header states {size_bytes} bytes of shape {shape}, but {found}; fetch it again."
        )
    return np.frombuffer(payload, dtype=np.uint8).reshape(shape)


TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
DIMENSIONS = {TRAIN_IMAGES: 3, TRAIN_LABELS: 1, TEST_IMAGES: 3, TEST_LABELS: 1}
"""Names of the four files, each with the number of its axes. Every name may be followed by ``.gz``."""

EXPECTED = f"the IDX files {', '.join(DIMENSIONS)}, each as it is or with .gz"

_TRAINING_IMAGES_FOR_ONE_HELD_OUT = 12


def load_folder(folder: Path, options: LoadOptions) -> DataSplits:
    """Read the four IDX files of `folder`; a twelfth of the training images is held out by default.

    Raises :class:`DataError` if a file is missing or damaged, or files disagree about the size or the number of images.
    """
    paths = find_files(folder)
    refuse_missing(folder, paths)
    return splits_from_arrays(folder.resolve().name, read_files(paths), paths, options)


def find_files(folder: Path) -> dict[str, Path]:
    """Those of the four files that lie in `folder`; an uncompressed file comes before its ``.gz``."""
    candidates = {name: (folder / name, folder / f"{name}.gz") for name in DIMENSIONS}
    found = {name: next((path for path in paths if path.is_file()), None) for name, paths in candidates.items()}
    return {name: path for name, path in found.items() if path is not None}


def refuse_missing(folder: Path, paths: Mapping[str, Path]) -> None:
    """Raise :class:`DataError`, naming the folder and the files expected, unless `paths` has all four."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it should hold {EXPECTED}.")
    missing = [name for name in DIMENSIONS if name not in paths]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} not found; the folder should hold {EXPECTED}.")


def read_files(paths: Mapping[str, Path]) -> dict[str, NDArray[np.uint8]]:
    """Read all four files."""
    return {name: read_idx(paths[name], dimensions=count) for name, count in DIMENSIONS.items()}


def splits_from_arrays(
    name: str, arrays: Mapping[str, NDArray[np.uint8]], paths: Mapping[str, Path], options: LoadOptions
) -> DataSplits:
    """Join images and labels and hold out the validation images; `paths` are for messages.

    Raises :class:`DataError` if numbers of images and labels, or sizes of images, do not fit together.
    """
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        if len(arrays[images]) != len(arrays[labels]):
            raise DataError(
                f"{paths[labels]}: {len(arrays[labels])} labels for the {len(arrays[images])} images of "
                f"{paths[images]}; the two files do not belong together."
            )
    if arrays[TRAIN_IMAGES].shape[1:] != arrays[TEST_IMAGES].shape[1:]:
        raise DataError(
            f"{paths[TEST_IMAGES]}: images of {_size(arrays[TEST_IMAGES])}, while those of {paths[TRAIN_IMAGES]} have "
            f"{_size(arrays[TRAIN_IMAGES])}; the two files do not belong together."
        )
    classes = 1 + max(int(arrays[TRAIN_LABELS].max()), int(arrays[TEST_LABELS].max()))
    training, test = (
        dataset_of(arrays[images][:, None], arrays[labels], classes)
        for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS))
    )
    return splits_of(name, training, test, options, one_in=_TRAINING_IMAGES_FOR_ONE_HELD_OUT)


def _size(images: NDArray[np.uint8]) -> str:
    return f"{images.shape[1]}×{images.shape[2]} pixels"
