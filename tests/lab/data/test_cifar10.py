"""CIFAR-10 in both of its forms, and files that are neither."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from metaq.errors import ConfigError, DataError
from metaq.lab import data
from metaq.lab.data.cifar10 import RECORD_BYTES, read_binary

# Read at import: every test runs without the variable.
DATA = os.environ.get("METAQ_DATA")

BATCHES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def jpeg(side: int = 32, mode: str = "RGB", seed: int = 0, form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def members(count: int = 20, images: list[bytes] | None = None, **changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Arrays of an archive of `count` images a part, with some replaced."""
    files = images or [jpeg(seed=number) for number in range(count)]
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{part}_labels"] = (np.arange(len(files)) % 10).astype(np.uint8)
    return {**arrays, **changes}


def archive(folder: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    path = folder / "cifar10_jpeg.npz"
    np.savez_compressed(path, **arrays)
    return path


def batches(folder: Path, records: int = 4) -> NDArray[np.uint8]:
    """Writes the six binary files and returns their records, (6, records, 3073)."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(2).integers(0, 256, (6, records, RECORD_BYTES), dtype=np.uint8)
    values[:, :, 0] %= 10
    for name, part in zip(BATCHES, values, strict=True):
        (folder / name).write_bytes(part.tobytes())
    return values


def test_the_jpeg_copy_is_decoded_and_split(tmp_path: Path) -> None:
    archive(tmp_path, members())
    splits = data.load("cifar10", data_dir=tmp_path)
    assert splits.name == "cifar10-jpeg"
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 20)
    expected = np.asarray(Image.open(io.BytesIO(jpeg(seed=3)))).transpose(2, 0, 1)
    assert np.array_equal(splits.test.images[3].numpy(), expected)
    assert splits.test.labels[3] == 3
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.images.shape == (18, 3, 32, 32)


def test_the_binary_version_is_read_channel_by_channel(tmp_path: Path) -> None:
    values = batches(tmp_path)
    splits = data.load("cifar10", data_dir=tmp_path, validation_count=5)
    assert splits.name == "cifar10"
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (15, 5, 4)
    assert np.array_equal(splits.test.images.numpy(), values[5, :, 1:].reshape(4, 3, 32, 32))
    assert splits.test.labels.tolist() == values[5, :, 0].tolist()


def test_splits_share_no_image_and_lose_none(tmp_path: Path) -> None:
    values = batches(tmp_path)
    splits = data.load("cifar10", data_dir=tmp_path)
    seen = {image.numpy().tobytes() for part in (splits.train, splits.validation) for image in part.images}
    assert seen == {record[1:].tobytes() for record in values[:5].reshape(-1, RECORD_BYTES)}


@pytest.mark.parametrize("subfolder", ["cifar10", "cifar-10-batches-bin"])
def test_the_folder_of_the_environment_is_searched(
    subfolder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches(tmp_path / subfolder)
    monkeypatch.setenv("METAQ_DATA", str(tmp_path))
    assert len(data.load("cifar10").test) == 4


def test_the_cache_is_searched_last(tmp_path: Path) -> None:
    batches(tmp_path / "cache" / "metaq" / "cifar10")
    assert len(data.load("cifar10").test) == 4


def test_the_original_goes_before_the_copy(tmp_path: Path) -> None:
    batches(tmp_path)
    archive(tmp_path, members())
    assert data.load("cifar10", data_dir=tmp_path).name == "cifar10"


def test_a_machine_without_it_is_told_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not in .* Put .*data_batch_1.bin.*METAQ_DATA"):
        data.load("cifar10")
    with pytest.raises(DataError, match=r"holds no CIFAR-10; it should hold .*cifar10_jpeg.npz"):
        data.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-py"])
def test_the_pickled_version_is_refused_unread(subfolder: str, tmp_path: Path) -> None:
    (tmp_path / subfolder).mkdir(exist_ok=True)
    (tmp_path / subfolder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"pickled files can run code .* binary version"):
        data.load("cifar10", data_dir=tmp_path)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    batches(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin not found"):
        data.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (bytes(RECORD_BYTES - 1), "3072 bytes, not whole records"),
        (bytes([10]) + bytes(RECORD_BYTES - 1), "label 10"),
    ],
)
def test_a_wrong_batch_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_binary(path)


def test_a_validation_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    batches(tmp_path)
    with pytest.raises(ConfigError, match="validation count"):
        data.load("cifar10", data_dir=tmp_path, validation_count=20)


def offsets(*values: int) -> NDArray[np.int64]:
    return np.array(values)


ONE = [jpeg()]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (members(images=ONE, train_labels=np.zeros(2, np.uint8)), "train_offsets do not rise .* in 2 steps"),
        (
            members(images=ONE, test_labels=np.zeros(0, np.uint8), test_offsets=offsets(0)),
            "test_labels .*there are none",
        ),
        (members(images=ONE, train_labels=np.array([10], np.uint8)), "not numbers from 0 to 9"),
        (members(images=ONE, train_labels=np.array([-1])), "not numbers from 0"),
        (members(images=ONE, train_labels=np.array([2**64 - 1], np.uint64)), "not numbers from 0"),
        (members(images=ONE, train_labels=np.array([0.5])), "train_labels is float64"),
        (members(images=ONE, train_labels=np.array([[1]])), r"is int64 of shape \(1, 1\), no vector of whole numbers"),
        (members(images=ONE, train_labels=np.array(["cat"])), "no vector of whole numbers"),
        (members(images=ONE, train_jpeg=np.frombuffer(jpeg(), np.int8)), "train_jpeg is int8"),
        (members(images=ONE, train_offsets=offsets(0, len(ONE[0]) + 1)), "do not rise from 0 to"),
        (members(images=ONE, train_offsets=offsets(1, len(ONE[0]))), "do not rise"),
        (members(images=ONE * 2, train_offsets=offsets(0, 0, 2 * len(ONE[0]))), "do not rise"),
        (members(images=ONE * 2, train_offsets=offsets(0, -5, 2 * len(ONE[0]))), "do not rise"),
        (members(images=[*ONE, jpeg(side=33)]), "image 1 of train_jpeg has 33×33 pixels in mode RGB"),
        (members(images=[jpeg(mode="L")]), "in mode L"),
        (members(images=[jpeg(form="PNG")]), "image 0 of train_jpeg is no intact JPEG"),
        (members(images=[b"\xff\xd8" + bytes(300)]), "no intact JPEG"),
        (members(images=[ONE[0][:-400]]), "no intact JPEG"),
    ],
)
def test_an_archive_of_something_else_is_refused(arrays: dict[str, NDArray[Any]], words: str, tmp_path: Path) -> None:
    path = archive(tmp_path, arrays)
    with pytest.raises(DataError, match=words) as caught:
        data.load("cifar10", data_dir=tmp_path)
    assert str(caught.value).startswith(str(path))


def test_an_image_that_claims_to_be_huge_is_refused_by_its_header(tmp_path: Path) -> None:
    small = jpeg()
    frame = small.index(b"\xff\xc0")
    bomb = small[: frame + 5] + struct.pack(">HH", 65500, 65500) + small[frame + 9 :]
    archive(tmp_path, members(images=[bomb]))
    with pytest.raises(DataError, match="image 0 of train_jpeg"):
        data.load("cifar10", data_dir=tmp_path)


def test_objects_in_an_archive_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.unlink, (str(tmp_path / "precious"),)

    (tmp_path / "precious").touch()
    archive(tmp_path, members(images=ONE, train_labels=np.array([Trap()], dtype=object)))
    with pytest.raises(DataError, match="damaged archive"):
        data.load("cifar10", data_dir=tmp_path)
    assert (tmp_path / "precious").exists()


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write the archive anew, with members changed or, where None is returned, left out."""
    with zipfile.ZipFile(path) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in contents.items():
            changed = change(name, content)
            if changed is not None:
                new.writestr(name, changed)


def stating(length: int) -> bytes:
    """A NumPy file of one byte whose header promises `length` of them."""
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + b"\0"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no .*train_labels"),
        (b"", "no vector of whole numbers"),
        (b"\x93NUMPY\x07\x00", "damaged archive"),
        (stating(1 << 60), "damaged archive"),
        (stating(2), "damaged archive"),
    ],
)
def test_a_wrong_member_is_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = archive(tmp_path, members(images=ONE))
    rewritten(path, lambda name, old: content if name == "train_labels.npy" else old)
    with pytest.raises(DataError, match=words):
        data.load("cifar10", data_dir=tmp_path)


def test_truncations_and_flipped_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    path = archive(tmp_path, members(images=ONE * 2))
    whole = path.read_bytes()
    for length in range(0, len(whole), 297):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            data.load("cifar10", data_dir=tmp_path)
    read = 0
    for place in range(0, len(whole), 101):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            read += len(data.load("cifar10", data_dir=tmp_path, validation_count=1).test)
    assert 0 < read < len(whole) // 101


@pytest.mark.slow
@pytest.mark.skipif(
    not DATA or not (Path(DATA) / "cifar10" / "cifar10_jpeg.npz").is_file(),
    reason="the JPEG copy of CIFAR-10 is not at hand: set METAQ_DATA to the folder that holds cifar10/cifar10_jpeg.npz",
)
def test_the_jpeg_copy_at_hand_is_whole() -> None:
    splits = data.load("cifar10", data_dir=DATA)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (45_000, 5_000, 10_000)
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    assert min(splits.validation.labels.bincount().tolist()) > 400
