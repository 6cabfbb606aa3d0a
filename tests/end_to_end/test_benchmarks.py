from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = {
    "federated.py": (["--quick"], {"rows", "summary"}),
    "neighbours.py": (["--quick"], {"within", "across"}),
    "rotated.py": (["--quick", "--bytes", "2000"], {"rows"}),
    "updates.py": (["--quick"], {"rows"}),
    "adapters.py": ([], set()),
    "arranging.py": (["--epochs", "1"], {"networks"}),
    "browser_decoding.py": ([], set()),
    "browser_search.py": ([], set()),
    "calibrating.py": (["--layers", "1", "--texts", "16"], {"weights", "bytes", "kept", "seconds", "peak_mib"}),
    "checkpoint.py": ([], {"bytes", "mean_cosine", "spearman", "compress", "decompress"}),
    "cifar10.py": (["--quick", "--out", "{folder}/runs"], {"net", "data", "schedule", "float", "small", "drop"}),
    "codec.py": (["--count", "20000", "--runs", "1"], {"Laplacian", "ternary", "scaling"}),
    "course.py": (["--ratio", "40"], {"float", "rows", "limit_bytes", "file_bytes"}),
    "decode_distribution.py": (["--runs", "1"], {"file_bytes", "wheel_bytes", "rows", "meets_limit"}),
    "decoders.py": (["--quick"], {"elements", "rows"}),
    "dual.py": (["--quick"], {"regularizer_ms", "dense_ms", "step_overhead"}),
    "embeddings.py": (["--quick"], {"model", "float_bytes", "without_data", "nncodec", "with_data", "targets"}),
    "few_samples.py": (["--quick"], {"rows"}),
    "files.py": (["--quick"], {"files"}),
    "firmware.py": (["--images", "2", "--counted", "1"], set()),
    "frontier.py": (["--quick", "--bits-per-weight", "4"], {"settled", "models"}),
    "gpu.py": (["--quick"], {"device", "steps", "throughput", "meets_limits"}),
    "lossless.py": (["--runs", "1"], set()),
    "one_knob.py": (
        ["--net", "lenet300", "--target-bytes", "9000", "--epochs", "2", "--seeds", "1", "--out", "{folder}/runs"],
        {"runs", "medians"},
    ),
    "knob.py": (["--loops", "regression", "--ratios", "8"], {"rows", "summary"}),
    "knapsack.py": (["--quick"], {"instances", "small", "large", "training"}),
    "language_model.py": (["--steps", "5"], {"weights", "steps", "perplexity"}),
    "objectives.py": (
        [
            "--data",
            "digits",
            "--epochs",
            "1",
            "--ways",
            "proximal",
            "spread",
            "context",
            "l1",
            "--strengths",
            "1e-5",
            "--tolerance",
            "1",
        ],
        {"net", "rows"},
    ),
    "startup.py": (["--runs", "1"], {"--help", "inspect", "decompress", "first compress"}),
    "streaming.py": (["--largest", "1", "--total", "4"], {"bytes", "largest_mib", "compress", "decompress"}),
    "spread_and_bits.py": ([], {"seed", "rows"}),
    "structure.py": ([], {"rooms", "arrows", "floors", "against_order", "source_lines", "baseline"}),
}

AT_ONCE = {"structure.py"}
"""Benchmarks that run in a second."""


def test_make_bench_asks_only_those_for_a_picture_that_draw_one(tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    command = ["make", "-s", "bench", f"BIN={tmp_path}", "INSTALLED=", "BENCHMARKS=dual arranging"]
    printed = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True).stdout
    asked = {line.split()[0]: "--plot" in line for line in printed.splitlines() if "--json" in line}
    assert asked == {"benchmarks/dual.py": True, "benchmarks/arranging.py": False}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=() if path.name in AT_ONCE else pytest.mark.slow)
        for path in sorted(BENCHMARKS.glob("*.py"))
    ],
)
def test_a_benchmark_prints_one_json_object(name, tmp_path):
    options, keys = QUICK[name]
    placed = [option.format(folder=tmp_path) for option in options]
    command = [sys.executable, str(BENCHMARKS / name), *placed, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) >= keys


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codec.py", "course.py", "embeddings.py"])
def test_a_benchmark_draws_its_figures(name, tmp_path):
    options, _ = QUICK[name]
    picture, figures = tmp_path / "picture.png", tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / name), *options, "--json", str(figures), "--plot", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(figures.read_text())


@pytest.mark.slow
def test_the_frontier_draws_a_picture_per_model(tmp_path):
    options = ["--quick", "--calibrated", "--json", str(tmp_path / "figures.json"), "--plots", str(tmp_path)]
    command = [sys.executable, str(BENCHMARKS / "frontier.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "figures.json").read_text())["models"]["stand-in"]
    assert (tmp_path / "stand-in.png").read_bytes().startswith(b"\x89PNG")
    sizes = {row["bytes"] for row in result["metaq"]} | {None}
    assert result["equal"]
    assert all(row["bytes"] in sizes and row["way"] == "metaq calibrated" for row in result["equal"])


def test_a_benchmark_says_what_a_trained_model_needs(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "embeddings.py"), "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: --model also needs --calibration FILE and --sentences FILE; see --help.\n"


def test_the_frontier_says_which_earlier_run_is_missing(tmp_path):
    missing = tmp_path / "earlier.json"
    command = [sys.executable, str(BENCHMARKS / "frontier.py"), "--quick", "--against", str(missing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {missing}: there is no such file; give the --json of an earlier run with --peers.\n"
