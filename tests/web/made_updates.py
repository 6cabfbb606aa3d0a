"""Updates of every kind, and damaged ones, for the decoders that are compared with Python's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from made_files import varint

from metaq import container
from metaq.coding.header_bytes import decode_header_bytes, encode_header_bytes
from metaq.coding.varint import encode_varint
from metaq.container.carried import is_carried
from metaq.container.contents import UpdateFacts
from metaq.container.updates import Against, added, identity
from metaq.quantize.allocation import Target, allocate
from metaq.quantize.rdo import Importance
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor, stored, values_of
from metaq.tensors.scales import Scales

CODERS = ("small", "fast")
QUANTIZABLE = [dtype for dtype in Dtype if dtype.is_quantizable]
SHAPES = ((7,), (1, 9), (6, 8), (8, 3, 2))
RELATIONS = ("alone", "given", "added")
PREAMBLE_BYTES = 17
TENSORS_PER_FILE = 24

Array = np.ndarray[Any, np.dtype[np.generic]]


@dataclass(kw_only=True)
class Case:
    """A base, an update of it, and the tensors of what that gives, by name."""

    base: dict[str, ExactTensor]
    update: bytes
    result: dict[str, ExactTensor]
    metadata: dict[str, str | int] = field(default_factory=dict)

    @cached_property
    def base_file(self) -> bytes:
        return container.encode(list(self.base.values()), metadata=self.metadata, coder="fast")


def case(
    base: Mapping[str, ExactTensor],
    tensors: Sequence[Tensor],
    sums: Sequence[str] = (),
    *,
    alone: Sequence[str] = (),
    removed: Sequence[str] = (),
    coder: str = "small",
    chunk_bits: int = 20,
    metadata: Mapping[str, str | int] | None = None,
    base_metadata: Mapping[str, str | int] | None = None,
) -> Case:
    """An update by `tensors`: those of `sums` are added to the base's, others take the place of them, but for new ones
    and those `alone`; see :func:`metaq.container.encode`.
    """
    own, others = dict(metadata or {}), dict(base_metadata or {})
    against = {
        tensor.name: Against(elements=base[tensor.name].values, is_sum=tensor.name in sums)
        for tensor in tensors
        if tensor.name in base and tensor.name not in alone and not isinstance(tensor, TiedTensor)
    }
    told = {tensor.name: restored(tensor, against) for tensor in tensors}
    result = {name: tensor for name, tensor in base.items() if name not in removed} | told
    counted = [name for name in sorted(base, key=str.encode) if not is_carried(name, others)]
    facts = UpdateFacts(
        base=identity(base[name] for name in counted),
        result=identity(
            tensor for name, tensor in result.items() if not (is_carried(name, own) or is_carried(name, others))
        )[-4:],
        removed=tuple(number for number, name in enumerate(counted) if name in removed),
    )
    data = container.encode(tensors, metadata=own, coder=coder, chunk_bits=chunk_bits, update=facts, against=against)
    found = container.decode(data, base=base)
    assert [tensor.name for tensor in found.tensors] == sorted(told, key=str.encode)
    for tensor in found.tensors:
        assert tensor.restore().tobytes() == told[tensor.name].values.tobytes(), tensor.name
    return Case(base=dict(base), update=data, result=result, metadata=others)


def restored(tensor: Tensor, against: Mapping[str, Against]) -> ExactTensor:
    """What a tensor of an update is in the result."""
    holder = tensor.first if isinstance(tensor, TiedTensor) else tensor
    if isinstance(holder, QuantizedTensor) and holder.name in against and against[holder.name].is_sum:
        return replace(added(holder, against[holder.name].elements), name=tensor.name)
    return ExactTensor(name=tensor.name, values=holder.restore(), dtype=holder.dtype)


def base_tensor(generator: np.random.Generator, name: str, dtype: Dtype, shape: tuple[int, ...]) -> ExactTensor:
    """Weights of a base with empty rows; now and then some that are zero below, infinite, large or no numbers."""
    values = generator.normal(0, 1, shape)
    if len(shape) > 1:
        values[generator.random(shape[0]) < 0.3] = 0
    values[generator.random(shape) < 0.1] = -0.0
    if generator.random() < 0.2:
        largest = {"float16": 65504.0, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}.get(dtype.name, 3e38)
        values[generator.random(shape) < 0.2] = generator.choice([-1, 1]) * largest
    elements = stored(values, dtype)
    if generator.random() < 0.2:
        wild = {"bfloat16": [0x7F80, 0xFF80, 0x7FC1, 0xFFFF], "float8_e4m3fn": [0x7F, 0xFF]}
        wild["float8_e5m2"] = [0x7C, 0xFC, 0x7E, 0xFF]
        patterns = np.array(wild.get(dtype.name, [np.inf, -np.inf, np.nan]), dtype.storage)
        elements = np.where(generator.random(shape) < 0.2, generator.choice(patterns, shape), elements)
    return ExactTensor(name=name, values=elements.astype(dtype.storage), dtype=dtype)


def quantized_near(
    generator: np.random.Generator, base: ExactTensor, relation: str, scan: str, trellis_bits: int, *, has_scales: bool
) -> QuantizedTensor:
    """A tensor whose values are not far from those of the base, or small ones that are to be added."""
    shape = base.shape
    count = int(generator.choice([3, 5, 15, 63, 257] if trellis_bits else [2, 4, 15, 64, 1025]))
    center = 0.0 if relation == "added" else float(generator.choice([0.0, 0.1, -0.7]))
    grid = BucketGrid(center=center, radius=float(generator.choice([0.3, 1.5, 2.0])), count=count)
    scales = None
    if has_scales and len(shape) > 1:
        rows, columns = (generator.integers(-6, 7, size).astype(np.int8) for size in shape[:2])
        scales = Scales(rows=rows, columns=columns)
    near = np.nan_to_num(values_of(base.values, base.dtype), nan=0.0, posinf=1.0, neginf=-1.0)
    kind = generator.random()
    steps = np.round(generator.normal(0, 0.7, shape))
    if kind < 0.2:
        indices = generator.integers(0, count, shape).astype(np.float64)
    elif relation == "added":
        indices = (count - 1) // 2 + np.where(near == 0, 0, steps)
    else:
        indices = np.clip((near - center) * count / grid.radius, -(2**20), 2**20) // 2 + count // 2 + steps
    return QuantizedTensor(
        name=base.name,
        indices=np.clip(indices, 0, count - 1).astype(np.int64),
        grid=grid,
        dtype=base.dtype,
        scan="columns" if scan == "columns" else "rows",
        trellis_bits=trellis_bits,
        scales=scales,
    )


def quantized_cases(coder: str) -> Iterator[Case]:
    """Every relation, type, scan and shape, with scales and without, with a trellis and without, in files of some."""
    generator = np.random.default_rng(CODERS.index(coder))
    kinds = list(product(RELATIONS, QUANTIZABLE, ("rows", "columns"), (False, True), (False, True), SHAPES))
    order = generator.permutation(len(kinds))
    for start in range(0, len(order), TENSORS_PER_FILE):
        base: dict[str, ExactTensor] = {}
        tensors = []
        relations: dict[str, list[str]] = {relation: [] for relation in RELATIONS}
        for number in order[start : start + TENSORS_PER_FILE]:
            relation, dtype, scan, has_scales, has_trellis, shape = kinds[number]
            name = f"layer.{number}.weight"
            base[name] = base_tensor(generator, name, dtype, shape)
            trellis_bits = int(generator.integers(2, 9)) if has_trellis else 0
            tensors.append(quantized_near(generator, base[name], relation, scan, trellis_bits, has_scales=has_scales))
            relations[relation].append(name)
        chunk_bits = int(generator.choice([4, 6, 9, 20, 20, 20]))
        yield case(base, tensors, relations["added"], alone=relations["alone"], coder=coder, chunk_bits=chunk_bits)


def exact_pair(generator: np.random.Generator, name: str, dtype: Dtype, shape: tuple[int, ...]) -> list[ExactTensor]:
    """Elements of any bits, and others of which most are equal or near."""
    count = int(np.prod(shape))
    kind = np.dtype(f"<u{min(dtype.itemsize, 8)}")
    before = np.frombuffer(generator.bytes(count * dtype.itemsize), dtype=kind).copy()
    if dtype is Dtype.bool:
        before &= 1
    steps = np.round(generator.normal(0, 3, before.size)).astype(np.int64) * (generator.random(before.size) < 0.5)
    after = before ^ (steps & 1).astype(kind) if dtype is Dtype.bool else before + steps.astype(kind)
    wild = generator.random(before.size) < 0.05
    if dtype is not Dtype.bool:
        after[wild] = np.frombuffer(generator.bytes(before.nbytes), dtype=kind)[wild]
    return [
        ExactTensor(name=name, values=each.view(dtype.storage).reshape(shape), dtype=dtype) for each in (before, after)
    ]


def some_case() -> Case:
    """A small update of many kinds."""
    generator = np.random.default_rng(5)
    base = {
        name: base_tensor(generator, name, Dtype.float32, (12, 10))
        for name in ("a", "b", "é", "\U0001f600", "\uffee", "z")
    }
    given = quantized_near(generator, base["é"], "given", "rows", 3, has_scales=True)
    other = ExactTensor(name="a", values=np.arange(4, dtype="<i8"), dtype=Dtype.int64)
    shifted = values_of(base["z"].values, Dtype.float32) + np.eye(12, 10)
    again = ExactTensor(name="z", values=stored(shifted, Dtype.float32), dtype=Dtype.float32)
    return case(
        base,
        [given, other, TiedTensor(name="tied", first=given), again],
        alone=["a"],
        removed=["b", "\U0001f600"],
        metadata={"step": 7},
    )


def with_facts(data: bytes, *, base: bytes | None = None, result: bytes | None = None) -> bytes:
    """An update that says another base or result, with the right checksum; of one chunk at most, or of several."""
    head = data[:5] + (base or data[5:13]) + (result or data[13:PREAMBLE_BYTES])
    raw, payloads = parts_of(data)
    return joined(head, raw, payloads)


def with_header(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An update with another header, and right checksums."""
    raw, payloads = parts_of(data)
    return joined(data[:PREAMBLE_BYTES], change(raw), payloads)


