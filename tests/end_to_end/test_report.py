from __future__ import annotations

from pathlib import Path

import pytest

from metaq.cli import demonstration
from metaq.lab.train import preset

from ..report.page_checks import check
from .conftest import refused, run_metaq

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.metaq"))
SHORT = ("--preset", "lenet5-digits", "--epochs", "3", "--set", "regularizer.warmup=0.4", "--set", "augmentation=null")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run_metaq("train", *SHORT, "--out", folder).status == 0
    return folder


def test_a_report_is_written_with_the_run_and_not_over_another(run):
    told = run_metaq("report", run)
    page = run / "report.html"
    assert told.status == 0, told.err
    assert f"wrote {page}" in told.out
    root = check(page.read_text())
    assert "metaq train --preset lenet5-digits --epochs 3" in root.text
    assert page.stat().st_size < 1_000_000
    assert refused(run_metaq("report", run), "report.html", "--force")
    before = page.read_bytes()
    assert run_metaq("report", run, "--force").status == 0
    assert page.read_bytes() == before


def test_the_figures_of_a_report_as_json(run, tmp_path):
    told = run_metaq("report", run, "-o", tmp_path / "page.html", "--json")
    assert told.status == 0, told.err
    (subject,) = told.json["subjects"]
    assert told.json["file_bytes"] == (tmp_path / "page.html").stat().st_size
    assert subject["bytes"] == (run / "model.metaq").stat().st_size
    assert sum(share["bytes"] for share in subject["shares"]) == subject["bytes"]
    assert len(subject["tensors"]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_every_shipped_model_has_a_report(model, tmp_path):
    page = tmp_path / "page.html"
    assert run_metaq("report", model, "-o", page).status == 0
    root = check(page.read_text())
    assert f"{model.stat().st_size:,} bytes" in root.text
    assert "There are no curves" in root.text
    drawn = [image.attributes["src"].partition(";")[0] for image in root.all("img")]
    assert drawn.count("data:image/png") == 1
    assert drawn.count("data:image/svg+xml") == len([line for line in root.all("h3") if "." in line.text])


def test_two_are_compared(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run_metaq("report", run, MODELS[0])
    assert told.status == 0, told.err
    root = check(Path("comparison.html").read_text())
    assert MODELS[0].name in root.text
    assert refused(run_metaq("report", run, MODELS[0]), "comparison.html")


def test_a_page_beside_a_file(run, tmp_path):
    file = tmp_path / "model.metaq"
    file.write_bytes((run / "model.metaq").read_bytes())
    assert run_metaq("report", file).status == 0
    assert (tmp_path / "model.metaq.report.html").exists()


def test_wrong_input_is_refused_and_leaves_nothing(run, tmp_path):
    page = tmp_path / "page.html"
    damaged = tmp_path / "damaged.metaq"
    damaged.write_bytes((run / "model.metaq").read_bytes()[:-2])
    assert refused(run_metaq("report", tmp_path, "-o", page), "holds no run")
    assert refused(run_metaq("report", tmp_path / "missing", "-o", page), "no such file")
    assert refused(run_metaq("report", damaged, "-o", page), "damaged.metaq")
    assert refused(run_metaq("report", run, damaged, "-o", page), "damaged.metaq")
    assert refused(run_metaq("report", run, "-o", page, "--net", "lenet6"), "lenet6")
    assert refused(run_metaq("report", run, "-o", tmp_path), "give the name of a file in it")
    assert refused(run_metaq("report", run / "model.metaq", "-o", run / "model.metaq", "--force"), "model.metaq")
    assert refused(run_metaq("report", run, "-o", tmp_path / "no" / "page.html"), "page.html")
    assert not page.exists()


def test_what_a_report_is_about_is_never_replaced(run, tmp_path):
    model = run / "model.metaq"
    before = model.read_bytes()
    for options in (("report", run), ("report", model), ("report", model, "--card"), ("report", run, "--card")):
        assert refused(run_metaq(*options, "-o", model, "--force"), "model.metaq", "another name")
    assert model.read_bytes() == before
    long = tmp_path / f"{'n' * 246}.metaq"
    long.write_bytes(before)
    assert refused(run_metaq("report", long), "nnn", "shorter name")


@pytest.mark.slow
def test_the_demonstration_ends_with_its_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = preset("lenet5-digits").override(["epochs=2", "augmentation=null"])
    monkeypatch.setattr(demonstration, "preset", lambda _: short)
    told = run_metaq("demo")
    page = tmp_path / "metaq-demo-report.html"
    assert told.status == 0, told.err
    assert f"report: {page}" in told.out
    root = check(page.read_text())
    assert "the same network trained as usual" in root.text
    assert list(tmp_path.iterdir()) == [page]
    again = run_metaq("demo", "--json")
    assert again.json["report"] == "metaq-demo-report.html"
    assert list(tmp_path.iterdir()) == [page]
    kept = run_metaq("demo", "--out", "kept", "--json")
    assert kept.json["report"] == str(Path("kept") / "report.html")
    assert (tmp_path / "kept" / "report.html").exists()
