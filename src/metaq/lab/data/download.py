"""Where data sets are looked for, and fetching a file from public mirrors, checked before anything is written."""

from __future__ import annotations

import http.client
import io
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from metaq.errors import DataError, OutputError
from metaq.files import write_bytes
from metaq.lab.data.dataset import ProgressCallback
from metaq.lab.data.idx import parse_idx, sha256_of_idx

DATA_VARIABLE = "METAQ_DATA"
"""Environment variable with the folder of all data sets."""

TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16


def cache_folder() -> Path:
    """Folder for downloads: ``metaq`` in XDG_CACHE_HOME, or in ``~/.cache`` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "metaq"


def variable_folder() -> Path | None:
    """The folder that METAQ_DATA names, or None where it is not set or empty."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser() if named else None


@dataclass(frozen=True, kw_only=True)
class RemoteIdx:
    """An IDX file that mirrors serve gzipped; `name` is without ``.gz``, at most `max_bytes` are downloaded.

    The checksum is that of the uncompressed bytes, in hexadecimal; the wrapper differs from mirror to mirror.
    """

    name: str
    dimensions: int
    sha256: str
    max_bytes: int


def fetch_idx(
    remote: RemoteIdx, *, mirrors: tuple[str, ...], folder: Path, progress: ProgressCallback | None = None
) -> Path:
    """Download `remote`, gzipped, from the first mirror that serves it undamaged into `folder`, which is created.

    Raises :class:`DataError` with each mirror's reason if none serves the right bytes, and :class:`OutputError` if the
    folder or the file cannot be written.
    """
    file_name = f"{remote.name}.gz"
    reasons: list[str] = []
    for mirror in mirrors:
        url = f"{mirror}/{file_name}"
        try:
            data = _download(url, file_name, max_bytes=remote.max_bytes, progress=progress)
            _verify(data, remote, url)
        except (OSError, http.client.HTTPException, DataError) as error:
            reasons.append(str(error) if isinstance(error, DataError) else f"{url}: {error}")
            continue
        target = folder / file_name
        _create_folder(folder)
        write_bytes(target, data)
        return target
    raise DataError(f"{file_name} could not be downloaded ({'; '.join(reasons)})")


def _download(url: str, file_name: str, *, max_bytes: int, progress: ProgressCallback | None) -> bytes:
    data = bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        stated = response.headers.get("Content-Length", "")
        total = int(stated) if stated.isdecimal() else None
        while chunk := response.read(_CHUNK_BYTES):
            data += chunk
            if len(data) > max_bytes:
                raise DataError(f"{url}: serves more than the {max_bytes} bytes expected")
            if progress is not None:
                progress(len(data), total, file_name)
    return bytes(data)


def _verify(data: bytes, remote: RemoteIdx, url: str) -> None:
    if sha256_of_idx(parse_idx(io.BytesIO(data), origin=url, dimensions=remote.dimensions)) != remote.sha256:
        raise DataError(f"{url}: serves other bytes than the checksum promises")


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be created ({error.strerror or error}); set XDG_CACHE_HOME to a folder that "
            "can be written."
        ) from error
