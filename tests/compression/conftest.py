from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

INDEX = "model.safetensors.index.json"


def correlated(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Rows that a basis of their own makes cheaper."""
    mix = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -2, columns)[:, None]
    return 0.05 * torch.randn(rows, columns, generator=generator) @ mix


def tensors() -> dict[str, torch.Tensor]:
    """A little of everything: matrices and a list of rows that are quantised in blocks here, and small tensors."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 0.05) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    return {
        "embed.weight": correlated(1600, 64, generator),
        "embed.position_ids": torch.arange(40)[None],
        "layer.0.bias": normal(96),
        "layer.0.norm.weight": 1 + normal(96),
        "layer.0.weight": normal(96, 64),
        "layer.1.weight": normal(80, 256, scale=0.02),
        "layer.2.weight": normal(7000, 3),
        "layer.3.weight": normal(8, 4, 3, 3),
        "norm.running_mean": normal(16),
        "nothing.weight": torch.zeros(0, 4),
        "scalar": torch.tensor(0.5),
    }


def write_shards(folder: Path, shards: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Shards with their index, as save_pretrained makes them."""
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    for shard, held in shards.items():
        save_file(dict(held), folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


LARGE = 1 << 13
"""Tensors with more elements are quantised in blocks, so that tests need no large ones."""

CHUNK_BITS = 14


@pytest.fixture(autouse=True, scope="module")
def small_is_large() -> Iterator[None]:
    """Blocks and chunks that small tensors fill."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("metaq.compression.quantizing.SEARCHED_ELEMENTS", LARGE)
        patched.setattr("metaq.compression.survey.MAX_TRELLIS_ROW", 1 << 12)
        patched.setattr("metaq.compression.survey.BLOCK", 1 << 12)
        patched.setattr("metaq.compression.coding.CHUNK_BITS", CHUNK_BITS)
        patched.setattr("metaq.compression.survey.TOTAL", 1 << 14)
        yield


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders") / "model"
    folder.mkdir()
    held = tensors()
    names = sorted(held)
    shards = {f"model-0000{n + 1}-of-00003.safetensors": {name: held[name] for name in names[n::3]} for n in range(3)}
    write_shards(folder, shards)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Nothing"], "text": "x" * 300}))
    (folder / "short.txt").write_text("short")
    (folder / "empty.txt").write_text("")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    (folder / ".gitattributes").write_text("*")
    return folder


@pytest.fixture
def folder(made_folder: Path, tmp_path: Path) -> Path:
    """A sharded model folder that a test may damage."""
    return Path(shutil.copytree(made_folder, tmp_path / "model"))
