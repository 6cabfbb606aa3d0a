from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil

import numpy as np
import pytest
import torch

from metaq import compress, container, load
from metaq.cli import demonstration
from metaq.compression import pipeline
from metaq.errors import ConfigError, FormatError
from metaq.lab import data, environment, nets, runs
from metaq.lab.train import checkpointing, preset
from metaq.report import gathering, page
from metaq.report.text import shown

KNOWN = ("lenet5 on digits", "Command and environment", "What is not here, and why")


class Deaf:
    def on_step(self, step, total_steps):
        pass

    def on_epoch(self, record):
        pass


def short_config(**values):
    config = preset("lenet5-digits").override(["regularizer.warmup=0.4", "augmentation=null"])
    return dataclasses.replace(config, epochs=3, **values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three epochs, the first of them without the entropy term."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    splits = data.load("digits")
    few = dataclasses.replace(splits, train=splits.train.take(torch.arange(300)))
    runs.train_to_folder(short_config(), few, folder, Deaf())
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(finished, tmp_path / "short")


def text_of(subject):
    return page.render([subject])


def test_a_finished_run_has_all_its_parts(run):
    found = gathering.gather(run)
    summary = json.loads((run / runs.SUMMARY_FILE).read_text())
    assert found.missing == {}
    assert found.title == "lenet5 on digits"
    assert found.sizes["bytes"] == summary["bytes"] == (run / runs.MODEL_FILE).stat().st_size
    assert found.after.percent == summary["accuracy"]
    assert [record.epoch for record in found.records] == [1, 2, 3]
    assert found.before.percent == found.records[0].float_accuracy
    assert "validation" in found.before.what
    assert found.kept_epoch == summary["kept_epoch"]
    assert sum(share.bytes for share in found.shares) == summary["bytes"]
    assert {each.name for each in found.histograms} == set(nets.create("lenet5").state_dict())
    assert all(each.latent is not None for each in found.histograms)
    assert found.environment["torch"]
    assert found.environment["command"]
    assert found.config["net"] == "lenet5"


def test_rows_count_zeros_and_live_rows_and_columns_of_what_the_file_restores(run):
    state = load(run / runs.MODEL_FILE)
    for tensor in gathering.gather(run).tensors:
        values = state[tensor.name]
        assert tensor.zeros == int((values == 0).sum())
        rows = (values != 0).reshape(len(values), -1).any(dim=1)
        assert tensor.live_rows == (int(rows.sum()), len(values))
        if values.dim() > 1:
            columns = (values != 0).transpose(0, 1).reshape(values.shape[1], -1).any(dim=1)
            assert tensor.live_columns == (int(columns.sum()), values.shape[1])
        else:
            assert tensor.live_columns is None


def test_filters_before_are_the_latent_weights_of_the_same_units(run):
    """With the units of the file in another order and mirrored, the pictures are in that order with those signs."""
    state = checkpointing.load(run)[1]
    kept = state["best"]["state_dict"]["conv1.weight"]
    latent = state["regularizer"]["weights"]["conv1.weight"]["latent"].double()
    order, signs = torch.tensor([3, 0, 5, 1, 2, 4]), torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0]).view(-1, 1, 1, 1)
    weights = load(run / runs.MODEL_FILE)
    weights["conv1.weight"] = kept[order] * signs
    container.write(
        run / runs.MODEL_FILE, pipeline.to_tensors(weights, grids={}), metadata={"net": "lenet5", "data": "digits"}
    )
    found = gathering.gather(run).filters
    torch.testing.assert_close(torch.from_numpy(found.after), (kept[order] * signs).double())
    torch.testing.assert_close(torch.from_numpy(found.before), latent[order] * signs)


def test_filters_of_another_file_have_no_before(run):
    weights = {name: tensor + 1 for name, tensor in load(run / runs.MODEL_FILE).items()}
    container.write(run / runs.MODEL_FILE, pipeline.to_tensors(weights, grids={}), metadata={"net": "lenet5"})
    found = gathering.gather(run)
    assert found.filters.before is None
    assert "Only what the file restores is shown" in found.notes["filters"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (runs.MODEL_FILE, "tensors"),
        (runs.MODEL_FILE, "bytes"),
        (runs.MODEL_FILE, "filters"),
        (runs.CONFIG_FILE, "config"),
        (runs.METRICS_FILE, "curves"),
        (runs.SUMMARY_FILE, "accuracy"),
        (environment.FILE_NAME, "environment"),
        (checkpointing.FILE_NAME, "latent"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "noise", "another kind"])
