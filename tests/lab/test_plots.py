from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from metaq.lab.plots import save_curves
from metaq.lab.train import EpochRecord


def record(epoch):
    return EpochRecord(
        epoch=epoch,
        loss=1.0 / epoch,
        float_accuracy=98.0,
        quantized_accuracy=97.0,
        phi_bits=100.0,
        bits=1000.0 / epoch,
        bits_per_weight=1.0,
        estimated_bytes=125.0 / epoch,
        distance=0.1,
        frozen=0,
        strength=1e-5,
        seconds=1.0,
    )


@pytest.mark.parametrize("epochs", [1, 7])
def test_curves_are_a_png_of_some_size(tmp_path, epochs):
    save_curves(tmp_path / "c.png", [record(epoch) for epoch in range(1, epochs + 1)], kept_epoch=epochs)
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 500
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
