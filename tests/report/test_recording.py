"""Commands that know how good a file is, or what was asked for, say so in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from metaq import container
from metaq.lab import nets
from metaq.report import facts

from ..end_to_end.conftest import refused, run_metaq

MODEL = Path(__file__).parents[2] / "models" / "lenet5-mnist.metaq"


def metadata(path):
    return dict(container.describe(path).metadata)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "my lenet.pth"
    torch.save(nets.create("lenet5").state_dict(), path)
    return path


def test_compress_says_goal_and_command_without_names_of_files(checkpoint, tmp_path):
    out = tmp_path / "m.metaq"
    told = run_metaq("compress", checkpoint, "-o", out, "--target-ratio", 8, "--exclude", "conv1*", "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == out.stat().st_size <= 177_704 / 8
    command = "compress --target-ratio 8 --exclude 'conv1*'"
    assert metadata(out) == {"goal": "8x", "command": command}
    other = tmp_path / "elsewhere.metaq"
    assert run_metaq("compress", checkpoint, "-o", other, "--target-ratio", 8, "--exclude", "conv1*").status == 0
    assert other.read_bytes() == out.read_bytes()


def test_a_file_of_a_kilobyte_has_no_facts_and_meets_its_goal(checkpoint, tmp_path):
    out = tmp_path / "m.metaq"
    assert run_metaq("compress", checkpoint, "-o", out, "--target-bytes", 3000).status == 0
    assert metadata(out) == {}
    assert out.stat().st_size <= 3000


@pytest.mark.slow
def test_compress_says_a_lower_bound_of_the_accuracy_that_it_measured(checkpoint, tmp_path):
    out = tmp_path / "m.metaq"
    options = ("--data", "digits", "--calibration", 200, "--net", "lenet5", "--target-bits-per-weight", 3)
    told = run_metaq("compress", checkpoint, "-o", out, *options, "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == out.stat().st_size <= 3 * 44_426 / 8
    after, before = told.json["calibration_accuracy"], told.json["float_calibration_accuracy"]
    # The search for a size leaves little room; what does not fit is left out.
    assert (
        metadata(out).items()
        <= {
            **facts.accuracy_fact(after, "bound", before=before),
            "net": "lenet5",
            "data": "digits",
            "goal": "3 bit",
            **facts.command_fact(
                "compress",
                {"--target-bits-per-weight": 3, "--data": "digits", "--net": "lenet5", "--calibration": 200},
            ),
        }.items()
    )
    assert {"net", "data", "goal"} <= metadata(out).keys()


def test_quantize_says_the_accuracy_that_its_sweep_measured(checkpoint, tmp_path):
    out = tmp_path / "m.metaq"
    told = run_metaq("quantize", checkpoint, "-o", out, "--sweep", "40:60:20", "--tolerance", 100, "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == out.stat().st_size
    accuracy = facts.accuracy_fact(told.json["accuracy"], "validation", before=told.json["float_accuracy"])
    assert metadata(out).items() >= {"net": "lenet5", "data": "digits", **accuracy}.items()


def test_train_says_the_accuracy_of_its_file_and_its_summary_has_the_size(tmp_path):
    run = tmp_path / "run"
    short = ("--preset", "lenet5-digits", "--epochs", 1, "--set", "augmentation=null")
    told = run_metaq("train", *short, "--out", run, "--json")
    assert told.status == 0, told.err
    file = run / "model.metaq"
    assert metadata(file) == {"net": "lenet5", "data": "digits", "test": f"{told.json['accuracy']:.2f}"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary == told.json
    assert summary["bytes"] == file.stat().st_size
    shown = run_metaq("report", file, "-o", tmp_path / "page.html", "--json")
    (subject,) = shown.json["subjects"]
    assert subject["accuracy"]["what"] == "weights restored from the file, on the test images of digits"
    assert "accuracy" not in subject["missing"]


def test_evaluate_records_what_it_measured_only_if_it_is_asked_to(checkpoint, tmp_path):
    out = tmp_path / "m.metaq"
    shutil.copy(MODEL, out)
    known = ("--data", "digits", "--net", "lenet5")
    assert run_metaq("evaluate", out, *known).status == 0
    assert out.read_bytes() == MODEL.read_bytes()
    told = run_metaq("evaluate", out, *known, "--record", "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == out.stat().st_size > MODEL.stat().st_size
    assert metadata(out) == {"net": "lenet5", "data": "digits", "test": f"{told.json['accuracy']:.2f}"}
    again = run_metaq("evaluate", out, *known, "--record", "--split", "validation", "--json")
    assert metadata(out).keys() == {"net", "data", "validation"}
    assert again.json["accuracy"] == pytest.approx(float(metadata(out)["validation"]), abs=0.01)
    assert refused(run_metaq("evaluate", checkpoint, *known, "--record"), "--record", ".metaq")


def test_a_card_is_printed_or_written_and_replaces_nothing(tmp_path):
    printed = run_metaq("report", MODEL, "--card")
    assert printed.status == 0, printed.err
    assert printed.out.startswith("---\n# license")
    place = tmp_path / "README.md"
    assert run_metaq("report", MODEL, "--card", "-o", place).status == 0
    assert place.read_text() == printed.out
    assert refused(run_metaq("report", MODEL, "--card", "-o", place), "README.md", "--force")
    assert refused(run_metaq("report", MODEL, MODEL, "--card"), "--card")
    assert refused(run_metaq("report", MODEL, "--card", "--json"), "--card")
    assert not (MODEL.parent / f"{MODEL.name}.report.html").exists()
