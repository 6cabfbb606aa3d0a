from __future__ import annotations

import pytest

from .conftest import run_metaq


def test_published_tables_come_out_again(reference_checkpoint, mnist_folder):
    told = run_metaq("reproduce", "thesis", "--checkpoint", reference_checkpoint, "--data-dir", mnist_folder, "--json")
    assert told.status == 0, told.err
    for row in told.json["quantization"]:
        assert row["accuracy"] == pytest.approx(row["published_accuracy"], abs=0.005)
        assert row["entropy_bits"] == pytest.approx(row["published_entropy_bits"], abs=3)
    for row in told.json["original_sizes"]:
        assert row["bits"] == pytest.approx(row["published_bits"], rel=0.005)
    own = {row["coder"]: row["bits"] for row in told.json["own_sizes"]}
    assert own["small"] == min(own.values()) <= 31_200
    assert told.json["accuracy"] == pytest.approx(99.01)
    assert 8 * told.json["bytes"] < 31_200
    shown = run_metaq("reproduce", "thesis", "--checkpoint", reference_checkpoint, "--data-dir", mnist_folder)
    assert "59,600" in shown.out
    assert "99.01" in shown.out
