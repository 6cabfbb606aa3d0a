"""Masks, tables, scales of packed integers and pruned weights come back as they were, whatever the model lies in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from metaq import choose_grids, compress

State = dict[str, torch.Tensor]
SIZE = 64


def base() -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": 0.05 * torch.randn(160, 128, generator=generator),
        "layer.bias": 0.05 * torch.randn(160, generator=generator),
    }


def as_module(state: State) -> nn.Module:
    module = nn.Module()
    for name, tensor in state.items():
        parent = module
        *path, last = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        if tensor.is_floating_point() and tensor.dtype is not torch.float8_e4m3fn:
            parent.register_parameter(last, nn.Parameter(tensor))
        else:
            parent.register_buffer(last, tensor)
    return module


def as_file(state: State, place: Path) -> Path:
    torch.save(state, place / "model.pth")
    return place / "model.pth"


def as_safetensors(state: State, place: Path) -> Path:
    save_file(state, place / "weights.safetensors")
    return place / "weights.safetensors"


def as_folder(state: State, place: Path) -> Path:
    folder = place / "folder"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({}))
    return folder


FORMS: dict[str, Callable[[State, Path], object]] = {
    "module": lambda state, _: as_module(state),
    "state dict": lambda state, _: state,
    "checkpoint": as_file,
    "safetensors file": as_safetensors,
    "folder": as_folder,
}

TABLES = {
    "causal mask of 0 and 1": torch.tril(torch.ones(SIZE, SIZE)),
    "mask of minus infinity": torch.full((SIZE, SIZE), float("-inf")).triu(1),
    "mask of -1e9": torch.full((SIZE, SIZE), -1e9).triu(1),
    "mask of the least number": torch.full((SIZE, SIZE), torch.finfo(torch.float32).min).triu(1),
    "mask of half precision": torch.full((SIZE, SIZE), -65504.0, dtype=torch.float16).triu(1),
    "mask with negative zeros": (1 - torch.tril(torch.ones(SIZE, SIZE))) * -10000.0,
    "distances beside -1e9": (torch.arange(SIZE)[:, None] - torch.arange(SIZE)).clamp(-20, 9).float().tril() * 0.07
    + torch.full((SIZE, SIZE), -1e9).triu(1),
    "frequencies": 1 / 10000 ** (torch.arange(0, 2 * SIZE, 2) / (2 * SIZE)),
    "ternary weights": torch.randint(-1, 2, (SIZE, SIZE), generator=torch.Generator().manual_seed(1)) * 0.0173,
    "ones": torch.ones(SIZE),
    "NaN": torch.full((SIZE, SIZE), float("nan")),
    "numbers near the largest": torch.linspace(1, 3, SIZE).repeat(SIZE, 1) * 1e38 * torch.randn(SIZE, SIZE).sign(),
}


@pytest.mark.parametrize("goal", [{}, {"target_ratio": 5.0}])
@pytest.mark.parametrize("table", TABLES)
def test_tables_come_back_bit_for_bit(table: str, goal: dict[str, float]) -> None:
    held = {**base(), "layer.table": TABLES[table]}
    if table == "numbers near the largest":
        restored = compress(held, **goal).state_dict()["layer.table"]
        assert torch.isfinite(restored).all()
        assert float((restored - held["layer.table"]).abs().max()) < 0.2 * float(held["layer.table"].abs().max())
        return
    restored = compress(held, **goal).state_dict()["layer.table"]
    assert restored.numpy().tobytes() == held["layer.table"].numpy().tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_model_is_treated_alike(form: str, tmp_path: Path) -> None:
    held = {**base(), "layer.mask": TABLES["mask of -1e9"], "layer.step": torch.tensor(3)}
    # Of a size that is asked for, the other files of a folder take a part.
    goal: dict[str, float] = {} if form == "folder" else {"target_ratio": 5.0}
    found = compress(FORMS[form](held, tmp_path), **goal)  # type: ignore[arg-type]
    expected = compress(held, **goal).state_dict()  # type: ignore[arg-type]
    restored = found.state_dict()
    assert restored.keys() == expected.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in expected.items())


def pruned() -> State:
    linear = nn.Linear(128, 128)
    prune.l1_unstructured(linear, "weight", 0.9)
    embedding = nn.Embedding(300, 128, padding_idx=7)
    sparse = 0.05 * torch.randn(256, 256) * (torch.rand(256, 256) < 0.3)
    return {
        **{f"linear.{name}": tensor for name, tensor in linear.state_dict().items()},
        "linear.effective": (linear.weight_orig * linear.weight_mask).detach(),
        "embedding.weight": embedding.weight.detach(),
        "tall.weight": sparse.repeat(8, 1),
        "bias": torch.zeros(100),
    }


@pytest.mark.parametrize("goal", [{}, {"target_ratio": 8.0}, {"target_bits_per_weight": 6.0}])
def test_zeros_stay_zero(goal: dict[str, float]) -> None:
    torch.manual_seed(0)
    held = pruned()
    restored = compress(held, **goal).state_dict()
    for name, tensor in held.items():
        assert not restored[name][tensor == 0].any(), name
    assert torch.equal(restored["linear.weight_mask"], held["linear.weight_mask"])


@pytest.mark.parametrize("count", [15, 16, 255, 256])
@pytest.mark.parametrize("grouping", ["tensor", "global"])
def test_zeros_stay_zero_on_uniform_buckets(count: int, grouping: str) -> None:
    torch.manual_seed(0)
    held = pruned()
    grids = choose_grids(held, count=count, grouping=grouping)  # type: ignore[arg-type]
    restored = compress(held, grids=grids).state_dict()
    for name, tensor in held.items():
        assert not restored[name][tensor == 0].any(), name
        if name in grids:
            assert float((restored[name] - tensor).abs().max()) <= 0.51 * grids[name].step_size


@pytest.mark.parametrize("recovers", [False, True])
def test_zeros_stay_zero_where_errors_are_fed_back(recovers: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(80, 70), nn.Tanh(), nn.Linear(70, 300), nn.Tanh(), nn.Linear(300, 4))
    for module in model:
        if isinstance(module, nn.Linear):
            prune.l1_unstructured(module, "weight", 0.8)
            prune.remove(module, "weight")
    data = torch.randn(300, 80)
    reference = model(data).detach()

    def loss(output: object, _: int) -> torch.Tensor:
        assert isinstance(output, torch.Tensor)
        return (output - reference).square().mean()

    before = model.state_dict()
    restored = compress(model, target_ratio=20.0, batches=[data], training_loss=loss if recovers else None).state_dict()
    assert all(not restored[name][tensor == 0].any() for name, tensor in before.items())
    assert float((restored["0.weight"] - before["0.weight"]).abs().max()) > 0


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_what_dequantises_packed_integers_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)

    def scales(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    packed = torch.randint(-128, 127, (64, 64), dtype=torch.int8, generator=generator)
    held = {
        "awq.qweight": packed.int(),
        "awq.qzeros": packed.int(),
        "awq.scales": scales(64, 8).half(),
        "nf4.weight": packed.view(torch.uint8),
        "nf4.weight.absmax": scales(64),
        "nf4.weight.quant_map": scales(16),
        "int8.weight": packed,
        "int8.SCB": scales(64),
        "ct.weight": packed,
        "ct.weight_scale": scales(64, 1).bfloat16(),
        "fp8.weight": (packed / 8).to(torch.float8_e4m3fn),
        "fp8.weight_scale_inv": scales(8, 8),
        "norm.weight": scales(64),
        "norm.num_batches_tracked": torch.tensor(3),
        "plain.weight": scales(64, 64),
        "plain.scale": scales(64),
    }
    found = compress(held)
    restored = found.state_dict()
    changed = {name for name, tensor in held.items() if bits(restored[name]) != bits(tensor)}
    assert changed == {"fp8.weight", "norm.weight", "plain.weight", "plain.scale"}


def test_a_model_without_weights_is_kept_as_it_is() -> None:
    held = {"a": torch.arange(100), "b": torch.tensor(0.3), "c": torch.tensor([True])}
    found = compress(held)
    assert found.coverage.share == 0.0
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in held.items())


@pytest.mark.parametrize("outlier", [1.0, 50.0, 1e6, 3e38])
@pytest.mark.parametrize("goal", [{}, {"target_ratio": 2.0}])
def test_no_value_is_clipped(outlier: float, goal: dict[str, float]) -> None:
    held = {**base(), "more.weight": 0.02 * torch.randn(128, 128, generator=torch.Generator().manual_seed(2))}
    held["more.weight"][3, 7] = outlier
    restored = compress(held, **goal).state_dict()["more.weight"]
    assert abs(float(restored[3, 7]) - outlier) <= 0.05 * outlier
    rest = held["more.weight"] != outlier
    error = (restored - held["more.weight"])[rest].norm() / held["more.weight"][rest].norm()
    assert float(error) < 0.2
