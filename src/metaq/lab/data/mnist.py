"""MNIST: 60,000 and 10,000 handwritten digits of 28×28 pixels (LeCun, Cortes and Burges)."""

import http.client
import io
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaq.errors import DataError, OutputError
from metaq.files import write_bytes
from metaq.lab.data.dataset import DATA_VARIABLE, DataSplits, LoadOptions, ProgressCallback, cache_folder
from metaq.lab.data.idx import (
    DIMENSIONS,
    EXPECTED,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    find_files,
    parse_idx,
    read_files,
    refuse_missing,
    sha256_of_idx,
    splits_from_arrays,
)

NAME = "mnist"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
SHA256 = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Checksums of the uncompressed files; their gzip wrappers differ from mirror to mirror."""

TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16
_MAX_DOWNLOAD_BYTES = 32 << 20


def load_mnist(options: LoadOptions) -> DataSplits:
    """Load MNIST; 5,000 of the 60,000 training images are held out by default.

    The files are looked for in ``options.data_dir`` and nowhere else if that is given; otherwise in the folder that the
    environment variable METAQ_DATA names, then in the user's cache, into which they are downloaded if they are nowhere.
    In each folder they may lie directly or in a subfolder ``mnist``.
    """
    paths = _find_or_download(options)
    arrays = read_files(paths)
    _refuse_foreign(arrays, paths)
    return splits_from_arrays(NAME, arrays, paths, options)


def _find_or_download(options: LoadOptions) -> dict[str, Path]:
    for place in options.named_folders:
        folder, paths = _best_match(place)
        # A folder with some of the files was meant to be used; downloading in its stead would hide the mistake.
        if paths or options.data_dir is not None:
            refuse_missing(folder, paths)
            return paths
    _, paths = _best_match(cache_folder())
    return paths | {name: _fetched(name, options) for name in DIMENSIONS if name not in paths}


def _best_match(folder: Path) -> tuple[Path, dict[str, Path]]:
    # Ties go to the folder itself, so that messages name what the user named.
    places = [(place, find_files(place)) for place in (folder, folder / NAME)]
    return max(places, key=lambda place: len(place[1]))


def _fetched(name: str, options: LoadOptions) -> Path:
    """Download a file, gzipped, from the first mirror that serves it undamaged into the cache."""
    file_name, folder = f"{name}.gz", cache_folder() / NAME
    reasons: list[str] = []
    for mirror in MIRRORS:
        url = f"{mirror}/{file_name}"
        try:
            data = _download(url, file_name, options.progress)
            if sha256_of_idx(parse_idx(io.BytesIO(data), origin=url, dimensions=DIMENSIONS[name])) != SHA256[name]:
                raise DataError(f"{url}: serves other bytes than the checksum promises")
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(str(error) if isinstance(error, DataError) else f"{url}: {error}")
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be created ({error.strerror or error}); set XDG_CACHE_HOME to a folder that "
                "can be written."
            ) from error
        write_bytes(folder / file_name, data)
        return folder / file_name
    looked = "".join(f", nor in {each}" for each in options.named_folders)
    raise DataError(
        f"MNIST is not in {folder}{looked}, and {file_name} could not be downloaded ({'; '.join(reasons)}). Put "
        f"{EXPECTED}, into {folder} or into a folder that {DATA_VARIABLE} names; or use --data digits, which "
        "needs no download."
    )


def _download(url: str, file_name: str, progress: ProgressCallback | None) -> bytes:
    data = bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        stated = response.headers.get("Content-Length", "")
        total = int(stated) if stated.isdecimal() else None
        while chunk := response.read(_CHUNK_BYTES):
            data += chunk
            if len(data) > _MAX_DOWNLOAD_BYTES:
                raise DataError(f"{url}: serves more than the {_MAX_DOWNLOAD_BYTES} bytes expected")
            if progress is not None:
                progress(len(data), total, file_name)
    return bytes(data)


def _refuse_foreign(arrays: Mapping[str, NDArray[np.uint8]], paths: Mapping[str, Path]) -> None:
    for name, values in arrays.items():
        if sha256_of_idx(values) != SHA256[name]:
            raise DataError(
                f"{paths[name]}: an intact IDX file, but not MNIST's (its checksum differs). To use other images, give "
                f"their folder as the data set: --data {paths[name].parent}."
            )
