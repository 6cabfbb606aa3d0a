from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = {
    "codec.py": (["--count", "20000", "--runs", "1"], {"Laplacian", "ternary"}),
    "dual.py": (["--quick"], {"regularizer_ms", "dense_ms", "step_overhead"}),
    "knapsack.py": (["--quick"], {"instances", "small", "large", "training"}),
    "spread_and_bits.py": ([], {"seed", "rows"}),
}


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_a_benchmark_prints_one_json_object(name):
    options, keys = QUICK[name]
    command = [sys.executable, str(BENCHMARKS / name), *options, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) >= keys
