"""Makes the golden files: ``python tests/golden/make.py FOLDER``. Only missing files are written.

``v1-whole.metaq`` is not made any more: it holds the tensors of ``v1-fast.metaq``, those kept exactly as chunks of
their own, as they were written before there were planes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from metaq import container
from metaq.container.coders import CODERS
from metaq.container.contents import Metadata
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor
from metaq.tensors.scales import Scales

METADATA: Metadata = {"net": "golden", "seed": 1, "accuracy": 98.5}
CHUNK_BITS = 8
"""Small, so that tensors are cut and every file has several chunks."""

CHUNK_BITS_OF = {"planes": 14}
"""Large enough that rows and columns are looked at."""


def others(coder: str) -> dict[str, str]:
    """A tensor whose coder is not that of the file."""
    return {"head.weight": "small" if coder == "fast" else "fast"}


def draws(number: int) -> np.ndarray:
    """Numbers from 0 to 32767 from a fixed generator that is not numpy's."""
    state = 1
    drawn = []
    for _ in range(number):
        state = (state * 1_103_515_245 + 12_345) % (1 << 31)
        drawn.append(state >> 16)
    return np.array(drawn, dtype=np.int64)


def tensors(coder: str) -> list[Tensor]:
    """Tensors of the golden file for `coder`: both scans, a trellis, every way to keep a tensor exactly."""
    draw = draws(600)
    indices = np.where(draw % 8 == 0, 4 + draw // 8 % 7, 7)
    if coder == "constant":
        indices = np.full(600, 7)
    symmetric = BucketGrid(center=0.0, radius=0.3, count=15)
    shifted = BucketGrid(center=0.125, radius=2.5, count=31)
    stepped = BucketGrid(center=0.0, radius=0.0625 * 15 / 2, count=15)
    return [
        QuantizedTensor(name="conv.weight", indices=indices.reshape(10, 4, 3, 5), grid=symmetric, dtype=Dtype.float32),
        QuantizedTensor(name="conv.bias", indices=indices[:10], grid=shifted, dtype=Dtype.bfloat16),
        QuantizedTensor(
            name="fc.weight", indices=indices.reshape(20, 30), grid=stepped, dtype=Dtype.float32, scan="columns"
        ),
        QuantizedTensor(
            name="fd.weight",
            indices=indices[:360].reshape(12, 30),
            grid=stepped,
            dtype=Dtype.float16,
            scan="columns",
            trellis_bits=3,
        ),
        QuantizedTensor(
            name="fe.weight", indices=indices.reshape(30, 20), grid=symmetric, dtype=Dtype.float64, trellis_bits=7
        ),
        QuantizedTensor(name="head.weight", indices=indices[:24].reshape(4, 6), grid=shifted, dtype=Dtype.float32),
        ExactTensor(name="norm.running_mean", values=(draw[:6] / 1024).astype("<f2"), dtype=Dtype.float16),
        ExactTensor(name="norm.running_var", values=np.ones(100, dtype="<f4"), dtype=Dtype.float32),
        ExactTensor(name="norm.num_batches_tracked", values=np.array(1234, dtype="<i8"), dtype=Dtype.int64),
        ExactTensor(name="table", values=draw[:50].astype("<u2"), dtype=Dtype.uint16),
        ExactTensor(name="text", values=np.arange(80, dtype="u1"), dtype=Dtype.uint8),
        ExactTensor(name="zeros", values=np.zeros(800, dtype="u1"), dtype=Dtype.uint8),
    ]


def tied_tensors() -> list[Tensor]:
    """Tensors of the golden file with ties: ties to every kind of tensor, and grids that go on past them."""
    draw = draws(600)
    indices = np.where(draw % 8 == 0, 4 + draw // 8 % 7, 7)
    symmetric = BucketGrid(center=0.0, radius=0.3, count=15)
    shifted = BucketGrid(center=0.125, radius=2.5, count=31)
    basis = Basis(indices=draw[:100].reshape(10, 10) % 31, grid=BucketGrid(center=0.0, radius=1.0, count=31))
    embedding = QuantizedTensor(name="b.weight", indices=indices.reshape(60, 10), grid=symmetric, dtype=Dtype.float32)
    rotated = QuantizedTensor(
        name="e.weight", indices=indices.reshape(60, 10), grid=symmetric, dtype=Dtype.float16, basis=basis
    )
    small = ExactTensor(name="g.bias", values=(draw[:6] / 1024).astype("<f8"), dtype=Dtype.float64)
    large = ExactTensor(name="table", values=draw[:50].astype("<i4"), dtype=Dtype.int32)
    return [
        embedding,
        TiedTensor(name="c.weight", first=embedding),
        QuantizedTensor(name="d.weight", indices=indices[:40], grid=symmetric, dtype=Dtype.float32),
        rotated,
        TiedTensor(name="f.weight", first=rotated),
        QuantizedTensor(name="f.bias", indices=indices[:10], grid=shifted, dtype=Dtype.bfloat16),
        small,
        TiedTensor(name="h.bias", first=small),
        TiedTensor(name="h.weight", first=embedding),
        large,
        TiedTensor(name="table too", first=large),
    ]


def float8_tensors() -> list[Tensor]:
    """Tensors of the golden file with quantised types of eight bits: plain, with a trellis, and combined of a basis."""
    draw = draws(600)
    indices = np.where(draw % 8 == 0, 4 + draw // 8 % 7, 7)
    grid = BucketGrid(center=0.0, radius=30.0, count=15)
    basis = Basis(indices=draw[:100].reshape(10, 10) % 31, grid=BucketGrid(center=0.0, radius=1.0, count=31))
    matrix = indices.reshape(60, 10)
    return [
        QuantizedTensor(name="a.weight", indices=matrix, grid=grid, dtype=Dtype.float8_e4m3fn),
        QuantizedTensor(name="b.weight", indices=matrix, grid=grid, dtype=Dtype.float8_e5m2, trellis_bits=3),
        QuantizedTensor(name="c.weight", indices=matrix, grid=grid, dtype=Dtype.float8_e4m3fn, basis=basis),
        ExactTensor(name="d.weight", values=(draw[:90] % 120).astype("u1"), dtype=Dtype.float8_e5m2),
    ]


def scaled_tensors() -> list[Tensor]:
    """Tensors of the golden file with scales of rows and columns: both scans, with and without a trellis."""
    draw = draws(600)
    indices = np.where(draw % 8 == 0, 4 + draw // 8 % 7, 7)
    symmetric = BucketGrid(center=0.0, radius=0.3, count=15)
    shifted = BucketGrid(center=0.125, radius=2.5, count=31)
    exponents = (draw % 41 - 20).astype(np.int8)
    wide = Scales(rows=exponents[:20], columns=exponents[-30:])
    deep = Scales(rows=exponents[:10], columns=exponents[-4:])
    matrix, kernels = indices.reshape(20, 30), indices.reshape(10, 4, 3, 5)
    return [
        QuantizedTensor(name="a.weight", indices=matrix, grid=symmetric, dtype=Dtype.float32, scales=wide),
        QuantizedTensor(
            name="b.weight", indices=matrix, grid=symmetric, dtype=Dtype.float64, trellis_bits=7, scales=wide
        ),
        QuantizedTensor(name="c.weight", indices=kernels, grid=shifted, dtype=Dtype.bfloat16, scales=deep),
        QuantizedTensor(
            name="d.weight",
            indices=kernels,
            grid=symmetric,
            dtype=Dtype.float16,
            scan="columns",
            trellis_bits=3,
            scales=deep,
        ),
    ]


def based_tensors() -> list[QuantizedTensor]:
    """Tensors with bases, with scales too, and without."""
    draw = draws(600)
    grid, finer = BucketGrid(center=0.0, radius=0.3, count=15), BucketGrid(center=0.0, radius=0.8, count=101)
    matrix = np.where(draw % 3 == 0, draw // 8 % 15, 7)[:360].reshape(30, 12)
    basis, other = (
        Basis(indices=(draw[:144] % 101).reshape(12, 12), grid=finer),
        Basis(indices=(draw[-144:] // 3 % 15).reshape(12, 12), grid=grid),
    )
    exponents = (draw % 41 - 20).astype(np.int8)
    scales = Scales(rows=exponents[:30], columns=exponents[-12:])
    plain = QuantizedTensor(name="a.weight", indices=matrix, grid=grid, dtype=Dtype.float32, basis=basis)
    return [
        plain,
        replace(plain, name="b.weight", scales=scales),
        replace(plain, name="c.weight", basis=None, scales=scales),
        replace(plain, name="d.weight", basis=other, scales=scales, trellis_bits=7, dtype=Dtype.float16),
        replace(plain, name="e.weight", basis=other, trellis_bits=3, dtype=Dtype.bfloat16),
    ]


def exact_tensors() -> list[Tensor]:
    """Tensors of the golden file in planes: every form, by rows and by columns, whole and cut."""
    draw = draws(12_000)
    # Sums of draws, halved a few times: many exponents, and signs.
    numbers = ((draw[:8192] + draw[1:8193] + draw[2:8194]) % 65521 - 32760).astype("<f4")
    numbers = np.ldexp(numbers, -(draw[:8192] % 5) - 16).astype("<f4")
    matrix = numbers.reshape(128, 64)
    columns = (draw[:8192] % 3 + 40 * (np.arange(8192) % 64 % 5)).astype("u1").reshape(128, 64)
    halves = (draw // 7 % 3 + draw[::-1] // 7 % 5 + 4).reshape(8, 1500)
    packed = (halves << (4 * np.arange(8))[:, None]).sum(axis=0).astype("<u4").view("<i4").reshape(30, 50)
    narrow = (matrix[:40].view("<u4") & 0xFFFF0000).view("<f4")
    return [
        ExactTensor(name="a.float32", values=matrix[:60], dtype=Dtype.float32),
        ExactTensor(name="b.bfloat16 inside", values=narrow, dtype=Dtype.float32),
        ExactTensor(name="c.float16", values=matrix[:30].astype("<f2"), dtype=Dtype.float16),
        ExactTensor(name="d.bfloat16", values=(matrix[:20].view("<u4") >> 16).astype("<u2"), dtype=Dtype.bfloat16),
        ExactTensor(name="e.float64", values=matrix[:10].astype("<f8") / 3 * draw[:64], dtype=Dtype.float64),
        ExactTensor(name="f.complex64", values=(matrix[:6] + 1j * matrix[6:12]).astype("<c8"), dtype=Dtype.complex64),
        ExactTensor(name="g.grid", values=(draw[:400] % 7 / 3).astype("<f4").reshape(20, 20), dtype=Dtype.float32),
        ExactTensor(name="h.columns", values=columns, dtype=Dtype.uint8),
        ExactTensor(name="i.int8", values=(draw[:900] % 5 - draw[3:903] % 6).astype("i1"), dtype=Dtype.int8),
        ExactTensor(name="j.halves", values=packed, dtype=Dtype.int32),
        ExactTensor(name="k.bool", values=draw[:300] % 3 == 0, dtype=Dtype.bool),
        ExactTensor(name="l.repeated", values=np.tile(draw[:90], 30).astype("<u2"), dtype=Dtype.uint16),
        ExactTensor(
            name="m.noise", values=(draw[:60] % 256 * 256 + draw[60:120] % 256).astype("<u2"), dtype=Dtype.uint16
        ),
        ExactTensor(name="n.cut", values=np.cumsum(draw[:9000] % 3).astype("<i8"), dtype=Dtype.int64),
    ]


MORE = {
    "tied": tied_tensors,
    "float8": float8_tensors,
    "scales": scaled_tensors,
    "basis": based_tensors,
    "planes": exact_tensors,
}
"""What other golden files hold, by the second part of their names."""


def golden_name(what: str) -> str:
    """Name of the golden file for a coder, or one of ``MORE``."""
    return f"v1-{what}.metaq"


def encoded(coder: str) -> bytes:
    """The golden file for `coder` as it is written today."""
    return container.encode(tensors(coder), metadata=METADATA, coder=coder, coders=others(coder), chunk_bits=CHUNK_BITS)


def encoded_more(what: str) -> bytes:
    """One of the other golden files as it is written today."""
    chunk_bits = CHUNK_BITS_OF.get(what, CHUNK_BITS)
    return container.encode(MORE[what](), metadata=METADATA, coder="small", chunk_bits=chunk_bits)


def main(folder: Path) -> None:
    """Write every golden file that is not there yet."""
    for names, made in ((CODERS, encoded), (MORE, encoded_more)):
        for name in names:
            path = folder / golden_name(name)
            if not path.exists():
                path.write_bytes(made(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
