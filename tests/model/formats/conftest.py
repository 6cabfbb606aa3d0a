import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from metaq.model.formats.weight_file import WeightFile
from metaq.model.stored import FileRange, Reader


@pytest.fixture
def elements() -> Callable[[WeightFile], dict[str, np.ndarray]]:
    """The tensors of a file by name, as they are read from where they lie."""

    def elements_of(file: WeightFile) -> dict[str, np.ndarray]:
        with Reader() as reader:
            return {tensor.name: reader.exact(tensor).values for tensor in file.tensors}

    return elements_of


@pytest.fixture
def refilled() -> Callable[[WeightFile, Path], dict[str, np.ndarray]]:
    """Write the file with other elements for all tensors that lie in it, as reconstruction does; returns these."""

    def refill(file: WeightFile, target: Path) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        content = bytearray(file.path.read_bytes())
        written = {}
        for tensor in file.tensors:
            assert isinstance(tensor.place, FileRange)
            values = random.integers(0, 100, tensor.shape).astype(tensor.dtype.storage)
            start = tensor.place.start
            content[start : start + tensor.size_bytes] = values.tobytes()
            written[tensor.name] = values
        for path, checksums in file.checksums.items():
            assert path == file.path
            for each in checksums:
                checksum = zlib.crc32(content[each.start : each.stop])
                content[each.position : each.position + 4] = checksum.to_bytes(4, "little")
        target.write_bytes(content)
        return written

    return refill


@pytest.fixture
def damaged() -> Callable[[bytes], Iterator[bytes]]:
    """The content of a file with bytes changed in turn, few of those that are 0, and cut off here and there."""

    def variants(content: bytes) -> Iterator[bytes]:
        for at in range(len(content)):
            if content[at] or at % 16 == 0:
                value = (0x00, 0xFF, content[at] ^ 0x01, content[at] ^ 0x80)[at % 4]
                yield content[:at] + bytes([value]) + content[at + 1 :]
        for at in range(0, len(content), len(content) // 100 + 1):
            yield content[:at]

    return variants


@pytest.fixture
def are_within() -> Callable[[WeightFile], bool]:
    """Whether the tensors that lie in a file lie within it and apart from each other."""

    def within(file: WeightFile) -> bool:
        ranges = sorted(
            (tensor.place.start, tensor.place.start + tensor.size_bytes)
            for tensor in file.tensors
            if isinstance(tensor.place, FileRange)
        )
        ranges.append((file.path.stat().st_size, 0))
        return all(stop <= after for (_, stop), (after, _) in pairwise(ranges))

    return within
