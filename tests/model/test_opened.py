import json

import pytest
import torch

import metaq
from metaq.errors import FormatError
from metaq.model import checkpoint
from metaq.model.opened import open_model

LAST = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
SHARDS = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]


@pytest.fixture
def folder(tmp_path):
    """A folder with two shards of PyTorch, in one of which a weight has its channels last."""
    path = tmp_path / "folder"
    path.mkdir()
    torch.save({"c.weight": LAST, "c.bias": torch.ones(8)}, path / SHARDS[0])
    torch.save({"d.weight": torch.ones(3, 3), "gap": torch.ones(9)[::2]}, path / SHARDS[1])
    index = {"weight_map": {"c.weight": SHARDS[0], "c.bias": SHARDS[0], "d.weight": SHARDS[1], "gap": SHARDS[1]}}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return path


def test_weights_in_another_order_are_weights_of_a_folder(folder):
    found = open_model(folder)
    assert {tensor.name: tensor.shape for tensor in found.tensors} == {
        "beside:c.weight": (8, 3, 3, 4),
        "c.bias": (8,),
        "d.weight": (3, 3),
    }
    assert not found.reasons
    assert (
        f"{SHARDS[1]}: kept as it is in the file, and not given by metaq.load: gap (not contiguous)" in found.rest.notes
    )
    (moved,) = [note for note in found.rest.notes if note.endswith("channels last: c.weight")]
    assert moved.startswith(f"{SHARDS[0]}: not given by metaq.load")


def test_a_shard_without_a_tensor_of_the_index_is_still_told(folder):
    torch.save({"d.weight": torch.ones(3, 3)}, folder / SHARDS[1])
    with pytest.raises(FormatError, match="says that 'gap' is in"):
        open_model(folder)


def test_weights_in_another_order_stay_weights_when_packed_again(tmp_path):
    torch.save({"state_dict": {"c.weight": LAST, "c.bias": torch.ones(8)}, "moment": torch.ones(99)}, tmp_path / "a.pt")
    metaq.compress(tmp_path / "a.pt", keep_all=True).save(tmp_path / "a.metaq")
    found = open_model(tmp_path / "a.metaq")
    assert dict(found.reasons) == {"beside:moment": "not one of the weights"}
    assert set(metaq.load(tmp_path / "a.metaq")) == {"c.bias"}


def test_tensors_with_names_of_what_lies_beside_are_refused(tmp_path):
    torch.save({"beside:x": torch.ones(8)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError, match="'beside:x' begins like those kept for files"):
        open_model(tmp_path)


def test_without_loss_names_kept_for_files_are_no_matter(tmp_path):
    torch.save({"file:x": torch.ones(8)}, tmp_path / "model.pth")
    with pytest.raises(FormatError, match="'file:x' begins like those kept for files"):
        open_model(tmp_path / "model.pth", keep_all=True)
    found = open_model(tmp_path / "model.pth", lossless=True)
    assert not found.tensors
    (note,) = found.rest.notes
    assert note.startswith("all of it is kept as it is: the name 'file:x' begins")
    torch.save({"w": torch.ones(8)}, tmp_path / "other.pth")
    assert [tensor.name for tensor in open_model(tmp_path, lossless=True).tensors] == ["other/w"]


def test_several_dicts_under_a_key_are_taken_together_and_come_back_apart(tmp_path):
    held = {part: {"w.weight": torch.randn(40, 40), "w.bias": torch.randn(40)} for part in ("encoder", "a.decoder")}
    torch.save({"model": held, "epoch": 1}, tmp_path / "a.pth")
    found = open_model(tmp_path / "a.pth")
    assert found.rest.metadata == {"key": "model", "parts": "encoder\na.decoder"}
    assert any("begin with the keys" in note and "--keep-all" not in note for note in found.rest.notes)
    metaq.compress(tmp_path / "a.pth").save(tmp_path / "a.metaq")
    assert set(metaq.load(tmp_path / "a.metaq")) == {f"{part}.w.{end}" for part in held for end in ("weight", "bias")}
    checkpoint.restore_as(tmp_path / "a.metaq", tmp_path / "back.pth")
    (back,) = torch.load(tmp_path / "back.pth").values()
    assert {part: {name: tensor.shape for name, tensor in own.items()} for part, own in back.items()} == {
        part: {name: tensor.shape for name, tensor in own.items()} for part, own in held.items()
    }
