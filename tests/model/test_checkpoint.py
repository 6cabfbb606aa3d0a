from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from metaq import BucketGrid, ConfigError, FormatError, OutputError, choose_grids, compress, load
from metaq.compression import pipeline
from metaq.model import checkpoint
from metaq.tensors.narrow_floats import bfloat16_bits

TYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_stored_bit_for_bit(tmp_path, dtype):
    raw = torch.arange(48, dtype=torch.uint8) if dtype != torch.bool else torch.arange(48, dtype=torch.uint8) % 2
    tensor = raw.view(dtype).reshape(2, -1).t()
    packed = tmp_path / "exact.metaq"
    compress({"w": tensor, "other": torch.zeros(2)}, grids={}).save(packed)
    restored = load(packed)["w"]
    assert restored.dtype == dtype
    assert restored.shape == tensor.shape
    assert torch.equal(bits(restored), bits(tensor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_quantised_weights_of_every_float_type_restore_to_what_was_quantised(tmp_path, dtype):
    weights = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).to(dtype).t()
    grids = choose_grids({"w": weights}, count=17)
    packed = tmp_path / "model.metaq"
    compress({"w": weights}, grids=grids).save(packed)
    restored = load(packed)["w"]
    assert restored.dtype == dtype
    assert restored.shape == weights.shape
    assert torch.equal(restored, pipeline.quantized_state_dict({"w": weights}, grids=grids)["w"])
    grid = grids["w"]
    expected = grid.values_of(grid.assign(weights.double().numpy()))
    assert torch.equal(
        restored,
        torch.from_numpy(expected).float().to(dtype)
        if dtype == torch.bfloat16
        else torch.from_numpy(expected).to(dtype),
    )


def test_bfloat16_is_rounded_as_torch_rounds_it():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    expected = values.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bfloat16_bits(values.numpy()), expected)


