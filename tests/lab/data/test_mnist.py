"""MNIST: where its files are looked for, fetched from and how they are checked."""

from __future__ import annotations

import gzip
import http.client
import io
import os
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metaq.errors import DataError, OutputError
from metaq.lab import data
from metaq.lab.data.idx import sha256_of_idx

from .conftest import to_idx

Arrays = dict[str, NDArray[np.uint8]]
Write = Callable[[Path, Arrays], Path]

# Read before the fixture that hides it from the tests.
REAL_DATA = os.environ.get("METAQ_DATA")


class Response(io.BytesIO):
    """What a server answers."""

    def __init__(self, body: bytes, length: str | None) -> None:
        super().__init__(body)
        self.headers = Message()
        if length is not None:
            self.headers["Content-Length"] = length


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch, arrays: Arrays) -> Arrays:
    """Lets the small arrays pass for MNIST."""
    monkeypatch.setattr("metaq.lab.data.mnist.SHA256", {name: sha256_of_idx(values) for name, values in arrays.items()})
    return arrays


def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], Response]) -> list[str]:
    """Answer requests with `answer`; the addresses asked for are returned as they come."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> Response:
        assert timeout > 0
        asked.append(url)
        return answer(url)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def file_of(url: str) -> str:
    return url.rsplit("/", 1)[1].removesuffix(".gz")


@pytest.mark.parametrize("subfolder", ["", "mnist"])
@pytest.mark.parametrize("place", ["data_dir", "METAQ_DATA", "cache"])
def test_every_place_is_searched(
    place: str,
    subfolder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_mnist: Arrays,
    write_folder: Write,
) -> None:
    home = tmp_path / "cache" / "metaq" if place == "cache" else tmp_path / "elsewhere"
    write_folder(home / subfolder, small_mnist)
    if place == "METAQ_DATA":
        monkeypatch.setenv("METAQ_DATA", str(home))
    splits = data.load("mnist", data_dir=home if place == "data_dir" else None)
    assert splits.name == "mnist"
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (22, 2, 6)


def test_a_folder_without_the_files_is_named_and_nothing_else_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_mnist: Arrays, write_folder: Write
) -> None:
    monkeypatch.setenv("METAQ_DATA", str(write_folder(tmp_path / "good", small_mnist)))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=f"{empty}: .*train-images-idx3-ubyte.* not found"):
        data.load("mnist", data_dir=empty)
    with pytest.raises(DataError, match=r"absent: no such folder"):
        data.load("mnist", data_dir=tmp_path / "absent")


def test_an_incomplete_folder_in_the_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_mnist: Arrays, write_folder: Write
) -> None:
    del small_mnist["t10k-labels-idx1-ubyte"]
    monkeypatch.setenv("METAQ_DATA", str(write_folder(tmp_path / "part", small_mnist)))
    with pytest.raises(DataError, match="part: t10k-labels-idx1-ubyte not found"):
        data.load("mnist")


def test_without_data_and_network_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        data.load("mnist")
    message = str(caught.value)
    assert str(tmp_path / "cache" / "metaq" / "mnist") in message
    assert "--data digits" in message
    assert "train-images-idx3-ubyte" in message
    assert "no network" in message
    assert not (tmp_path / "cache").exists()


def test_other_images_under_the_name_are_refused(tmp_path: Path, arrays: Arrays, write_folder: Write) -> None:
    folder = write_folder(tmp_path / "fashion", arrays)
    with pytest.raises(DataError, match=f"not MNIST's .*--data {folder}"):
        data.load("mnist", data_dir=folder)


def test_a_download_is_kept_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_mnist: Arrays) -> None:
    bodies = {name: gzip.compress(to_idx(values)) for name, values in small_mnist.items()}
    asked = serve(monkeypatch, lambda url: Response(bodies[file_of(url)], str(len(bodies[file_of(url)]))))
    reports: list[tuple[int, int | None, str]] = []
    splits = data.load("mnist", progress=lambda *report: reports.append(report))
    assert torch.equal(splits.test.images[:, 0], torch.tensor(small_mnist["t10k-images-idx3-ubyte"]))
    assert reports == [(len(body), len(body), f"{name}.gz") for name, body in bodies.items()]
    assert len(asked) == 4
    data.load("mnist")
    assert len(asked) == 4
    (tmp_path / "cache" / "metaq" / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    data.load("mnist")
    assert len(asked) == 5


def test_the_second_mirror_is_used_when_the_first_fails(monkeypatch: pytest.MonkeyPatch, small_mnist: Arrays) -> None:
    def answer(url: str) -> Response:
        if "ossci" in url:
            return Response(b"<html>Service unavailable</html>", None)
        return Response(gzip.compress(to_idx(small_mnist[file_of(url)])), None)

    asked = serve(monkeypatch, answer)
    reports: list[tuple[int, int | None, str]] = []
    assert len(data.load("mnist", progress=lambda *report: reports.append(report)).test) == 6
    assert len(asked) == 8
    assert {total for _, total, _ in reports} == {None}


def fail_with_timeout(url: str) -> Response:
    raise TimeoutError(f"{url} timed out")


def fail_with_broken_protocol(url: str) -> Response:
    raise http.client.BadStatusLine(url)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (fail_with_timeout, "timed out"),
        (fail_with_broken_protocol, "BadStatusLine|http"),
        (lambda _: Response(b"", "0"), "starts with 0x;"),
        (lambda _: Response(gzip.compress(to_idx(np.ones(6, dtype=np.uint8)))[:-3], None), "damaged"),
        (lambda _: Response(gzip.compress(to_idx(np.ones((6, 5, 7), dtype=np.uint8))), None), "checksum"),
    ],
)
def test_a_bad_download_leaves_nothing_behind(
    answer: Callable[[str], Response],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_mnist: Arrays,
) -> None:
    asked = serve(monkeypatch, answer)
    with pytest.raises(DataError, match=words):
        data.load("mnist")
    assert [file_of(url) for url in asked] == 2 * [next(iter(small_mnist))]
    assert not list(tmp_path.rglob("*ubyte*"))


def test_an_endless_download_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaq.lab.data.mnist._MAX_DOWNLOAD_BYTES", 1000)
    serve(monkeypatch, lambda _: Response(bytes(2000), None))
    with pytest.raises(DataError, match="more than the 1000 bytes"):
        data.load("mnist")


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_mnist: Arrays
) -> None:
    serve(monkeypatch, lambda url: Response(gzip.compress(to_idx(small_mnist[file_of(url)])), None))
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    with pytest.raises(OutputError, match=r"cache.*XDG_CACHE_HOME"):
        data.load("mnist")


def test_a_server_that_is_found_again_is_asked_again(monkeypatch: pytest.MonkeyPatch, small_mnist: Arrays) -> None:
    with pytest.raises(DataError):
        data.load("mnist")
    serve(monkeypatch, lambda url: Response(gzip.compress(to_idx(small_mnist[file_of(url)])), None))
    assert len(data.load("mnist").test) == 6


@pytest.mark.skipif(not REAL_DATA, reason="METAQ_DATA, a folder with MNIST's files, is not set")
def test_the_real_files_are_loaded() -> None:
    splits = data.load("mnist", data_dir=REAL_DATA)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (55_000, 5_000, 10_000)
    assert splits.train.images.shape[1:] == (1, 28, 28)
    assert splits.test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    # Reported results rest on this split; it may never change.
    assert splits.validation.labels.bincount().tolist() == [497, 570, 487, 507, 489, 455, 489, 519, 523, 464]
    assert splits.validation.labels[:8].tolist() == [4, 1, 5, 6, 4, 4, 1, 4]
