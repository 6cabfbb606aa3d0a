"""One's own images: four IDX files in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metaq.errors import ConfigError, DataError
from metaq.lab import data

Arrays = dict[str, NDArray[np.uint8]]
Write = Callable[[Path, Arrays], Path]


def test_images_of_any_size_are_loaded(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    splits = data.load(str(write_folder(tmp_path / "letters", arrays)))
    assert splits.name == "letters"
    assert splits.train.images.shape == (22, 1, 5, 7)
    assert splits.validation.images.shape == (2, 1, 5, 7)
    assert torch.equal(splits.test.images[:, 0], torch.tensor(arrays["t10k-images-idx3-ubyte"]))
    assert splits.test.labels.tolist() == [0, 1, 2, 3, 0, 1]
    # The highest label occurs in the test images only.
    assert {splits.train.classes, splits.validation.classes, splits.test.classes} == {4}


def test_train_and_validation_part_the_training_images(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    splits = data.load(str(write_folder(tmp_path, arrays)), validation_count=9)
    assert len(splits.validation) == 9
    joined = torch.cat((splits.train.images, splits.validation.images))[:, 0]
    originals = torch.tensor(arrays["train-images-idx3-ubyte"])
    assert sorted(joined.flatten(1).tolist()) == sorted(originals.flatten(1).tolist())
    label_of = {
        tuple(image.flatten().tolist()): int(label)
        for image, label in zip(originals, arrays["train-labels-idx1-ubyte"], strict=True)
    }
    for image, label in zip(splits.train.images, splits.train.labels, strict=True):
        assert label_of[tuple(image.flatten().tolist())] == int(label)


@pytest.mark.parametrize("count", [-1, 0, 24, 25])
def test_a_validation_count_that_leaves_a_part_empty_is_refused(
    count: int, tmp_path: Path, arrays: Arrays, write_folder: Write
) -> None:
    folder = write_folder(tmp_path, arrays)
    with pytest.raises(ConfigError, match=f"validation count: {count} .* from 1 to 23"):
        data.load(str(folder), validation_count=count)


def test_missing_files_are_named(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    folder = write_folder(tmp_path, arrays)
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match=f"{folder}: t10k-images-idx3-ubyte not found"):
        data.load(str(folder))


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no such folder; .*train-labels-idx1-ubyte"):
        data.load(str(tmp_path / "absent"))


def test_labels_of_another_number_are_refused(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    arrays["t10k-labels-idx1-ubyte"] = np.zeros(5, dtype=np.uint8)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: 5 labels for the 6 images"):
        data.load(str(write_folder(tmp_path, arrays)))


def test_images_of_another_size_are_refused(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    arrays["t10k-images-idx3-ubyte"] = np.zeros((6, 7, 5), dtype=np.uint8)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz: images of 7×5 pixels, .* 5×7 pixels"):
        data.load(str(write_folder(tmp_path, arrays)))


def test_a_truncated_file_is_named(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    path = write_folder(tmp_path, arrays) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: the gzip file is damaged"):
        data.load(str(tmp_path))


def test_a_second_folder_is_refused(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    with pytest.raises(ConfigError, match="give one of the two"):
        data.load(str(write_folder(tmp_path, arrays)), data_dir=tmp_path)
