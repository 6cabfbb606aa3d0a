from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors import SafetensorError

import metaq
from metaq import container, hf
from metaq.compression.restoring import restore_folder
from metaq.compression.work import WorkFolder
from metaq.errors import ConfigError, FormatError, OutputError
from metaq.progress import NoProgress
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor

transformers = pytest.importorskip("transformers")


def bert() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3
    )
    return transformers.BertForSequenceClassification(config).eval()


def gpt2() -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=200, n_embd=32, n_layer=2, n_head=2)).eval()


IDS = torch.arange(12).reshape(2, 6)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def tokenizer(folder: Path) -> object:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]))
    return transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))


@pytest.mark.parametrize("make", [bert, gpt2])
def test_a_model_comes_back_as_what_it_was(tmp_path, make):
    model = make()
    path = tmp_path / "model.metaq"
    report = hf.save_pretrained(model, path)
    assert [found.name for found in tmp_path.iterdir()] == ["model.metaq"]
    assert report.file_bytes < report.float_bytes / 4
    back = hf.from_pretrained(path)
    assert type(back) is type(model)
    assert not back.training
    assert back.config.to_dict().keys() == model.config.to_dict().keys()
    error = (logits(back) - logits(model)).norm() / logits(model).norm()
    assert 0 < error < 0.3
    stored = metaq.load(path)
    state = back.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("shard_size", ["5GB", "30KB"])
@pytest.mark.parametrize("variant", [None, "fp16", "my-variant"])
@pytest.mark.parametrize("given", [{}, {"variant": "fp16"}, {"variant": None}])
def test_the_only_weights_of_a_file_are_meant_whatever_their_variant(tmp_path, variant, shard_size, given):
    model = bert()
    model.save_pretrained(tmp_path / "model", variant=variant, max_shard_size=shard_size)
    metaq.compress(tmp_path / "model").save(tmp_path / "m.metaq")
    back = hf.from_pretrained(tmp_path / "m.metaq", **given)
    assert all(torch.equal(back.state_dict()[name], own) for name, own in metaq.load(tmp_path / "m.metaq").items())
    hf.enable()
    try:
        found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m.metaq", **given)
    finally:
        hf.disable()
    assert torch.equal(logits(found), logits(back))


def test_tied_weights_stay_tied(tmp_path):
    hf.save_pretrained(gpt2(), tmp_path / "m.metaq")
    back = hf.from_pretrained(tmp_path / "m.metaq")
    assert back.lm_head.weight is back.transformer.wte.weight


def test_types_and_budgets_are_kept(tmp_path):
    path = tmp_path / "m.metaq"
    report = hf.save_pretrained(bert().to(torch.bfloat16), path, target_ratio=3.0)
    assert report.file_bytes <= report.float_bytes / 3
    assert {parameter.dtype for parameter in hf.from_pretrained(path).parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in hf.from_pretrained(path, dtype=torch.float32).parameters()} == {
        torch.float32
    }


def test_the_tokenizer_travels_along(tmp_path):
    path = tmp_path / "m.metaq"
    made = tokenizer(tmp_path / "tokenizer")
    hf.save_pretrained(bert(), path, tokenizer=made)
    back = hf.load_tokenizer(path)
    assert back("hello world")["input_ids"] == made("hello world")["input_ids"]


def test_a_model_trained_to_grids_is_stored_on_them(tmp_path):
    model = gpt2()
    grid = BucketGrid(center=0.0, radius=0.1, count=7)
    with torch.no_grad():
        for name in ("transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight"):
            parameter = model.get_parameter(name)
            parameter.copy_(torch.from_numpy(grid.values_of(grid.assign(parameter.numpy()))))
    # The name of the tied head stands for the embedding.
    grids = {"lm_head.weight": grid, "transformer.h.0.mlp.c_fc.weight": grid}
    path = tmp_path / "m.metaq"
    hf.save_pretrained(model, path, grids=grids)
    quantized = [tensor for tensor in container.read(path).tensors if isinstance(tensor, QuantizedTensor)]
    assert len(quantized) == 2
    assert all(tensor.grid == grid for tensor in quantized)
    torch.testing.assert_close(logits(hf.from_pretrained(path)), logits(model), rtol=0, atol=0)


def test_grids_of_tensors_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="nobody"):
        hf.save_pretrained(bert(), tmp_path / "m.metaq", grids={"nobody": BucketGrid(center=0.0, radius=1.0, count=3)})
    assert list(tmp_path.iterdir()) == []


def test_other_models_and_missing_places(tmp_path):
    with pytest.raises(ConfigError, match=r"Linear.*metaq\.compress"):
        hf.save_pretrained(torch.nn.Linear(3, 3), tmp_path / "m.metaq")
    with pytest.raises(ConfigError, match="nowhere"):
        hf.save_pretrained(bert(), tmp_path / "nowhere" / "m.metaq")


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"\.\[transformers\]"):
        hf.from_pretrained(tmp_path / "m.metaq")


