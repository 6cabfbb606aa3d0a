"""The parts of benchmarks/files.py that need no package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support import files_bank, files_inputs, files_libraries, files_peers, files_quality, files_search

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def case(tmp_path):
    return files_bank.stand_in(tmp_path)


def test_the_script_tells_what_came_back_and_writes_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- files -->\nold\n<!-- /files -->\nafter\n")
    command = [sys.executable, str(BENCHMARKS / "files.py"), "--quick", "--json", "-", "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["files"].values()
    default = row["metaq"][0]
    assert default["structure"] == {"same": 5, "missing": [], "new": [], "different": []}
    assert default["bytes"] < row["in_bytes"] / 3
    assert [peer["way"] for peer in row["peers"]] == list(files_peers.WAYS)
    errors = {peer["way"]: 1 - peer["score"] for peer in row["peers"]}
    assert errors[files_peers.HALF] < errors[files_peers.INT8] < errors[files_peers.BLOCKS]
    text = page.read_text()
    assert "| stand-in (none) |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    command = [sys.executable, str(BENCHMARKS / "files.py"), "--quick", "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "add them" in done.stderr
    assert page.read_text() == "nothing\n"


@pytest.mark.parametrize("way", files_peers.WAYS)
def test_a_peer_file_holds_what_the_peer_restores_and_all_else(way, case, tmp_path):
    files = files_peers.ModelFiles(case.source, keep_all=True)
    packed = files.packed(way)
    files.write(packed.tensors, tmp_path / "peer.pth")
    before, after = (torch.load(path, weights_only=True) for path in (case.source, tmp_path / "peer.pth"))
    assert after["epoch"] == before["epoch"]
    errors = {
        name: float((after["state_dict"][name] - tensor).abs().max()) for name, tensor in before["state_dict"].items()
    }
    assert 0 < errors["0.weight"] < 0.5 * float(before["state_dict"]["0.weight"].abs().max())
    assert (errors["0.bias"] == 0) == (way != files_peers.HALF)
    assert packed.size_bytes < case.source.stat().st_size


def test_rows_are_the_dimension_that_errs_less():
    scales = np.array([1, 100, 1, 100], dtype=np.float32)
    values = np.random.default_rng(0).standard_normal((600, 4)).astype(np.float32) * scales
    turned = np.ascontiguousarray(values.T)
    int8 = files_peers.peers.named(files_peers.INT8)
    found = [files_peers.rounded(matrix, int8.quantize, files_peers.peers.Streams()) for matrix in (values, turned)]
    assert np.array_equal(found[0], found[1].T)


def test_half_precision_keeps_what_a_quotient_needs():
    streams = files_peers.peers.Streams()
    few = np.array([1e-9, 1.0], dtype=np.float32)
    many = np.full(files_peers.peers.LEAST_ELEMENTS, 1e-9, dtype=np.float32)
    assert np.array_equal(files_peers.halved(few, streams), few)
    assert not files_peers.halved(many, streams).any()
    assert [len(part) for part in streams.floats] == [few.nbytes, many.nbytes // 2]


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("score", [0.7, 0.9999])
def test_a_search_ends_at_the_largest_multiplier_that_is_good(power, score):
    def measure(multiplier):
        return {
            "multiplier": multiplier,
            "bytes": round(1000 - 100 * np.log2(multiplier)),
            "score": 1 - multiplier**power,
        }

    search = files_search.Search(measure, [measure(0.01)])
    search.run(score, probes=12)
    found = search.smallest(score)
    largest = (1 - score) ** (1 / power)
    assert largest / files_search.CLOSE <= found["multiplier"] <= largest
    assert len(search.rows) < 10


def test_what_differs_between_files_is_seen(tmp_path):
    for name, epoch, rows in (("one", 3, 2), ("two", 4, 5)):
        torch.save({"epoch": epoch, "state_dict": {"weight": torch.zeros(rows, 3)}}, tmp_path / name)
    one, two = (files_libraries.of_torch(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() == {"/epoch", "/state_dict/weight"}
    assert all(one[name] != two[name] for name in one)


@pytest.mark.parametrize(
    "quality",
    [
        files_quality.by_relative_error,
        files_quality.by_channels,
        files_quality.by_probabilities,
        files_quality.by_landmarks,
    ],
)
def test_equal_outputs_score_one(quality):
    outputs = torch.rand(6, 13, generator=torch.Generator().manual_seed(1))
    assert quality(outputs, outputs)["score"] == pytest.approx(1)
    assert quality(outputs, outputs.flip(1))["score"] < 1


def test_channels_count_alike_whatever_their_units():
    reference = torch.rand(4, 2, 50, generator=torch.Generator().manual_seed(1))
    found = reference.clone()
    found[:, 1] *= 1.1
    scaled = torch.tensor([1.0, 1e6])[:, None]
    errors = [
        1 - files_quality.by_channels(a, b)["score"]
        for a, b in ((reference, found), (reference * scaled, found * scaled))
    ]
    assert errors == pytest.approx([0.05, 0.05], rel=1e-4)


def test_short_files_are_padded_between_beginning_and_end(tmp_path):
    (tmp_path / "short").write_bytes(b"  abc  ")
    (row,) = files_inputs.beginnings_and_ends([tmp_path / "short"])
    assert len(row) == 2 * files_inputs.MAGIKA_BYTES
    assert bytes(row[:5].astype(np.uint8)) == b"abc  "
    assert (row[6:-5] == files_inputs.PADDING_TOKEN).all()
    assert bytes(row[-5:].astype(np.uint8)) == b"  abc"
