"""Makes the golden files: ``python tests/golden/make.py FOLDER``. Only missing files are written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from metaq import container
from metaq.container.contents import Metadata
from metaq.grid import BucketGrid
from metaq.tensors import Dtype, ExactTensor, QuantizedTensor, Tensor

VERSION = "1.0"
CODERS = ("constant", "packed", "huffman", "range", "rans", "gzip", "zstd", "lzma", "adaptive")
METADATA: Metadata = {"net": "golden", "seed": 1, "accuracy": 98.5}


def tensors(coder: str) -> list[Tensor]:
    """Tensors of the golden file for `coder`, from a fixed generator that is not numpy's."""
    state = 1
    draws = []
    for _ in range(600):
        state = (state * 1_103_515_245 + 12_345) % (1 << 31)
        draws.append(state >> 16)
    draw = np.array(draws, dtype=np.int64)
    indices = np.where(draw % 8 == 0, 4 + draw // 8 % 7, 7)
    if coder == "constant":
        indices = np.full(600, 7)
    symmetric = BucketGrid(center=0.0, radius=0.3, count=15)
    shifted = BucketGrid(center=0.125, radius=2.5, count=31)
    return [
        QuantizedTensor(name="conv.weight", indices=indices.reshape(10, 4, 3, 5), grid=symmetric, dtype=Dtype.float32),
        QuantizedTensor(name="conv.bias", indices=indices[:10], grid=shifted, dtype=Dtype.bfloat16),
        ExactTensor(name="norm.running_mean", values=(draw[:6] / 1024).astype("<f2"), dtype=Dtype.float16),
        ExactTensor(name="norm.num_batches_tracked", values=np.array(1234, dtype="<i8"), dtype=Dtype.int64),
    ]


def golden_name(coder: str) -> str:
    """Name of the golden file for `coder`."""
    return f"v{VERSION}-{coder}.metaq"


def main(folder: Path) -> None:
    """Write every golden file that is not there yet."""
    for coder in CODERS:
        path = folder / golden_name(coder)
        if not path.exists():
            container.write(path, tensors(coder), metadata=METADATA, coder=coder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
