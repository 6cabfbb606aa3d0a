"""``from_pretrained`` of Transformers on ``.metaq`` files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import metaq
from metaq import container, hf
from metaq.errors import ConfigError, FormatError
from metaq.hf import places
from metaq.tensors.quantized import Dtype, ExactTensor

transformers = pytest.importorskip("transformers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
IDS = [2, 5, 6, 3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small classifier with its tokenizer: in memory, as a file, and as its parts."""
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertForSequenceClassification(config).eval()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    hf.save_pretrained(model, folder / "model.metaq", tokenizer=tokenizer)
    return SimpleNamespace(
        model=model, file=(folder / "model.metaq").read_bytes(), weights=metaq.load(folder / "model.metaq")
    )


@pytest.fixture(autouse=True)
def enabled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hf.enable()
    yield
    hf.disable()


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def snapshot(tmp_path: Path) -> Path:
    """A repository in a cache of the hub."""
    repository = tmp_path / "cache" / "models--org--name"
    written(repository / "refs" / "main", COMMIT.encode())
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    return repository / "snapshots" / COMMIT


def named(way: str, tmp_path: Path, data: bytes) -> tuple[object, dict[str, object]]:
    """What ``from_pretrained`` is given."""
    if way == "file":
        return str(written(tmp_path / "some.metaq", data)), {}
    if way == "folder":
        return written(tmp_path / "model.metaq", data).parent, {}
    if way == "subfolder":
        written(tmp_path / "text" / "model.metaq", data)
        return str(tmp_path), {"subfolder": "text"}
    written(snapshot(tmp_path) / "model.metaq", data)
    return "org/name", {"cache_dir": str(tmp_path / "cache")}


@pytest.mark.parametrize("way", ["file", "folder", "subfolder", "hub"])
def test_every_class_finds_the_file(tmp_path: Path, made: SimpleNamespace, way: str) -> None:
    name, options = named(way, tmp_path, made.file)
    before = sorted(tmp_path.rglob("*"))
    for model_class in (
        transformers.AutoModelForSequenceClassification,
        transformers.BertForSequenceClassification,
        transformers.AutoModel,
    ):
        model = model_class.from_pretrained(name, **options)
        assert model.name_or_path == model.config.name_or_path == str(name)
        found = {key: value for key, value in model.state_dict().items() if "classifier" not in key}
        assert all(
            torch.equal(value, made.weights[f"bert.{key.removeprefix('bert.')}"]) for key, value in found.items()
        )
    model, told = transformers.BertForSequenceClassification.from_pretrained(name, output_loading_info=True, **options)
    assert not told["missing_keys"]
    assert torch.equal(model.classifier.weight, made.weights["classifier.weight"])
    for tokenizer_class in (transformers.AutoTokenizer, transformers.BertTokenizerFast):
        tokenizer = tokenizer_class.from_pretrained(name, **options)
        assert tokenizer("hello world")["input_ids"] == IDS
        assert tokenizer.name_or_path == str(name)
    for config_class in (transformers.AutoConfig, transformers.BertConfig):
        config = config_class.from_pretrained(name, **options)
        assert (type(config), config.hidden_size) == (transformers.BertConfig, 32)
    assert transformers.BertConfig.from_pretrained(pretrained_model_name_or_path=name, **options).hidden_size == 32
    assert sorted(tmp_path.rglob("*")) == before


def test_files_beside_it_come_before_those_that_it_carries(tmp_path: Path, made: SimpleNamespace) -> None:
    name, _ = named("folder", tmp_path, made.file)
    config = json.loads(made.model.config.to_json_string()) | {"id2label": {"0": "bad", "1": "good"}}
    written(tmp_path / "config.json", json.dumps(config).encode())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(name)
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert torch.equal(model.classifier.weight, made.weights["classifier.weight"])
    assert transformers.AutoTokenizer.from_pretrained(name)("hello world")["input_ids"] == IDS
    written(tmp_path / "config.json", json.dumps(config | {"id2label": {"0": "no", "1": "yes"}}).encode())
    assert transformers.AutoConfig.from_pretrained(name).id2label == {0: "no", 1: "yes"}


def test_a_state_dict_needs_a_configuration_beside_it(tmp_path: Path, made: SimpleNamespace) -> None:
    metaq.compress(made.model, grids=metaq.choose_grids(made.model, count=31)).save(tmp_path / "model.metaq")
    made.model.config.save_pretrained(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(model.classifier.weight, metaq.load(tmp_path / "model.metaq")["classifier.weight"])
    for loader in (transformers.BertModel, transformers.AutoModel):
        with pytest.raises(FormatError, match=r"model\.metaq: holds no config\.json; put it beside the file"):
            loader.from_pretrained(tmp_path / "model.metaq")
    given = transformers.BertModel.from_pretrained(tmp_path / "model.metaq", config=made.model.config)
    assert torch.equal(given.pooler.dense.bias, model.bert.pooler.dense.bias)


def test_what_a_model_generates_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=90, n_embd=32, n_layer=1, n_head=2, bos_token_id=7, eos_token_id=7)
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config.max_length = 17
    hf.save_pretrained(model, tmp_path / "m.metaq")
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "m.metaq").max_length == 17
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m.metaq")
    assert back.generation_config.max_length == 17
    assert back.lm_head.weight is back.transformer.wte.weight