def with_payloads(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An update with other chunks of the same sizes, and right checksums."""
    raw, payloads = parts_of(data)
    return joined(data[:PREAMBLE_BYTES], raw, [change(payload) for payload in payloads])


def parts_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """Header and payloads of an update."""
    size, at = varint(data, PREAMBLE_BYTES)
    raw_size, begin = varint(data, at)
    chunks = container.describe(data).chunks
    payloads = [data[each.offset_bytes : each.offset_bytes + each.size_bytes] for each in chunks]
    return decode_header_bytes(data[begin : at + size], raw_size), payloads


def joined(head: bytes, raw: bytes, payloads: Sequence[bytes]) -> bytes:
    stored_header = encode_varint(len(raw)) + encode_header_bytes(raw)
    data = head + encode_varint(len(stored_header)) + stored_header
    if len(payloads) > 1:
        data += b"".join(struct.pack("<I", zlib.crc32(payload)) for payload in payloads)
        data += struct.pack("<I", zlib.crc32(data))
    data += b"".join(payloads)
    return data + struct.pack("<I", zlib.crc32(data))


def exact_cases(coder: str) -> Iterator[Case]:
    """Tensors of every type of which most elements are as in the base or near it, in chunks of several sizes."""
    generator = np.random.default_rng(3)
    for chunk_bits, shapes in ((4, SHAPES), (20, SHAPES), (20, ((40, 30), (700,)))):
        pairs = [exact_pair(generator, f"{dtype.name}.{shape}", dtype, shape) for dtype in Dtype for shape in shapes]
        base = {before.name: before for before, _ in pairs}
        yield case(base, [after for _, after in pairs], coder=coder, chunk_bits=chunk_bits)


def combined_cases(coder: str) -> Iterator[Case]:
    """Combinations of a basis that are added to the base."""
    generator = np.random.default_rng(4)
    basis = Basis(indices=generator.integers(0, 15, (6, 6)), grid=BucketGrid(center=0.0, radius=0.5, count=15))
    base = {
        name: base_tensor(generator, name, dtype, (9, 6)) for name, dtype in zip("abcdef", QUANTIZABLE, strict=True)
    }
    tensors = [
        replace(
            quantized_near(generator, tensor, "added", "rows", 2, has_scales=number % 2 == 0),
            grid=BucketGrid(center=0.0, radius=0.25, count=15),
            indices=generator.integers(0, 15, (9, 6)),
            basis=basis,
        )
        for number, tensor in enumerate(base.values())
    ]
    for bits in (4, 20):
        yield case(base, tensors, list(base), coder=coder, chunk_bits=bits)


def low_rank_cases() -> list[Case]:
    """A change of rank 2, as :func:`metaq.quantize.allocation.allocate` tells it."""
    generator = np.random.default_rng(6)
    base = {"w": ExactTensor(name="w", values=generator.normal(size=(80, 64)).astype("<f4"), dtype=Dtype.float32)}
    change = generator.normal(size=(80, 2)) @ generator.normal(size=(2, 64))
    importance = Importance.even((80, 64), 2.0)
    target = Target(name="w", values=change, dtype=Dtype.float32, importance=importance)
    tensor = allocate({"w": target}, multiplier=1e-3)["w"].tensor
    assert tensor.basis is not None
    assert int(tensor.basis.values().any(axis=1).sum()) == 2
    return [case(base, [tensor], ["w"], coder=coder) for coder in CODERS]
