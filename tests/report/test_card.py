from __future__ import annotations

import importlib
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from metaq import container, load
from metaq.compression import pipeline
from metaq.errors import ConfigError
from metaq.lab import nets
from metaq.report import gathering
from metaq.report.card import card
from metaq.tensors.quantized import Dtype, ExactTensor

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "lenet5-mnist.metaq"


def card_of(path, **options):
    return card(path, gathering.gather(path, **options))


def blocks(text, language):
    """Code of the card in one language."""
    return [part.partition("\n")[2] for part in text.split("````") if part.startswith(language)]


def front(text):
    assert text.startswith("---\n")
    return text.split("---\n")[1].splitlines()


def saved(path, state, **metadata):
    container.write(path, pipeline.to_tensors(state, grids={}), metadata=metadata)
    return path


def test_a_card_says_what_the_file_says_and_leaves_the_licence():
    text = card_of(MODEL)
    assert front(text)[0].startswith("# license:")
    assert not [line for line in front(text) if line.startswith("license:")]
    assert {"library_name: metaq", "- quantized", "- ylecun/mnist"} <= set(front(text))
    assert "# lenet5 on mnist" in text
    assert "974 bytes" in text
    assert sha256(MODEL.read_bytes()).hexdigest() in text
    assert "| quality | the file does not say |" in text
    assert "metrics:" not in text
    assert "281,640; 75,273 with weights other than zero" in text


def test_the_code_of_a_card_loads_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(MODEL.parent)
    (code,) = blocks(card_of(MODEL), "python")
    (tmp_path / "card_code.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("card_code").model
    expected = load(MODEL)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_what_a_file_says_of_itself_is_on_its_card(tmp_path):
    state = nets.create("lenet5").state_dict()
    known = {"net": "lenet5", "data": "digits", "test": "98.12/98.30", "goal": "20x", "command": "compress --lossless"}
    text = card_of(saved(tmp_path / "my model.metaq", state, **known))
    assert "| accuracy: weights restored from the file, on the test images of digits | 98.12 % |" in text
    assert "on the test images of digits | 98.30 % |" in text
    assert "| goal | at least 20 times smaller |" in text
    assert "metaq compress MODEL -o 'my model.metaq' --lossless" in text
    assert "metaq decompress 'my model.metaq' -o 'my model-restored.safetensors'" in text
    assert "- accuracy" in front(text)
    assert "- quantized" not in front(text)


def test_a_folded_network_is_loaded_by_its_tensors(tmp_path):
    state = nets.create("lenet5").state_dict()
    text = card_of(saved(tmp_path / "m.metaq", {**state, "fc3.bias": state["fc3.bias"][:9]}, net="lenet5"))
    assert "nets.create" not in text
    assert "weights = metaq.load('m.metaq')" in text


def carried(name, data):
    return ExactTensor(name=f"file:{name}", values=np.frombuffer(data, np.uint8), dtype=Dtype.uint8)


@pytest.mark.parametrize(
    ("config", "base"),
    [
        (json.dumps({"_name_or_path": "org/model-1"}).encode(), "org/model-1"),
        (json.dumps({"_name_or_path": "/home/me/model"}).encode(), None),
        (json.dumps({"_name_or_path": "a\nlicense: mit"}).encode(), None),
        (json.dumps({"_name_or_path": 3}).encode(), None),
        (b"[]", None),
        (b"\xff{", None),
        (b"", None),
    ],
)
def test_the_base_model_is_what_the_configuration_names_if_it_names_one(tmp_path, config, base):
    tensors = [*pipeline.to_tensors({"w": torch.zeros(3)}, grids={}), carried("config.json", config)]
    container.write(tmp_path / "m.metaq", tensors, metadata={"folder": 1})
    text = card_of(tmp_path / "m.metaq")
    named = [line for line in front(text) if "base_model" in line]
    assert bool(named) is (base is not None)
    assert all(line.startswith(f"# base_model: {base} ") for line in named)
    assert "hf.from_pretrained('m.metaq')" in text
    assert "metaq decompress m.metaq -o m-restored" in text
    assert not [line for line in front(text) if line.startswith("license")]


@pytest.mark.parametrize("name", ["a|b", "`", "<script>", "](x)", "a\nb", "````", "'\"$(ls)"])
def test_names_from_files_mean_nothing_in_markdown(tmp_path, name):
    text = card_of(saved(tmp_path / "m.metaq", {"w": torch.zeros(3)}, net=name, data=name))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)
    assert not [line for line in text.splitlines() if "<script>" in line and "`" not in line and "\\<" not in line]
    assert text.count("````") % 2 == 0
    assert text.count("\n---\n") == 1


def test_only_a_file_that_holds_a_model_has_a_card(tmp_path):
    from metaq.model import checkpoint

    checkpoint.write(tmp_path / "m.pth", {"w": torch.zeros(3)})
    with pytest.raises(ConfigError, match=r"no \.metaq file"):
        card_of(tmp_path / "m.pth")