@pytest.mark.parametrize("way", ["file", "folder"])
def test_pipelines(tmp_path: Path, made: SimpleNamespace, way: str) -> None:
    name, _ = named(way, tmp_path, made.file)
    (found,) = transformers.pipeline("text-classification", model=str(name))("hello world")
    assert found["label"] in ("LABEL_0", "LABEL_1")


def test_other_weights_are_used_where_there_are_any(tmp_path: Path, made: SimpleNamespace) -> None:
    local, cached = tmp_path / "local", snapshot(tmp_path)
    for folder in (local, cached):
        made.model.save_pretrained(folder)
        written(folder / "model.metaq", b"is not looked at")
    for name, options in ((local, {}), ("org/name", {"cache_dir": str(tmp_path / "cache")})):
        model = transformers.BertForSequenceClassification.from_pretrained(name, **options)
        assert torch.equal(model.classifier.weight, made.model.classifier.weight)


def test_a_file_is_restored_once_and_its_weights_only_for_models(
    tmp_path: Path, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def restore(*arguments: object, only_files: bool) -> object:
        calls.append(only_files)
        return original(*arguments, only_files=only_files)

    original = places.restore_folder
    monkeypatch.setattr(places, "restore_folder", restore)
    name, _ = named("file", tmp_path, made.file)
    for _ in range(2):
        transformers.AutoConfig.from_pretrained(name)
        transformers.AutoTokenizer.from_pretrained(name)
    assert calls == [True]
    for _ in range(2):
        transformers.AutoModel.from_pretrained(name)
        transformers.AutoTokenizer.from_pretrained(name)
    assert calls == [True, False]
    os.utime(name, ns=(0, 0))
    transformers.AutoModel.from_pretrained(name)
    assert calls == [True, False, False]


def test_code_is_neither_run_nor_asked_about(
    tmp_path: Path, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    name, _ = named("file", tmp_path, made.file)
    for loader in (transformers.AutoModel, transformers.BertModel, transformers.AutoTokenizer, transformers.AutoConfig):
        with pytest.raises(ConfigError, match="trust_remote_code: code that a file brings along is never run"):
            loader.from_pretrained(name, trust_remote_code=True)
    config = {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    files = {"config.json": json.dumps(config).encode(), "evil.py": b"raise SystemExit('executed')"}
    tensors = [
        ExactTensor(
            name=f"file:{path}", values=torch.frombuffer(bytearray(data), dtype=torch.uint8).numpy(), dtype=Dtype.uint8
        )
        for path, data in files.items()
    ]
    container.write(tmp_path / "evil.metaq", tensors, metadata={"folder": 1})
    for loader in (transformers.AutoModel, transformers.AutoConfig):
        with pytest.raises(ValueError, match="trust_remote_code"):
            loader.from_pretrained(tmp_path / "evil.metaq")


def test_files_that_cannot_be_read_say_so(tmp_path: Path, made: SimpleNamespace) -> None:
    for name in (tmp_path / "missing.metaq", written(tmp_path / "cut.metaq", made.file[:-9])):
        for loader in (transformers.AutoModel, transformers.BertModel, transformers.AutoTokenizer):
            with pytest.raises(FormatError, match=name.name):
                loader.from_pretrained(name)
    with pytest.raises(OSError, match="cached files"):
        transformers.BertModel.from_pretrained("nobody/nothing", cache_dir=str(tmp_path))


def test_enabling_is_undone_in_full() -> None:
    hf.enable()
    classes = (transformers.PreTrainedModel, transformers.AutoModelForMaskedLM, transformers.PreTrainedTokenizerBase)
    during = [vars(owner)["from_pretrained"] for owner in classes]
    hf.disable()
    before = [vars(owner)["from_pretrained"] for owner in classes]
    assert all(a is not b for a, b in zip(before, during, strict=True))
    hf.disable()
    hf.enable()
    hf.disable()
    assert [vars(owner)["from_pretrained"] for owner in classes] == before
    assert transformers.BertModel.from_pretrained.__func__ is before[0].__func__


def test_a_folder_for_other_libraries(tmp_path: Path, made: SimpleNamespace) -> None:
    name, _ = named("file", tmp_path, made.file)
    with hf.restored(name) as folder:
        assert (folder / "model.safetensors").is_file()
        assert (folder / "config.json").is_file()
    assert not folder.exists()
    with hf.restored(name, only_files=True) as folder:
        assert not (folder / "model.safetensors").exists()
    with pytest.raises(FormatError, match="no such file"), hf.restored(tmp_path / "missing.metaq"):
        pass


@pytest.mark.slow
def test_nothing_is_left_behind(tmp_path: Path, made: SimpleNamespace) -> None:
    name, _ = named("folder", tmp_path / "model", made.file)
    (tmp_path / "temporary").mkdir()
    program = f"""
import os
from pathlib import Path
from transformers import BertModel
from metaq import hf
hf.enable()
BertModel.from_pretrained({str(name)!r})
assert any(Path(os.environ["TMPDIR"]).glob("metaq-*"))
if os.fork() == 0:
    raise SystemExit
os.wait()
assert any(Path(os.environ["TMPDIR"]).glob("metaq-*")), "a child took it away"
raise KeyboardInterrupt
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "AssertionError" not in done.stderr, done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert not list((tmp_path / "temporary").glob("metaq-*"))
