from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "worker.py"
PROCESSES = 2


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What every check of the worker found, one entry a process; and the folder of its files."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    done = subprocess.run(
        [*command, str(WORKER), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-6000:]
    found: dict[str, list] = {}
    for path in sorted(folder.glob("check_*.json")):
        found.setdefault(path.name.split(".")[0].removeprefix("check_"), []).append(json.loads(path.read_text()))
    assert all(len(of_processes) == PROCESSES for of_processes in found.values())
    return found, folder


@pytest.mark.parametrize(
    "check",
    [
        "fully_shard",
        "data_parallel",
        "replicas_of_shards",
        "spread_objective",
        "resuming",
        "resuming_alone",
    ],
)
def test_two_processes_do_what_one_does(outcomes, check):
    for found in outcomes[0][check]:
        assert found["difference"] < 1e-6
        assert found["latent"] < 1e-6
        assert found["grids"]
        assert found["weights"] == [127, 127]
        assert found["frozen"][0] == found["frozen"][1] > 0
        for name in ("bits", "phi_bits", "distance"):
            assert found[name][0] == pytest.approx(found[name][1], rel=1e-9)


def test_a_step_has_a_single_all_reduce_for_all_groups_and_another_before_a_refresh(outcomes):
    for found in outcomes[0]["one_all_reduce"]:
        groups, buckets = found["groups"], found["buckets"]
        refreshes = groups * buckets + groups
        assert found["calls"] == [[groups], [groups, 3 * groups], [refreshes]] * 2


@pytest.mark.parametrize("evaluates", [False, True])
def test_of_figures_that_differ_the_mean_counts(outcomes, evaluates):
    first, second = (of_process[evaluates] for of_process in outcomes[0]["figures"])
    assert first["weights"] == second["weights"]
    assert first["by_own"] != pytest.approx(second["by_own"], abs=1e-2)
    for found in (first, second):
        assert found["weights"] == pytest.approx(found["by_mean"], abs=1e-6)
        assert found["weights"] != pytest.approx(found["by_own"], abs=1e-2)


def test_the_same_weights_give_the_same_file(outcomes):
    found, folder = outcomes
    one = (folder / "one.metaq").read_bytes()
    assert all((folder / f"{name}.metaq").read_bytes() == one for name in ("sharded", "replicated"))
    for of_process in found["same_file"]:
        assert len(set(of_process["bytes"])) == 1


def test_what_one_process_cannot_write_every_process_is_told_of(outcomes):
    for found in outcomes[0]["unwritable_file"]:
        assert len(found["errors"]) == 2
        assert all("cannot be written" in error for error in found["errors"])


def test_processes_that_disagree_are_refused_in_all_of_them(outcomes):
    for found in outcomes[0]["disagreement"]:
        assert len(found["errors"]) == 4
        assert all("process 1" in error and len(error) < 300 for error in found["errors"])
        assert sum('"strength": 0.002' in error for error in found["errors"]) == 2
        assert sum("0.bias" in error for error in found["errors"]) == 2


def test_what_does_not_work_with_sharded_parameters_is_refused(outcomes):
    for found in outcomes[0]["refusals"]:
        assert len(found["errors"]) == 2
        assert all("sharded parameters" in error for error in found["errors"])


def test_divergence_in_one_process_stops_all(outcomes):
    for found in outcomes[0]["divergence"]:
        assert "diverged" in found["error"]
