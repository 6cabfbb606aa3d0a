"""What the commands say of tensors that are not quantised, and of tied ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metaq import decode, load

from .conftest import refused, run_metaq


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """A checkpoint with tied weights, statistics, integers and a scalar."""
    torch.manual_seed(0)
    table = torch.randn(200, 16)
    path = tmp_path / "tied.pth"
    state = {
        "embedding.weight": table,
        "hidden.weight": torch.randn(16, 16),
        "norm.running_mean": torch.randn(16),
        "norm.num_batches_tracked": torch.tensor(7),
        "temperature": torch.tensor(0.07),
        "decoder.weight": table,
    }
    torch.save(state, path)
    return path


@pytest.mark.parametrize("options", [(), ("--target-ratio", "4")])
def test_the_end_of_compress_says_what_was_quantised(tied: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    packed = tmp_path / "tied.metaq"
    told = run_metaq("compress", tied, "-o", packed, *options)
    assert told.status == 0, told.err
    quantized, whole = 4 * (200 * 16 + 16 * 16), 4 * (200 * 16 + 16 * 16 + 16 + 1) + 8
    assert f"{quantized:,} of {whole:,} bytes, 99.5%" in told.out
    for size, why in (
        (64, "running statistics of batch normalisation"),
        (8, "integer"),
        (4, "too small to pay"),
    ):
        assert f"{size} bytes in 1 tensor: {why}" in told.out
    assert "warning" not in told.err
    entries = {entry.name: entry for entry in decode.inspect(packed).entries}
    assert entries["embedding.weight"].coder == "tied"
    run_metaq("decompress", packed, "-o", tmp_path / "back.safetensors")
    run_metaq("decompress", packed, "-o", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back["embedding.weight"].data_ptr() == back["decoder.weight"].data_ptr()


def test_little_coverage_is_a_warning_in_text_and_in_json(tied: Path, tmp_path: Path) -> None:
    told = run_metaq("compress", tied, "-o", tmp_path / "a.metaq", "--exclude", "decoder*", "--json")
    assert told.json["quantized_bytes"] == 4 * 16 * 16
    assert told.json["not_quantized"][0] == {
        "name": "decoder.weight",
        "bytes": 4 * 200 * 16,
        "reason": "excluded by decoder*",
    }
    assert "warning: only 7.4% of the bytes of the tensors are quantised; not: " in told.err
    assert "(12,800 bytes, excluded by decoder*)" in told.err
    text = run_metaq("compress", tied, "-o", tmp_path / "b.metaq", "--include", "hidden*")
    assert "not included" in text.out
    assert "warning: only 7.4%" in text.err
    shown = run_metaq("inspect", tmp_path / "b.metaq")
    assert "warning: only 7.4%" in shown.err
    assert "12,800 bytes, stored exactly" in shown.err
    assert shown.status == 0


def test_inspect_shows_ties(tied: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tied.metaq"
    run_metaq("compress", tied, "-o", packed)
    shown = run_metaq("inspect", packed, "--plot", tmp_path / "plot.png")
    assert "tied to decoder.weight" in shown.out
    assert "99.5%" in shown.out
    assert shown.err == ""
    assert (tmp_path / "plot.png").stat().st_size > 0
    rows = {row["name"]: row for row in run_metaq("inspect", packed, "--json").json["tensors"]}
    assert rows["embedding.weight"]["tied_to"] == "decoder.weight"
    assert rows["embedding.weight"]["stored_bytes"] == 0
    assert rows["decoder.weight"]["tied_to"] is None


def test_a_checkpoint_that_is_no_file_of_metaq_is_shown_without_coverage(tied: Path) -> None:
    shown = run_metaq("inspect", tied)
    assert shown.err == ""
    assert "quantised" not in shown.out
    assert "quantized_bytes" not in run_metaq("inspect", tied, "--json").json


def test_a_model_without_floating_tensors_is_kept_as_it_is(tmp_path: Path) -> None:
    state_dict = {"a": torch.arange(5), "b": torch.tensor([True])}
    torch.save(state_dict, tmp_path / "integers.pth")
    told = run_metaq("compress", tmp_path / "integers.pth", "-o", tmp_path / "x.metaq")
    assert told.status == 0
    assert "only 0.0% of the bytes of the tensors are quantised; not: a (40 bytes, integer)" in told.err
    back = load(tmp_path / "x.metaq")
    assert all(torch.equal(back[name], tensor) for name, tensor in state_dict.items())
    result = run_metaq("compress", tmp_path / "integers.pth", "-o", tmp_path / "y.metaq", "--target-bytes", "20")
    assert refused(result, "no file of 20 bytes")
    assert not (tmp_path / "y.metaq").exists()


def test_a_model_that_is_too_small_is_stored_exactly(tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([0.1, 0.2])}, tmp_path / "small.pth")
    told = run_metaq("compress", tmp_path / "small.pth", "-o", tmp_path / "small.metaq")
    assert told.status == 0
    assert "a (8 bytes, too small to pay)" in told.err
    run_metaq("decompress", tmp_path / "small.metaq", "-o", tmp_path / "back.pth")
    assert torch.equal(torch.load(tmp_path / "back.pth", weights_only=True)["a"], torch.tensor([0.1, 0.2]))
