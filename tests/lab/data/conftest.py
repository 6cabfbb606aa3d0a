"""Folders of small IDX files, and no way to the network or to the user's own cache."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.uint8]]


def to_idx(values: NDArray[np.uint8]) -> bytes:
    """The uncompressed IDX file that holds `values`."""
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test starts with an empty cache, without METAQ_DATA and without a network."""

    def unreachable(url: str, timeout: float) -> object:
        raise URLError(f"no network, asked for {url} within {timeout} s")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("METAQ_DATA", raising=False)


@pytest.fixture
def arrays() -> Arrays:
    """Contents of the four files: 24 + 6 images of 5×7 pixels in four classes."""
    generator = np.random.default_rng(1)
    return {
        "train-images-idx3-ubyte": generator.integers(0, 256, (24, 5, 7), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(24, dtype=np.uint8) % 3,
        "t10k-images-idx3-ubyte": generator.integers(0, 256, (6, 5, 7), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.array([0, 1, 2, 3, 0, 1], dtype=np.uint8),
    }


@pytest.fixture
def write_folder() -> Callable[[Path, Arrays], Path]:
    """Writes arrays as IDX files, images gzipped and labels not, and returns the folder."""

    def write(folder: Path, arrays: Arrays) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in arrays.items():
            if values.ndim == 3:
                (folder / f"{name}.gz").write_bytes(gzip.compress(to_idx(values)))
            else:
                (folder / name).write_bytes(to_idx(values))
        return folder

    return write
