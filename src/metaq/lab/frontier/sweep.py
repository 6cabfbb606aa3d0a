"""A whole sweep: its trials, the frontier, and the two files that show it."""

from __future__ import annotations

import json
from dataclasses import asdict

from metaq.config import needs
from metaq.files import write_bytes
from metaq.lab.data import DataSplits
from metaq.lab.frontier.plan import JSON_FILE, PLOT_FILE, Frontier, SweepObserver, SweepPlan
from metaq.lab.frontier.plot import Point, save_frontier


def draw(plan: SweepPlan, splits: DataSplits, observer: SweepObserver) -> Frontier:
    """Run the trials that the study lacks, measure the frontier, write ``frontier.json`` and ``frontier.png``.

    With several workers, a program that calls this must be importable without running again (``if __name__ ==
    "__main__"``), since every worker is a new interpreter. Raises :class:`ConfigError` if the storage cannot be used,
    or its study was made with other settings. After a KeyboardInterrupt every finished trial is in the storage.
    """
    needs("optuna", "matplotlib")
    from metaq.lab.frontier.execution import execute

    found = execute(plan, splits, observer)
    write_bytes(plan.folder / JSON_FILE, (json.dumps(frontier_to_dict(found), indent=2) + "\n").encode())
    save_frontier(
        plan.folder / PLOT_FILE,
        trials=[Point(trial.bytes, trial.validation_accuracy) for trial in found.trials],
        members=[Point(member.trial.bytes, member.test_accuracy) for member in found.members],
        net=found.net,
        data=found.data,
    )
    return found


def frontier_to_dict(found: Frontier) -> dict[str, object]:
    """Plain dictionary, ready for JSON."""
    return {
        "net": found.net,
        "data": found.data,
        "float_bytes": found.float_bytes,
        "epochs": found.epochs,
        "given_up": found.given_up,
        "trials": [asdict(trial) for trial in found.trials],
        "frontier": [
            {
                "number": member.trial.number,
                "bytes": member.trial.bytes,
                "ratio": found.float_bytes / member.trial.bytes,
                "validation_accuracy": member.trial.validation_accuracy,
                "test_accuracy": member.test_accuracy,
                "file": member.trial.file,
            }
            for member in found.members
        ],
    }