def test_a_part_of_a_run_that_is_missing_or_damaged_leaves_a_sentence(run, name, part, damage):
    path = run / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "noise": bytes(range(256)), "another kind": b"[1]\n"}[damage])
    found = gathering.gather(run)
    assert name in found.missing[part]
    assert found.missing[part].endswith(".")
    assert str(run) not in text_of(found)
    assert shown(found.missing[part]) in text_of(found).replace("&#39;", "'")


def test_a_run_with_nothing_but_its_settings_has_a_page(run):
    for file in run.iterdir():
        if file.is_file() and file.name != runs.CONFIG_FILE:
            file.unlink()
    found = gathering.gather(run)
    assert found.sizes is None
    assert {"file", "curves", "seconds", "before"} <= found.missing.keys()
    assert all(words in text_of(found) for words in KNOWN)


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        gathering.gather(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '{"epoch": 3}', '{"epoch": "3"}', "[" * 5000],
)
def test_curves_end_before_a_damaged_line(run, line):
    path = run / runs.METRICS_FILE
    path.write_text("\n".join([*path.read_text().splitlines()[:2], line, ""]))
    found = gathering.gather(run)
    assert [record.epoch for record in found.records] == [1, 2]
    assert "Line 3" in found.notes["curves"]
    assert found.notes["curves"] in text_of(found)


def test_figures_of_the_wrong_type_are_not_taken(run):
    path = run / runs.METRICS_FILE
    first = json.loads(path.read_text().splitlines()[0])
    for values in ({"loss": "<b>"}, {"loss": None}, {"loss": True}, {"loss": [1]}, {"epoch": 1.5}, {"epoch": 10**400}):
        path.write_text(json.dumps({**first, **values}) + "\n")
        assert gathering.gather(run).records == []
    summary = json.loads((run / runs.SUMMARY_FILE).read_text())
    wrong = {**summary, "accuracy": "99", "seconds": None, "kept_epoch": "last", "float_accuracy": [1]}
    (run / runs.SUMMARY_FILE).write_text(json.dumps(wrong))
    found = gathering.gather(run)
    assert found.after is None
    assert found.kept_epoch is None
    assert "does not say" in found.missing["accuracy"]
    text_of(found)


def test_the_accuracy_of_another_file_is_not_shown(run):
    weights = load(run / runs.MODEL_FILE)
    compress(weights, grids={}, metadata={"net": "lenet5"}).save(run / runs.MODEL_FILE)
    found = gathering.gather(run)
    assert found.after is None
    assert "another size" in found.missing["accuracy"]


def test_a_run_says_what_its_environment_was_and_old_runs_are_readable(finished, run):
    written = json.loads((finished / environment.FILE_NAME).read_text())
    assert gathering.gather(finished).environment == written
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    assert written.items() >= {**versions, "cores": os.cpu_count() or 1, "device": "cpu"}.items()
    (run / environment.FILE_NAME).unlink()
    found = gathering.gather(run)
    assert found.environment == {}
    assert environment.FILE_NAME in found.missing["environment"]


def test_a_new_run_replaces_the_report_of_the_old_one_only_with_force(run):
    (run / runs.REPORT_FILE).write_text("old")
    with pytest.raises(ConfigError, match="--force"):
        runs.new_folder(run, force=False)
    runs.new_folder(run, force=True)
    assert not (run / runs.REPORT_FILE).exists()


def test_the_demonstration_replaces_its_own_report_and_nothing_else(run, tmp_path):
    place = tmp_path / "here.html"
    assert demonstration.write_report(run, place) == place
    assert "metaq demo" in place.read_text()
    assert demonstration.write_report(run, place) == place
    place.write_text("mine")
    (tmp_path / "here-2.html").mkdir()
    assert demonstration.write_report(run, place) == tmp_path / "here-3.html"
    assert place.read_text() == "mine"


