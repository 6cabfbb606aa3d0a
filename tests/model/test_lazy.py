from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

import metaq
from metaq import container
from metaq.errors import ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, TiedTensor
from metaq.tensors.scales import Scales

GRID = BucketGrid(center=0.0, radius=15 / 16, count=15)
LAYOUTS = [5, 20]


def quantized(
    name: str, shape: tuple[int, ...] = (40, 12), *, grid: BucketGrid = GRID, **options: object
) -> QuantizedTensor:
    indices = np.random.default_rng(sum(map(ord, name))).integers(0, grid.count, shape)
    return QuantizedTensor(name=name, indices=indices, grid=grid, **{"dtype": Dtype.float32, **options})


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    weight = quantized("weight")
    tensors = [
        weight,
        TiedTensor(name="tied", first=weight),
        quantized("half", (30, 4, 3), dtype=Dtype.bfloat16, trellis_bits=3),
        quantized("columns", scan="columns"),
        ExactTensor(name="count", values=np.arange(10, dtype="<i8"), dtype=Dtype.int64),
        ExactTensor(name="scalar", values=np.array(2.5, dtype="<f4"), dtype=Dtype.float32),
    ]
    container.write(tmp_path / "model.metaq", tensors, chunk_bits=request.param, metadata={"net": "mine"})
    return tmp_path / "model.metaq"


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_file_is_opened_as_safetensors_are(path: Path) -> None:
    wanted = metaq.load(path)
    with metaq.open(path) as file:
        assert set(file.keys()) == wanted.keys()
        assert file.metadata == {"net": "mine"}
        for name in file.keys():  # noqa: SIM118
            assert torch.equal(file.get_tensor(name), wanted[name])
            assert torch.equal(file[name], wanted[name])
            assert file.get_slice(name).get_shape() == list(wanted[name].shape)
        for read in (file.get_tensor, file.get_slice, file.integers, lambda name: file.rows(name, 0, 1)):
            with pytest.raises(KeyError, match=r"model\.metaq: there is no tensor 'wieght'"):
                read("wieght")


INDICES = (
    slice(3, 9), slice(None), slice(25, 99), slice(2, 30, 7), slice(9, 3), 0, -1, 4, ..., None, (), (slice(5, 8), 2),
    (slice(5, 8), slice(1, 3)), (-1, 2), (..., 1), [1, 5], torch.tensor([7, 2]), np.int64(3),
)  # fmt: skip


def test_slices_are_those_of_the_tensor(path: Path) -> None:
    with metaq.open(path) as file:
        for name in ("weight", "tied", "half", "columns"):
            for index in INDICES:
                assert torch.equal(file.get_slice(name)[index], file[name][index]), (name, index)
        assert torch.equal(file.get_slice("count")[2:4], torch.tensor([2, 3]))
        assert torch.equal(file.get_slice("scalar")[...], torch.tensor(2.5))
        for index, error in ((40, IndexError), (-41, IndexError), (slice(3, 1, -1), ValueError), ("a", TypeError)):
            with pytest.raises(error):
                file.get_slice("weight")[index]


def test_files_in_memory_and_open_files(path: Path) -> None:
    wanted, raw = metaq.load(path), path.read_bytes()
    changing = bytearray(raw)
    opened = metaq.open(changing)
    changing[:] = bytes(len(raw))
    assert same(dict(opened), wanted)
    assert same(metaq.load(raw), wanted)
    assert same(metaq.load(io.BytesIO(raw)), wanted)
    with path.open("rb") as stream:
        assert same(metaq.load(stream), wanted)
        file = metaq.open(stream)
        assert torch.equal(file["weight"], wanted["weight"])
    with pytest.raises(FormatError, match=r"model\.metaq: cannot be read"):
        file["weight"]


