from __future__ import annotations

import re
from pathlib import Path

import pytest

from metaq import container
from metaq.errors import ConfigError
from metaq.lab import data, runs

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| `models/(\S+)\.metaq` \| `(\S+)` \| ([\d,]+) \| ([\d.]+) % \|")


def shipped() -> dict[str, tuple[str, int, float]]:
    rows = ROW.findall((ROOT / "MODELS.md").read_text())
    return {name: (net, int(size.replace(",", "")), float(accuracy)) for name, net, size, accuracy in rows}


def test_every_file_is_described():
    assert set(shipped()) == {path.stem for path in (ROOT / "models").glob("*.metaq")}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_model_has_the_size_and_the_accuracy_it_is_said_to_have(name, mnist_folder):
    net, size, accuracy = shipped()[name]
    path = ROOT / "models" / f"{name}.metaq"
    assert runs.network_of(path) == net
    summary = runs.measure_file(path, load_dataset=lambda: data.load("mnist", data_dir=mnist_folder).test)
    assert summary.bytes == path.stat().st_size == size
    assert summary.accuracy == pytest.approx(accuracy, abs=0.02)


@pytest.mark.parametrize("net", ["os:getcwd", "lenet6"])
def test_a_file_makes_no_code_of_a_stranger_run(net, tmp_path):
    path = tmp_path / "model.metaq"
    container.write(path, [], metadata={"net": net})
    with pytest.raises(ConfigError, match=f"{net}.*--net package.module:factory"):
        runs.measure_file(path, load_dataset=pytest.fail)