# Files without a run.


def saved(path, state, *, net=None):
    metadata = {} if net is None else {"net": net}
    container.write(
        path, pipeline.to_tensors(state, grids=pipeline.choose_grids(state, count=9, center=0.0)), metadata=metadata
    )
    return path


@pytest.fixture
def lenet5():
    torch.manual_seed(0)
    return nets.create("lenet5").state_dict()


def test_a_file_alone_says_what_is_missing_and_how_to_get_it(tmp_path, lenet5):
    found = gathering.gather(saved(tmp_path / "model.metaq", lenet5, net="lenet5"))
    assert found.filters.after.shape == (6, 1, 5, 5)
    assert found.filters.before is None
    assert "metaq evaluate model.metaq --net lenet5 --data DATA" in found.missing["accuracy"]
    assert {"accuracy", "seconds", "curves", "environment"} == found.missing.keys()
    assert sum(share.bytes for share in found.shares) == (tmp_path / "model.metaq").stat().st_size


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_of_weights_have_a_report_too(tmp_path, lenet5, suffix):
    from metaq.model import checkpoint

    checkpoint.write(tmp_path / f"model{suffix}", lenet5)
    found = gathering.gather(tmp_path / f"model{suffix}", net="lenet5")
    assert "Only a .metaq file" in found.missing["bytes"]
    assert [tensor.bytes for tensor in found.tensors] == [None] * len(lenet5)
    assert found.filters is not None
    text_of(found)


def test_a_network_that_a_file_merely_names_runs_no_code(tmp_path, lenet5):
    found = gathering.gather(saved(tmp_path / "model.metaq", lenet5, net="os:getcwd"))
    assert found.filters is None
    assert "--net names it" in found.missing["filters"]
    other = gathering.gather(saved(tmp_path / "other.metaq", lenet5, net="lenet300"))
    assert "not the weights of lenet300" in other.missing["filters"]
    text_of(other)


def test_every_kind_of_tensor_has_its_row(tmp_path):
    tied = torch.randn(20, 30)
    state = {
        "tied.a": tied,
        "tied.b": tied,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False, True]),
        "counts": torch.arange(200),
        "half": torch.randn(40, dtype=torch.bfloat16),
        "complex": torch.randn(40, dtype=torch.complex64),
        "nan": torch.full((5,), float("nan")),
    }
    grids = pipeline.choose_grids({"tied.a": tied}, count=9)
    container.write(tmp_path / "model.metaq", pipeline.to_tensors(state, grids=grids))
    found = gathering.gather(tmp_path / "model.metaq")
    rows = {tensor.name: tensor for tensor in found.tensors}
    assert rows["tied.b"].kind == "tied"
    assert rows["tied.b"].tied_to == "tied.a"
    assert rows["scalar"].live_rows is None
    assert rows["empty"].live_rows == (0, 0)
    assert rows["flags"].zeros == 1
    assert rows["counts"].zeros == 1
    assert "nan" not in {each.name for each in found.histograms}
    assert sum(share.bytes for share in found.shares) == found.sizes["bytes"]
    assert {share.label for share in found.shares} >= {"tied.a", "counts", "header", "checksums", "magic and version"}
    text_of(found)


def test_a_linear_layer_that_reads_pictures_is_drawn_as_pictures(tmp_path):
    torch.manual_seed(0)
    state = nets.create("lenet300").state_dict()
    state["fc1.weight"][100:] = 0
    found = gathering.gather(saved(tmp_path / "model.metaq", state, net="lenet300"))
    assert found.filters.reads == "rows"
    assert found.filters.after.shape == (64, 1, 28, 28)
    assert found.filters.units == 300
    assert found.filters.live_units == 100
    assert "100 have weights other than zero; the first 64 of them are shown" in text_of(found)


def test_damaged_and_missing_files_are_refused(tmp_path, lenet5):
    path = saved(tmp_path / "model.metaq", lenet5)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError):
        gathering.gather(path)
    with pytest.raises(FormatError, match="no such file"):
        gathering.gather(tmp_path / "missing.metaq")