def with_config(path: Path, model: torch.nn.Module, **changes: object) -> Path:
    """A file whose configuration was changed by somebody."""
    config = json.loads(model.config.to_json_string()) | changes
    held = [
        ExactTensor(name=name, values=tensor.numpy(), dtype=Dtype[str(tensor.dtype).removeprefix("torch.")])
        for name, tensor in model.state_dict().items()
    ]
    content = np_bytes(json.dumps(config).encode())
    code = np_bytes(b"raise SystemExit('executed')")
    container.write(
        path,
        [
            *held,
            ExactTensor(name="file:config.json", values=content, dtype=Dtype.uint8),
            ExactTensor(name="file:evil.py", values=code, dtype=Dtype.uint8),
        ],
        metadata={"folder": 1},
    )
    return path


def np_bytes(content: bytes):
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).numpy()


@pytest.mark.parametrize(
    "architectures",
    [["Evil"], ["AutoModel"], ["logging"], ["BertForSequenceClassification.from_pretrained"], "x", None],
)
def test_the_class_is_one_of_transformers_whatever_the_file_says(tmp_path, architectures):
    path = with_config(
        tmp_path / "m.metaq",
        bert(),
        architectures=architectures,
        auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
    )
    assert type(hf.from_pretrained(path)) is transformers.BertModel


def test_code_of_others_is_never_trusted(tmp_path):
    for load in (hf.from_pretrained, hf.load_tokenizer):
        with pytest.raises(ConfigError, match="trust_remote_code"):
            load(tmp_path / "m.metaq", trust_remote_code=True)


def test_a_model_type_that_only_its_own_code_knows(tmp_path):
    path = with_config(
        tmp_path / "m.metaq",
        bert(),
        architectures=["Evil"],
        model_type="evil",
        auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
    )
    with pytest.raises(FormatError, match=r"m\.metaq: Transformers cannot make"):
        hf.from_pretrained(path)


def test_a_file_without_configuration_or_tokenizer(tmp_path):
    weight = ExactTensor(name="w", values=np_bytes(bytes(3)), dtype=Dtype.uint8)
    container.write(tmp_path / "m.metaq", [weight], metadata={"folder": 1})
    with pytest.raises(FormatError, match=r"config\.json"):
        hf.from_pretrained(tmp_path / "m.metaq")
    with pytest.raises(FormatError, match="tokenizer"):
        hf.load_tokenizer(tmp_path / "m.metaq")
    container.write(tmp_path / "plain.metaq", [weight])
    with pytest.raises(FormatError, match="made of a state dict"):
        hf.from_pretrained(tmp_path / "plain.metaq")


def test_a_restored_folder_is_what_transformers_loads(tmp_path):
    hf.save_pretrained(bert(), tmp_path / "m.metaq")
    restore_folder(tmp_path / "m.metaq", tmp_path / "folder", max_shard_bytes=10_000)
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder")
    torch.testing.assert_close(logits(back), logits(hf.from_pretrained(tmp_path / "m.metaq")), rtol=0, atol=0)


def test_the_work_of_another_run_on_the_same_output_is_left_alone(tmp_path):
    out = tmp_path / "model.metaq"
    with WorkFolder(out, {}) as work:
        work.write("something", 7)
        with pytest.raises(ConfigError, match="another run"):
            hf.save_pretrained(bert(), out)
        assert work.read("something") == 7


def test_an_interrupted_call_leaves_nothing(tmp_path):
    class Interrupt(NoProgress):
        def stage(self, label, total_bytes):
            del total_bytes
            if label == "compressing":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf.save_pretrained(bert(), tmp_path / "model.metaq", progress=Interrupt())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_saved_alone_with_the_grids_of_its_training(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=20, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grids = metaq.choose_grids(trained, count=31)
    report = hf.save_pretrained(model, tmp_path / "m.metaq", grids=grids)
    assert report.coverage.share == 1.0
    restore_folder(tmp_path / "m.metaq", tmp_path / "folder")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "folder").iterdir()}
    found = peft.set_peft_model_state_dict(model, metaq.load(tmp_path / "m.metaq"))
    assert not found.unexpected_keys


def test_options_and_names_are_those_of_transformers_own(tmp_path):
    path = tmp_path / "model.metaq"
    hf.save_pretrained(bert(), path, tokenizer=tokenizer(tmp_path / "tokenizer"))
    assert hf.from_pretrained(path, torch_dtype=torch.float16).dtype == torch.float16
    model, told = hf.from_pretrained(path, output_loading_info=True)
    assert not model.training
    assert not told["missing_keys"]
    assert model.name_or_path == model.config._name_or_path == hf.load_tokenizer(path).name_or_path == str(path)


def test_a_name_as_long_as_the_disk_takes_is_taken(tmp_path):
    path = tmp_path / f"{'n' * 244}.metaq"
    hf.save_pretrained(bert(), path)
    assert path.is_file()


def test_floats_that_find_no_room_beside_the_file_are_told_of(tmp_path, monkeypatch):
    model = bert()

    for failure in (OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")):
        monkeypatch.setattr(model, "save_pretrained", Mock(side_effect=failure))
        with pytest.raises(OutputError, match=r"No space left.*free some space"):
            hf.save_pretrained(model, tmp_path / "model.metaq")
        assert not list(tmp_path.iterdir())
