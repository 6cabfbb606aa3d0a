"""``metaq diff`` and ``metaq apply`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import metaq

from .conftest import refused, run_metaq


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    base = {
        "fc.weight": 0.1 * torch.randn(80, 50),
        "fc.bias": torch.randn(80),
        "head.weight": 0.1 * torch.randn(10, 80),
    }
    new = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in base.items()}
    new["fc.bias"] = base["fc.bias"]
    paths = tmp_path / "base.pth", tmp_path / "new.safetensors"
    torch.save({"state_dict": base, "epoch": 1}, paths[0])
    safetensors.torch.save_file(new, paths[1])
    return paths


def test_diff_and_apply(tmp_path, models):
    update, back = tmp_path / "update.metaq", tmp_path / "back.pth"
    told = run_metaq("diff", *models, "-o", update, "--json")
    assert told.status == 0, told.err
    assert told.json["bytes"] == update.stat().st_size < 4000
    assert (told.json["changed"], told.json["unchanged"]) == (2, 1)
    assert 0 < told.json["relative_error"] < 0.5
    shown = run_metaq("diff", *models, "-o", update, "--force", "--target-ratio", 20)
    assert shown.status == 0
    assert "error of the change" in shown.out
    assert "metaq apply" in shown.out
    assert 20 * update.stat().st_size <= 4 * (80 * 50 + 80 + 10 * 80)
    assert run_metaq("apply", models[0], update, "-o", back).status == 0
    restored = torch.load(back, weights_only=True)["state_dict"]
    loaded = metaq.load(update, base=models[0])
    assert restored.keys() == loaded.keys()
    assert all(torch.equal(restored[name], loaded[name]) for name in loaded)


def test_what_is_read_is_never_replaced(tmp_path, models):
    packed = tmp_path / "packed.safetensors"
    assert run_metaq("compress", models[0], "-o", packed).status == 0
    files = [*models, packed]
    before = [path.read_bytes() for path in files]
    link = tmp_path / "link.pth"
    link.symlink_to(models[0])
    commands = [("diff", *models, "-o", place) for place in (*models, link)]
    commands += [("compress", models[0], "-o", link), ("quantize", models[0], "-o", link, "--buckets", 8)]
    commands += [(command, packed, "-o", packed) for command in ("export", "decompress")]
    for command in commands:
        result = run_metaq(*command, "--force")
        assert refused(result, "is what is read"), (command, result)
        assert [path.read_bytes() for path in files] == before


def test_without_loss_the_new_model_comes_back(tmp_path, models):
    update, back = tmp_path / "update.metaq", tmp_path / "back.safetensors"
    assert run_metaq("diff", *models, "-o", update, "--lossless").status == 0
    assert run_metaq("apply", models[0], update, "-o", back).status == 0
    found, wanted = safetensors.torch.load_file(back), safetensors.torch.load_file(models[1])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_chain_is_folded_into_one_file(tmp_path, models):
    first, second, folded = (tmp_path / f"{name}.metaq" for name in ("first", "second", "folded"))
    packed = [tmp_path / "base.metaq", tmp_path / "new.metaq"]
    for source, out in zip(models, packed, strict=True):
        assert run_metaq("compress", source, "-o", out).status == 0
    assert run_metaq("diff", *packed, "-o", first).status == 0
    assert run_metaq("diff", *packed[::-1], "-o", second).status == 0
    assert run_metaq("apply", packed[0], first, second, first, "-o", folded).status == 0
    found, wanted = metaq.load(folded), metaq.load(packed[1])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    wrong = run_metaq("apply", packed[0], second, "-o", folded, "--force")
    assert wrong.status == 2
    assert "applied already" in wrong.err
    missing = run_metaq("apply", packed[0], first, first, "-o", tmp_path / "none.metaq")
    assert missing.status == 2
    assert not (tmp_path / "none.metaq").exists()


def test_an_update_alone_is_no_model(tmp_path, models):
    update = tmp_path / "update.metaq"
    run_metaq("diff", *models, "-o", update)
    for command in (("decompress", update, "-o", tmp_path / "x.pth"), ("compress", update, "-o", tmp_path / "x.metaq")):
        refused = run_metaq(*command)
        assert refused.status == 2
        assert "is an update of the model" in refused.err
        assert not Path(command[-1]).exists()
    shown = run_metaq("inspect", update)
    assert shown.status == 0
    assert "added to the base" in shown.out
    told = json.loads(run_metaq("inspect", update, "--json").out)
    assert [tensor["name"] for tensor in told["tensors"]] == ["fc.weight", "head.weight"]


def test_a_folder_comes_back_as_a_folder(tmp_path, models):
    folders = []
    for name, text in (("one", "{}"), ("two", '{"a": 1}')):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(text)
        (folder / "vocab.txt").write_text("the same words " * 50)
        source = torch.load(models[0], weights_only=True)["state_dict"] if name == "one" else None
        safetensors.torch.save_file(source or safetensors.torch.load_file(models[1]), folder / "model.safetensors")
        folders.append(folder)
    update, back = tmp_path / "update.metaq", tmp_path / "back"
    assert run_metaq("diff", *folders, "-o", update).status == 0
    assert run_metaq("apply", folders[0], update, "-o", back).status == 0
    assert (back / "config.json").read_text() == '{"a": 1}'
    assert (back / "vocab.txt").read_bytes() == (folders[1] / "vocab.txt").read_bytes()
    assert update.stat().st_size < 5000
    other = run_metaq("apply", folders[0] / "model.safetensors", update, "-o", tmp_path / "other")
    assert other.status == 2
    assert "other files beside its tensors" in other.err
    alone = run_metaq("apply", folders[0] / "model.safetensors", update, "-o", tmp_path / "alone.safetensors")
    assert alone.status == 0, alone.err


def test_tensors_alone_leave_a_folder_what_it_is(tmp_path, models):
    folder, update, back = tmp_path / "base", tmp_path / "update.metaq", tmp_path / "back"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    state_dict = safetensors.torch.load_file(models[1])
    base = torch.load(models[0], weights_only=True)["state_dict"]
    safetensors.torch.save_file(base, folder / "model.safetensors")
    torch.save(state_dict, tmp_path / "new.pth")
    told = run_metaq("diff", folder, tmp_path / "new.pth", "-o", update, "--json")
    assert told.json["notes"] == []
    assert run_metaq("apply", folder, update, "-o", back).status == 0
    assert (back / "config.json").read_text() == "{}"
    restored = safetensors.torch.load_file(back / "model.safetensors")
    loaded = metaq.load(update, base=folder)
    assert all(torch.equal(restored[name], loaded[name]) for name in state_dict)
    # Other tensors would not fit into its files.
    torch.save({**state_dict, "more": torch.ones(3)}, tmp_path / "more.pth")
    shown = run_metaq("diff", folder, tmp_path / "more.pth", "-o", update, "--force")
    assert shown.status == 0
    assert "note: the new model has other tensors and no files beside them" in shown.err
    assert refused(run_metaq("apply", folder, update, "-o", tmp_path / "other"), "end the name in .metaq")
    assert run_metaq("apply", folder, update, "-o", tmp_path / "other.pth").status == 0


def test_wrong_options(tmp_path, models):
    out = tmp_path / "update.metaq"
    for options in (("--keep", 0.99), ("--lossless", "--target-bytes", 100), ("--target-bytes", 3)):
        refused = run_metaq("diff", *models, "-o", out, *options)
        assert refused.status == 2, options
        assert not out.exists()
    assert run_metaq("diff", tmp_path / "none.pth", models[1], "-o", out).status == 2
    assert run_metaq("apply", models[0], models[1], "-o", tmp_path / "x.metaq").status == 2


def test_a_report_tells_what_an_update_changes(tmp_path, models):
    update, page = tmp_path / "update.metaq", tmp_path / "page.html"
    run_metaq("diff", *models, "-o", update)
    told = run_metaq("report", models[0], update, "-o", page)
    assert told.status == 0, told.err
    text = page.read_text(encoding="utf-8")
    assert "What changed" in text
    assert "2 tensors that are not the same" in text
    assert run_metaq("report", models[1], update, "-o", page, "--force").status == 2


def test_an_update_is_not_replaced_by_what_is_made_of_it(tmp_path: Path, models: tuple[Path, Path]) -> None:
    base, new = models
    update = tmp_path / "update.metaq"
    assert run_metaq("diff", base, new, "-o", update).status == 0
    before = update.read_bytes()
    assert refused(run_metaq("apply", base, update, "-o", update, "--force"), "another name")
    assert update.read_bytes() == before