def test_tied_weights_share_their_grid(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    packed = tmp_path / "tied.metaq"
    compress(model, grids={"0.weight": BucketGrid(center=0.0, radius=0.5, count=5)}).save(packed)
    restored = load(packed)
    assert torch.equal(restored["0.weight"], restored["1.weight"])
    assert len(restored["1.weight"].unique()) <= 5


def test_buffers_are_stored_exactly(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    model.register_buffer("scale", torch.rand(3))
    model(torch.randn(8, 4))
    assert choose_grids(model, count=3).keys() == dict(model.named_parameters()).keys()
    grids = choose_grids(model.state_dict(), count=3, exclude=("scale",))
    assert grids.keys() == dict(model.named_parameters()).keys()
    packed = tmp_path / "norm.metaq"
    compress(model, grids=grids).save(packed)
    restored = load(packed)
    for name, buffer in model.named_buffers():
        assert torch.equal(restored[name], buffer)
        assert restored[name].shape == buffer.shape


def test_a_checkpoint_with_its_state_dict_inside_is_opened(tmp_path):
    weights = {"w": torch.ones(3)}
    for key in ("state_dict", "model_state_dict", "model"):
        torch.save({key: weights, "epoch": 3}, tmp_path / "c.pth")
        assert torch.equal(checkpoint.read(tmp_path / "c.pth")["w"], weights["w"])
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(FormatError, match="holds no tensors"):
        checkpoint.read(tmp_path / "c.pth")


def test_grids_that_fit_no_tensor_and_types_that_no_file_holds(tmp_path):
    with pytest.raises(ConfigError, match="missing"):
        compress({"w": torch.ones(2)}, grids={"missing": BucketGrid(center=0, radius=1, count=2)})
    with pytest.raises(ConfigError, match="it is integer"):
        compress({"w": torch.ones(2, dtype=torch.int64)}, grids={"w": BucketGrid(center=0, radius=1, count=2)})
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        checkpoint.write(tmp_path / "x.onnx", {"w": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support is in beta state:UserWarning",
    "ignore:ComplexHalf support is experimental:UserWarning",
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning",
)
@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: torch.eye(3).to_sparse(), r"layout sparse_coo cannot be stored; give its to_dense\(\)"),
        (lambda: torch.eye(3).to_sparse_csr(), r"layout sparse_csr cannot be stored; give its to_dense\(\)"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            r"quantised tensor \(qint8\) .*dequantize\(\)",
        ),
        (
            lambda: torch.zeros(3, dtype=torch.uint8).view(torch.float8_e8m0fnu),
            r"float8_e8m0fnu .*view\(torch\.uint8\)",
        ),
        (lambda: torch.zeros(3, dtype=torch.complex32), r"complex32 cannot be stored"),
        (lambda: torch.ones(3, device="meta"), "is on the meta device"),
        (lambda: [1.0], "is not a tensor but list"),
    ],
)
def test_tensors_that_no_file_holds_are_refused_by_name(tmp_path, make, advice):
    state = {"w": torch.linspace(-1, 1, 100), "layer.odd": make()}
    for attempt in (
        lambda: compress(state, grids={}).save(tmp_path / "x.metaq"),
        lambda: choose_grids(state, count=9),
        lambda: compress(state, target_ratio=2),
    ):
        with pytest.raises(ConfigError, match=rf"layer\.odd: .*{advice}"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_marked_views_and_odd_layouts_are_stored_as_what_they_mean(tmp_path):
    complex_ = torch.randn(4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    state = {
        "conjugate": complex_.conj(),
        "negative": complex_.clone().conj().imag,
        "expanded": torch.ones(1, 3).expand(5, 3),
        "channels last": torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
        "strided": torch.arange(20.0)[::3],
    }
    compress(state, grids={}).save(tmp_path / "x.metaq")
    restored = load(tmp_path / "x.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in state.items())
    assert all(tensor.is_contiguous() for tensor in restored.values())
    for suffix in (".safetensors", ".pth"):
        checkpoint.write(tmp_path / f"x{suffix}", state)
        back = checkpoint.read(tmp_path / f"x{suffix}")
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_what_safetensors_files_cannot_hold_is_said(tmp_path):
    state = {"w": torch.ones(3), "z": torch.ones(2, dtype=torch.complex128)}
    with pytest.raises(ConfigError, match=r"x\.safetensors: z: .*complex128; end the name in \.pth"):
        checkpoint.write(tmp_path / "x.safetensors", state)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"s: .*to_dense"):
        checkpoint.write(tmp_path / "x.safetensors", {"s": torch.eye(3).to_sparse()})


def with_header(text):
    return struct.pack("<Q", len(text)) + text.encode() + struct.pack("<4f", 1, 2, 3, 4)


def test_a_name_that_occurs_twice_in_a_safetensors_file_is_refused(tmp_path):
    entry = '"a": {"dtype": "F32", "shape": [%d], "data_offsets": [%d, %d]}'
    path = tmp_path / "twice.safetensors"
    for second in ((4, 0, 16), (2, 8, 16)):
        path.write_bytes(with_header("{" + entry % (4, 0, 16) + ", " + entry % second + "}"))
        with pytest.raises(FormatError, match="the name 'a' occurs twice in its header"):
            checkpoint.read(path)
    path.write_bytes(with_header("{" + entry % (4, 0, 16) + "}"))
    assert checkpoint.read(path)["a"].tolist() == [1, 2, 3, 4]
    for damaged in ("{" * 20_000, "[" * 20_000, "{}}", "null"):
        path.write_bytes(with_header(damaged))
        with pytest.raises(FormatError, match="not a readable safetensors file"):
            checkpoint.read(path)


def test_a_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        checkpoint.write(tmp_path / "nowhere" / "x.pth", {"w": torch.ones(2)})


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a")])
@pytest.mark.parametrize("parts", ["a", "a\nx", "", "\n\n", "a\ta", "\t"])
def test_parts_that_do_not_go_together_lose_no_tensor(tmp_path, names, parts):
    held = {name: torch.full((2,), float(number)) for number, name in enumerate(names)}
    checkpoint.write_as(tmp_path / "a.pth", held, {"parts": parts})

    def tensors(found):
        return [each for value in found.values() for each in (tensors(value) if isinstance(value, dict) else [value])]

    found = tensors(torch.load(tmp_path / "a.pth"))
    assert sorted(float(each[0]) for each in found) == [0, 1]
