"""What ``metaq inspect`` shows of a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metaq import container
from metaq.report import inspection
from metaq.report.model_file import add_histograms
from metaq.report.subject import Subject
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, QuantizedTensor
from metaq.tensors.scales import Scales

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize("name", ["lenet5-mnist", "lenet5-caffe-mnist", "lenet300-mnist"])
def test_rows_and_frame_are_the_file(name):
    path = MODELS / f"{name}.metaq"
    found = inspection.inspect(path)
    assert sum(row.stored_bytes for row in found.rows) + sum(found.frame.values()) == path.stat().st_size
    told = found.to_dict()
    assert sum(told[key] for key in found.frame) + sum(row["stored_bytes"] for row in told["tensors"]) == told["bytes"]


def test_bases_are_counted(tmp_path):
    grid = BucketGrid(center=0.0, radius=1.0, count=15)
    basis = Basis(indices=np.random.default_rng(0).integers(0, 15, (9, 9)), grid=grid)
    tensor = QuantizedTensor(name="w", indices=np.ones((4, 9), int), grid=grid, dtype=Dtype.float32, basis=basis)
    container.write(tmp_path / "m.metaq", [tensor])
    found = inspection.inspect(tmp_path / "m.metaq")
    assert found.frame["basis_bytes"] > 30
    assert sum(row.stored_bytes for row in found.rows) + sum(found.frame.values()) == found.sizes["bytes"]


def test_histograms_of_tensors_with_scales_are_of_their_values(tmp_path):
    grid = BucketGrid(center=0.0, radius=1.5, count=3)
    scales = Scales(rows=np.array([0, 8], np.int8), columns=np.zeros(2, np.int8))
    tensor = QuantizedTensor(name="w", indices=np.eye(2, dtype=int), grid=grid, dtype=Dtype.float32, scales=scales)
    container.write(tmp_path / "m.metaq", [tensor])
    subject = Subject(name="m", title="m")
    add_histograms(subject, inspection.inspect(tmp_path / "m.metaq"), {})
    (found,) = subject.histograms
    assert found.centers.min() < -3.9


def test_a_metaq_file_is_described_without_pytorch():
    path = MODELS / "lenet5-mnist.metaq"
    program = (
        "import sys; sys.modules['torch'] = None; from metaq.report.inspection import inspect; "
        f"print(len(inspect({str(path)!r}).to_dict()['tensors']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "10", done.stderr