def test_the_device_has_two_names(path: Path) -> None:
    for options in ({"device": "meta"}, {"map_location": torch.device("meta")}):
        loaded = metaq.load(path, **options)
        assert {tensor.device.type for tensor in loaded.values()} == {"meta"}
        assert loaded["tied"] is loaded["weight"]
        with metaq.open(path, **options) as file:
            assert file["weight"].device.type == "meta"
            assert file.get_slice("weight")[2:4].device.type == "meta"
            assert file.integers("weight").integers.device.type == "meta"
    assert metaq.load(path, map_location=None)["weight"].device.type == "cpu"
    for options, said in (
        ({"device": "cpu", "map_location": "cpu"}, "means the same as map_location"),
        ({"device": "gpu"}, "device: 'gpu' cannot be used here"),
        ({"map_location": lambda storage, _: storage}, "cannot be used here"),
    ):
        for read in (metaq.load, metaq.open):
            with pytest.raises(ConfigError, match=said):
                read(path, **options)


def scales(rows: int, columns: int, *, vary: bool) -> Scales:
    exponents = (7 * np.arange(columns) % 21 - 10).astype(np.int8)
    return Scales(
        rows=(5 * np.arange(rows) % 17 - 8).astype(np.int8),
        columns=exponents if vary else np.full(columns, 4, dtype=np.int8),
    )


def opened(tmp_path: Path, tensor: QuantizedTensor | ExactTensor) -> metaq.ModelFile:
    container.write(tmp_path / "one.metaq", [tensor])
    return metaq.open(tmp_path / "one.metaq")


@pytest.mark.parametrize(
    ("tensor", "lowest", "highest"),
    [
        (quantized("w"), -7, 7),
        (quantized("w", (90, 90), grid=BucketGrid(center=0.0, radius=255 / 128, count=255)), -127, 127),
        (quantized("w", dtype=Dtype.bfloat16, trellis_bits=7), -14, 14),
        (quantized("w", grid=BucketGrid(center=1.0, radius=15 / 16, count=15)), -7, 7),
        (quantized("w", grid=BucketGrid(center=0.0, radius=4.0, count=16)), -15, 15),
    ],
)
def test_integers_give_the_values_bit_for_bit_where_steps_have_few_digits(tmp_path, tensor, lowest, highest) -> None:
    file = opened(tmp_path, tensor)
    integers, scale, zero = found = file.integers("w")
    assert integers.dtype == torch.int8
    assert (int(integers.min()), int(integers.max())) == (lowest, highest)
    assert isinstance(zero, int)
    assert scale.shape == ()
    assert torch.equal(found.dequantized().to(file.dtype("w")), file["w"])


def test_integers_of_any_step_and_centre_are_as_close_as_float32_allows(tmp_path: Path) -> None:
    for grid in (
        BucketGrid(center=0.0, radius=0.7, count=101),
        BucketGrid(center=0.1, radius=3.3, count=12),
        BucketGrid(center=-31.3, radius=0.3, count=255),
    ):
        file = opened(tmp_path, quantized("w", grid=grid))
        found, wanted = file.integers("w"), file["w"]
        assert isinstance(found.zero, int) == (grid.center == 0)
        difference = float((found.dequantized() - wanted).abs().max())
        assert difference <= 2 * torch.finfo(torch.float32).eps * float(wanted.abs().max())


def test_scales_of_rows_are_a_scale_each(tmp_path: Path) -> None:
    for shape in ((40, 12), (40, 12, 2)):
        file = opened(tmp_path, quantized("w", shape, scales=scales(40, 12, vary=False)))
        found = file.integers("w")
        assert found.scale.shape == (40, *(1 for _ in shape[1:]))
        assert torch.equal(found.dequantized(), file["w"])


def test_what_has_no_integers_says_why(tmp_path: Path) -> None:
    basis = Basis(indices=np.random.default_rng(0).integers(0, 15, (12, 12)), grid=GRID)
    for tensor, said in (
        (quantized("w", grid=BucketGrid(center=0.0, radius=1.0, count=1001)), "has more levels than"),
        (quantized("w", scales=scales(40, 12, vary=True)), "has scales of its columns"),
        (quantized("w", basis=basis), "is a product with a basis"),
        (ExactTensor(name="w", values=np.ones((3, 3), dtype="<f4"), dtype=Dtype.float32), "is kept exactly"),
    ):
        with pytest.raises(ConfigError, match=rf"one\.metaq: 'w' {said}.*; take the tensor itself"):
            opened(tmp_path, tensor).integers("w")


def test_names_are_a_list(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give a list, such as \['a.weight'\]"):
        metaq.load(path, names="a.weight")
