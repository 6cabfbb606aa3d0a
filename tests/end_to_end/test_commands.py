from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from metaq import BucketGrid, __version__, load

from .conftest import run_metaq, trained

SHORT = ("--preset", "lenet5-digits", "--epochs", "3", "--set", "regularizer.warmup=0.3")


def test_help_of_every_command_shows_an_example():
    commands = ("train", "quantize", "compress", "decompress", "evaluate", "inspect", "demo", "reproduce")
    shown = run_metaq("--help")
    assert shown.status == 0
    for command in commands:
        assert command in shown.out
        helped = run_metaq(command, "--help")
        assert helped.status == 0
        assert f"Example: metaq {command}" in helped.out
        assert "--json" in helped.out


def test_the_version_is_told():
    assert run_metaq("--version").out == f"metaq {__version__}\n"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_quantize_and_decompress_give_the_quantised_weights_bit_for_bit(tmp_path, checkpoint, suffix):
    packed, restored = tmp_path / "model.metaq", tmp_path / f"back{suffix}"
    told = run_metaq("quantize", checkpoint, "-o", packed, "--buckets", 33, "--json")
    assert told.status == 0, told.err
    numbers = told.json
    assert numbers["bytes"] == packed.stat().st_size
    assert numbers["float_bytes"] == 177_704
    assert numbers["weights"] == 44_426
    assert numbers["ratio"] == pytest.approx(177_704 / numbers["bytes"])
    assert numbers["bits_per_weight"] == pytest.approx(8 * numbers["bytes"] / 44_426)
    assert run_metaq("decompress", packed, "-o", restored).status == 0
    read = safetensors.torch.load_file if suffix == ".safetensors" else lambda path: torch.load(path, weights_only=True)
    found, original = read(restored), torch.load(checkpoint, weights_only=True)
    assert found.keys() == original.keys()
    for name, weights in original.items():
        lowest, highest = float(weights.min()), float(weights.max())
        middle = (lowest + highest) / 2
        grid = BucketGrid(center=middle, radius=max(highest - middle, middle - lowest), count=33)
        expected = torch.from_numpy(grid.values_of(grid.assign(weights.double().numpy()))).float()
        assert torch.equal(found[name], expected)
        assert torch.equal(load(packed)[name], expected)


@pytest.mark.slow
def test_compressing_twice_gives_the_same_bytes(tmp_path, checkpoint):
    one, two = tmp_path / "one.metaq", tmp_path / "two.metaq"
    assert run_metaq("compress", checkpoint, "-o", one).status == 0
    assert run_metaq("compress", checkpoint, "-o", two).status == 0
    assert one.read_bytes() == two.read_bytes()


def test_evaluate_and_inspect_take_every_kind_of_file(tmp_path, checkpoint):
    packed = tmp_path / "model.metaq"
    run_metaq("compress", checkpoint, "-o", packed)
    run_metaq("decompress", packed, "-o", tmp_path / "model.safetensors")
    accuracies = []
    for file in (packed, tmp_path / "model.safetensors", checkpoint):
        evaluated = run_metaq("evaluate", file, "--net", "lenet5", "--data", "digits", "--json")
        assert evaluated.status == 0, evaluated.err
        assert {"accuracy", "bytes", "float_bytes", "ratio", "weights", "bits_per_weight", "seconds"} <= set(
            evaluated.json
        )
        accuracies.append(evaluated.json["accuracy"])
        inspected = run_metaq("inspect", file, "--plot", tmp_path / f"{file.name}.png", "--json")
        assert inspected.status == 0, inspected.err
        assert [row["name"] for row in inspected.json["tensors"]].count("conv1.weight") == 1
        assert sum(row["shape"] == [120, 256] for row in inspected.json["tensors"]) == 1
        assert (tmp_path / f"{file.name}.png").read_bytes().startswith(b"\x89PNG")
        assert run_metaq("inspect", file).status == 0
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-recover",)])
def test_compress_to_a_budget_with_calibration(tmp_path, options):
    checkpoint, packed = tmp_path / "lenet5.pth", tmp_path / "model.metaq"
    torch.save(trained("lenet5"), checkpoint)
    budget = ("--target-bytes", 5000, "--data", "digits", "--calibration", 500)
    told = run_metaq("compress", checkpoint, "-o", packed, *budget, *options, "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == packed.stat().st_size
    assert 4000 < told.json["bytes"] <= 5000
    assert run_metaq("evaluate", packed, "--data", "digits").status == 0


def test_quantize_sweeps_and_writes_the_chosen_file(tmp_path, checkpoint):
    out = tmp_path / "chosen.metaq"
    arguments = ("quantize", checkpoint, "--data", "digits", "--sweep", "4:64:20", "--tolerance", "100")
    told = run_metaq(*arguments, "--out", out, "--json")
    assert told.status == 0, told.err
    assert told.json["buckets"] == 4
    assert told.json["bytes"] == out.stat().st_size
    best = told.json["best"]
    assert len(best) == 4
    assert best == sorted(best, key=lambda row: (-row["accuracy"], row["entropy_bits"]))
    assert {"accuracy", "entropy_bits", "file_bytes", "buckets"} <= set(best[0])
    shown = run_metaq(*arguments)
    assert shown.status == 0
    assert "smallest within" in shown.out


def test_train_leaves_a_complete_run(tmp_path):
    run = tmp_path / "run"
    told = run_metaq("train", *SHORT, "--out", run, "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == (run / "model.metaq").stat().st_size
    assert told.json["epochs"] == 3
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["strength"] > 0
    assert told.json["seconds"] > sum(record["seconds"] for record in records)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "config.json").read_text())["epochs"] == 3
    evaluated = run_metaq("evaluate", run / "model.metaq", "--json")
    assert evaluated.json["accuracy"] == told.json["accuracy"]


@pytest.mark.slow
def test_train_plain_output_is_a_table(tmp_path):
    shown = run_metaq("train", *SHORT, "--epochs", "1", "--out", tmp_path / "run")
    assert shown.status == 0, shown.err
    assert "accuracy of the restored weights" in shown.out
    assert "epoch   1" in shown.err
    assert "latent" not in shown.err
    shown = run_metaq("train", *SHORT, "--epochs", "1", "--out", tmp_path / "verbose", "--verbose")
    assert "% latent" in shown.err
