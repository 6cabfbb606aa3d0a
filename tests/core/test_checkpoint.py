from __future__ import annotations

import numpy as np
import pytest
import torch

from metaq import BucketGrid, ConfigError, FormatError, OutputError, checkpoint, choose_grids, load, pipeline, save
from metaq.narrow_floats import bfloat16_bits

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
    save(packed, {"w": tensor, "other": torch.zeros(2)}, grids={})
    restored = load(packed)["w"]
    assert restored.dtype == dtype
    assert restored.shape == tensor.shape
    assert torch.equal(bits(restored), bits(tensor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_quantised_weights_of_every_float_type_restore_to_what_was_quantised(tmp_path, dtype):
    weights = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).to(dtype).t()
    grids = choose_grids({"w": weights}, count=17)
    packed = tmp_path / "model.metaq"
    save(packed, {"w": weights}, grids=grids)
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
    save(packed, model, grids={"0.weight": BucketGrid(center=0.0, radius=0.5, count=5)})
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
    save(packed, model, grids=grids)
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
    with pytest.raises(FormatError, match="no state dict"):
        checkpoint.read(tmp_path / "c.pth")


def test_grids_that_fit_no_tensor_and_types_that_no_file_holds(tmp_path):
    with pytest.raises(ConfigError, match="missing"):
        save(tmp_path / "x.metaq", {"w": torch.ones(2)}, grids={"missing": BucketGrid(center=0, radius=1, count=2)})
    with pytest.raises(ConfigError, match="stored exactly"):
        save(
            tmp_path / "x.metaq",
            {"w": torch.ones(2, dtype=torch.int64)},
            grids={"w": BucketGrid(center=0, radius=1, count=2)},
        )
    with pytest.raises(ConfigError, match="sparse"):
        save(tmp_path / "x.metaq", {"w": torch.eye(3).to_sparse()}, grids={})
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        checkpoint.write(tmp_path / "x.onnx", {"w": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        checkpoint.write(tmp_path / "nowhere" / "x.pth", {"w": torch.ones(2)})
