"""The embedded digits, the registry, and what a data set refuses to be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from metaq.errors import ConfigError, DataError
from metaq.lab import data
from metaq.lab.data.dataset import fixed_permutation


def test_digits_are_images_for_mnist_networks() -> None:
    splits = data.load("digits")
    for part in (splits.train, splits.validation, splits.test):
        assert part.images.dtype == torch.uint8
        assert part.images.shape[1:] == (1, 28, 28)
        assert part.classes == 10
        assert part.labels.unique().tolist() == list(range(10))
    assert splits.train.images.max() == 255
    assert splits.train.images.min() == 0


def test_digits_are_split_without_overlap_and_always_alike() -> None:
    first, second = data.load("digits"), data.load("digits", validation_count=500)
    assert (len(first.train), len(first.validation), len(first.test)) == (1197, 200, 400)
    assert (len(second.train), len(second.validation), len(second.test)) == (897, 500, 400)
    assert torch.equal(first.test.images, second.test.images)
    counts = [
        torch.cat([part.images for part in (splits.train, splits.validation, splits.test)]).double().mean()
        for splits in (first, second)
    ]
    assert counts[0] == counts[1]


def test_digits_are_read_from_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave the folder out"):
        data.load("digits", data_dir=tmp_path)


@pytest.mark.parametrize(("name", "words"), [("mnits", "did you mean 'mnist'"), ("", "digits, mnist"), ("x", "digits")])
def test_an_unknown_name_is_answered_with_near_ones(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data.load(name)


def test_the_permutation_is_one_and_never_changes() -> None:
    order = fixed_permutation(1000)
    assert order.sort().values.tolist() == list(range(1000))
    assert order[:6].tolist() == [855, 921, 269, 11, 850, 403]


def test_to_float_maps_bytes_to_the_unit_interval() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = data.to_float(images)
    assert floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (0, 1)
    assert torch.equal((floats * 255).round().to(torch.uint8), images)
    with pytest.raises(DataError, match="takes uint8"):
        data.to_float(floats)


IMAGES = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
LABELS = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES.float(), LABELS, "images: float32"),
        (IMAGES[0], LABELS, r"images: uint8 of shape \(1, 4, 4\)"),
        (IMAGES[:0], LABELS[:0], "one image at least"),
        (IMAGES, LABELS.int(), "labels: int32"),
        (IMAGES, LABELS[:1], r"int64 of shape \(2,\)"),
        (IMAGES, LABELS + 1, "values from 1 to 3"),
        (IMAGES, LABELS - 1, "values from -1 to 1"),
    ],
)
def test_what_is_no_data_set_is_refused(images: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        data.ImageDataset(images=images, labels=labels, classes=3)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    with pytest.raises(ConfigError, match=r"scikit-learn .* extra lab"):
        data.load("digits")
