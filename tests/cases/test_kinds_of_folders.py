"""Folders as people have them: all weights are taken and come back where they were, or a sentence says why not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from metaq import load
from metaq.compression.compressed import Goal
from metaq.compression.compressing import compress_to_file
from metaq.compression.restoring import restore_folder
from metaq.errors import FormatError
from metaq.model.opened import open_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": 0.05 * torch.randn(64, 64, generator=generator), "b": torch.randn(64, generator=generator)}


def safetensors(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights(seed), path)


def torch_file(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights(seed), path)


def text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def sentence_transformers(folder: Path) -> None:
    safetensors(folder / "model.safetensors")
    text(folder / "modules.json", [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}])
    text(folder / "1_Pooling" / "config.json", {})
    torch_file(folder / "2_Dense" / "pytorch_model.bin", 1)


def base_and_adapter(folder: Path) -> None:
    safetensors(folder / "model.safetensors")
    text(folder / "config.json", {})
    text(folder / "adapter_config.json", {"peft_type": "LORA"})
    safetensors(folder / "adapter_model.safetensors", 1)


def adapters(folder: Path) -> None:
    for number, name in enumerate(("one", "two")):
        safetensors(folder / name / "adapter_model.safetensors", number)
        text(folder / name / "adapter_config.json", {"peft_type": "LORA"})


def adapter(folder: Path) -> None:
    safetensors(folder / "adapter_model.safetensors")
    text(folder / "adapter_config.json", {"peft_type": "LORA"})


def variant(folder: Path) -> None:
    safetensors(folder / "model.fp16.safetensors")
    text(folder / "config.json", {})


def unet(folder: Path) -> None:
    safetensors(folder / "diffusion_pytorch_model.safetensors")
    text(folder / "config.json", {})


def pipeline(folder: Path) -> None:
    safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors")
    safetensors(folder / "text_encoder" / "model.safetensors", 1)
    text(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})


def parts(folder: Path) -> None:
    safetensors(folder / "weights.00.safetensors")
    save_file({"v": torch.randn(40, 40)}, folder / "weights.01.safetensors")
    text(folder / "config.json", {})


def pickled(folder: Path) -> None:
    torch_file(folder / "pytorch_model.bin")
    text(folder / "config.json", {})


def pickled_shards(folder: Path) -> None:
    held = weights()
    folder.mkdir(exist_ok=True)
    placed = {name: f"pytorch_model-0000{n}-of-00002.bin" for n, name in enumerate(held, start=1)}
    for name, shard in placed.items():
        torch.save({name: held[name]}, folder / shard)
    text(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": placed})
    text(folder / "config.json", {})


def shards(folder: Path, variant: str, *, before_number: bool = True, index: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [f"{variant}-0000{n}-of-00002" if before_number else f"-0000{n}-of-00002{variant}" for n in (1, 2)]
    placed = {name: f"model{number}.safetensors" for name, number in zip(weights(), numbers, strict=True)}
    for name, shard in placed.items():
        save_file({name: weights()[name]}, folder / shard)
    text(folder / index, {"metadata": {}, "weight_map": placed})


def variant_in_shards(folder: Path) -> None:
    shards(folder, ".fp16", index="model.safetensors.index.fp16.json")
    text(folder / "config.json", {})


def variant_behind_numbers(folder: Path) -> None:
    shards(folder / "text_encoder", ".fp16", before_number=False, index="model.safetensors.index.fp16.json")
    safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors")
    text(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})


KINDS: dict[Callable[[Path], None], list[str]] = {
    sentence_transformers: ["2_Dense/pytorch_model.bin", "model.safetensors"],
    base_and_adapter: ["adapter_model.safetensors", "model.safetensors"],
    adapter: ["adapter_model.safetensors"],
    adapters: ["one/adapter_model.safetensors", "two/adapter_model.safetensors"],
    variant: ["model.fp16.safetensors"],
    unet: ["diffusion_pytorch_model.safetensors"],
    pipeline: ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"],
    parts: ["weights.00.safetensors", "weights.01.safetensors"],
    variant_in_shards: [f"model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)],
    variant_behind_numbers: [
        "unet/diffusion_pytorch_model.safetensors",
        *(f"text_encoder/model-0000{n}-of-00002.fp16.safetensors" for n in (1, 2)),
    ],
    pickled: ["pytorch_model.bin"],
    pickled_shards: ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
}


def content(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.mark.parametrize("lossless", [False, True], ids=["quantised", "lossless"])
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_all_weights_come_back_where_they_were(tmp_path, make, lossless):
    folder, back = tmp_path / "model", tmp_path / "back"
    folder.mkdir()
    make(folder)
    model = open_model(folder, lossless=lossless)
    report = compress_to_file(model, tmp_path / "m.metaq", Goal(), lossless=lossless)
    assert report.left_out == {}
    restore_folder(tmp_path / "m.metaq", back)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert sorted(path.relative_to(back).as_posix() for path in back.rglob("*") if path.is_file()) == files
    total = 0
    for name in KINDS[make]:
        before, after = content(folder / name), content(back / name)
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            total += tensor.numel()
            error = (after[key] - tensor).norm() / tensor.norm()
            assert torch.equal(after[key], tensor) if lossless else error < 0.1
    for name in set(files) - set(KINDS[make]) if not lossless else files:
        assert (back / name).read_bytes() == (folder / name).read_bytes()
    assert sum(tensor.numel() for tensor in load(tmp_path / "m.metaq").values()) == total


def test_shards_of_a_variant_beside_those_without_are_another_form_of_them(tmp_path):
    shards(tmp_path, "", index="model.safetensors.index.json")
    shards(tmp_path, ".fp16", index="model.safetensors.index.fp16.json")
    text(tmp_path / "config.json", {})
    model = open_model(tmp_path)
    assert sorted(tensor.name for tensor in model.tensors) == ["b", "w"]
    variants = [f"model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert sorted(model.rest.left_out) == [*variants, "model.safetensors.index.fp16.json"]


def test_a_graph_with_data_beside_it_is_the_model_where_there_is_no_other(tmp_path):
    folder, back = tmp_path / "model", tmp_path / "back"
    (folder / "onnx").mkdir(parents=True)
    text(folder / "config.json", {})
    text(folder / "tokenizer.json", {})
    first = 0.1 * np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "first"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(first, "first")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # Called like weights of PyTorch.
    place = folder / "onnx" / "model.onnx"
    onnx.save(model, place, save_as_external_data=True, location="weights.bin", size_threshold=0)
    report = compress_to_file(open_model(folder), tmp_path / "m.metaq", Goal())
    assert report.left_out == {}
    restore_folder(tmp_path / "m.metaq", back)
    onnx.checker.check_model(back / "onnx" / "model.onnx", full_check=True)
    (found,) = onnx.load(back / "onnx" / "model.onnx").graph.initializer
    error = np.linalg.norm(numpy_helper.to_array(found) - first) / np.linalg.norm(first)
    assert 0 < error < 0.1
    assert sorted(path.name for path in back.rglob("*") if path.is_file()) == [
        "config.json",
        "model.onnx",
        "tokenizer.json",
        "weights.bin",
    ]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({".metadata": "x", "__0_0.distcp": "x"}, "dcp_to_torch"),
        ({"global_step10/mp_rank_00_model_states.pt": "x", "latest": "global_step10"}, "DeepSpeed"),
        ({"model-q4.gguf": "GGUF", "config.json": "{}"}, "--lossless"),
        ({"model.safetensors": POINTER, "config.json": "{}"}, "git lfs pull"),
        ({"pytorch_model.bin": POINTER, "config.json": "{}"}, "git lfs pull"),
        ({"pytorch_model.bin": "<!doctype html><html>Access denied</html>", "config.json": "{}"}, "web page"),
        ({"model-00001-of-00002.safetensors": POINTER, "config.json": "{}"}, "no index"),
    ],
)
def test_what_is_no_model_folder_gets_a_sentence_of_its_own(tmp_path, files, named):
    for name, written in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(written)
    with pytest.raises(FormatError, match=named) as caught:
        open_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_pointers_of_other_files_are_left_out_and_told(tmp_path):
    safetensors(tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text(POINTER)
    rest = open_model(tmp_path).rest
    assert list(rest.left_out) == ["tokenizer.json"]
    assert "git lfs pull" in rest.left_out["tokenizer.json"]


def test_configuration_and_tokenizer_come_before_a_thousand_other_files(tmp_path):
    safetensors(tmp_path / "model.safetensors")
    (tmp_path / "data").mkdir()
    for number in range(1200):
        (tmp_path / "data" / f"{number:05}.txt").write_text("x")
    text(tmp_path / "zz_config.json", {})
    rest = open_model(tmp_path).rest
    assert "file:zz_config.json" in [file.name for file in rest.files]
    assert len(rest.left_out) == 201


def test_the_state_of_a_training_and_other_forms_are_left_out(tmp_path):
    safetensors(tmp_path / "model.safetensors")
    text(tmp_path / "config.json", {})
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        torch_file(tmp_path / name)
    (tmp_path / "onnx").mkdir()
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    rest = open_model(tmp_path).rest
    assert rest.left_out == {
        "consolidated.safetensors": "holds weights in another form",
        "onnx/model.onnx": "holds weights in another form",
        "optimizer.pt": "is the state of a training",
        "pytorch_model.bin": "holds weights in another form",
        "rng_state_0.pth": "is the state of a training",
        "scheduler.pt": "is the state of a training",
        "tf_model.h5": "holds weights in another form",
        "training_args.bin": "is the state of a training",
    }


def test_a_configuration_that_says_quantised_is_told(tmp_path):
    held = {"model.l.qweight": torch.randint(-(2**31), 2**31 - 1, (64, 8), dtype=torch.int32), "norm": torch.ones(64)}
    held["model.l.scales"] = torch.rand(4, 64).half()
    save_file(held, tmp_path / "model.safetensors")
    text(tmp_path / "config.json", {"_name_or_path": "org/base", "quantization_config": {"quant_method": "awq"}})
    (note,) = open_model(tmp_path).rest.notes
    assert "awq" in note
    assert "org/base" in note


def graph(path: Path, seed: int, location: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first = 0.1 * np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "first"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(first, "first")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=location is not None, location=location, size_threshold=0)


def there_and_back(folder: Path, *, lossless: bool) -> tuple[Path, dict[str, str]]:
    report = compress_to_file(
        open_model(folder, lossless=lossless), folder.with_suffix(".metaq"), Goal(), lossless=lossless
    )
    restore_folder(folder.with_suffix(".metaq"), folder.with_name("back"))
    return folder.with_name("back"), report.left_out


@pytest.mark.parametrize("lossless", [False, True], ids=["quantised", "lossless"])
def test_several_graphs_are_several_models(tmp_path, lossless):
    folder = tmp_path / "model"
    text(folder / "config.json", {})
    names = ("encoder_model.onnx", "decoder_model.onnx", "sub/vad.onnx")
    for seed, name in enumerate(names):
        graph(folder / name, seed, f"{Path(name).stem}.data")
    for name in ("encoder_model_quantized.onnx", "onnx/decoder_model_fp16.onnx"):
        graph(folder / name, 0)
    back, left_out = there_and_back(folder, lossless=lossless)
    assert set(left_out) == {"encoder_model_quantized.onnx", "onnx/decoder_model_fp16.onnx"}
    for name in names:
        before, after = (onnx.load(place / name).graph.initializer[0] for place in (folder, back))
        before, after = numpy_helper.to_array(before), numpy_helper.to_array(after)
        assert np.linalg.norm(after - before) <= (0 if lossless else 0.1) * np.linalg.norm(before)


@pytest.mark.parametrize("lossless", [False, True], ids=["quantised", "lossless"])
def test_a_model_beside_weights_of_another_name_comes_back(tmp_path, lossless):
    folder = tmp_path / "model"
    safetensors(folder / "model.safetensors")
    graph(folder / "vad.onnx", 1)
    graph(folder / "onnx" / "encoder_model.onnx", 1)
    (folder / "broken.onnx").write_bytes(b"no graph")
    (folder / "data.h5").write_bytes(b"no HDF5")
    back, left_out = there_and_back(folder, lossless=lossless)
    assert left_out == {"onnx/encoder_model.onnx": "holds weights in another form"}
    for name in ("broken.onnx", "data.h5", *(("vad.onnx", "model.safetensors") if lossless else ())):
        assert (back / name).read_bytes() == (folder / name).read_bytes()
    assert set(load(tmp_path / "model.metaq")) == {"w", "b", "vad/first"}


def test_graphs_with_the_same_data_come_back(tmp_path):
    folder = tmp_path / "model"
    text(folder / "config.json", {})
    for name in ("encode.onnx", "pool.onnx"):
        graph(folder / name, 0, "weights.data")
    (folder / "weights.data").write_bytes((folder / "weights.data").read_bytes()[: 4 * 64 * 64])
    graph(tmp_path / "same.onnx", 0, "weights.data")
    for name in ("encode.onnx", "pool.onnx"):
        (folder / name).write_bytes((tmp_path / "same.onnx").read_bytes())
    back, left_out = there_and_back(folder, lossless=True)
    assert left_out == {}
    assert {path.name for path in back.iterdir()} == {"config.json", "encode.onnx", "pool.onnx", "weights.data"}
    assert all((back / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("lossless", [False, True], ids=["quantised", "lossless"])
def test_dots_within_names_and_capitals_of_suffixes(tmp_path, lossless):
    folder = tmp_path / "model"
    names = ("wan2.1_t2v.safetensors", "wan2.1_vae.safetensors", "Extra.Safetensors", "top.SAFETENSORS", "head.PT")
    for seed, name in enumerate(names[:-1]):
        safetensors(folder / name, seed)
    torch_file(folder / names[-1], 4)
    safetensors(folder / "wan2.1_vae.fp16.safetensors", 1)
    back, left_out = there_and_back(folder, lossless=lossless)
    assert left_out == {"wan2.1_vae.fp16.safetensors": "holds weights in another form"}
    for name in names:
        before, after = ((torch.load if name.endswith("PT") else load_file)(place / name) for place in (folder, back))
        for key, tensor in before.items():
            assert (after[key] - tensor).norm() <= (0 if lossless else 0.1) * tensor.norm()


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_no_text_is_left_out(tmp_path):
    safetensors(tmp_path / "model.safetensors")
    bad = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / bad).write_text("x")
    for lossless in (False, True):
        rest = open_model(tmp_path, lossless=lossless).rest
        assert rest.left_out == {bad: "has a name that is not safe on every system"}


def test_weights_in_a_form_that_is_not_taken_are_not_said_to_be_others(tmp_path):
    safetensors(tmp_path / "model.safetensors")
    for name in ("other.gguf", "model.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert open_model(tmp_path).rest.left_out == {
        "model.gguf": "holds weights in another form",
        "other.gguf": "holds weights in a form that is not taken from folders",
    }
