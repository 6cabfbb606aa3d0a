"""Tensors of PyTorch and arrays of numpy in pickles: where their elements lie, and how they are strided."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

from metaq.errors import FormatError
from metaq.model.formats.unpickling import Global, Placeholder, SkippedBytes
from metaq.tensors.quantized import Dtype

MOST_ELEMENTS = 1 << 62
MOST_DIMENSIONS = 32
"""As numpy before 2 has it."""

STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "UntypedStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
    "QUInt4x2Storage": ("quint4x2", 1),
    "QUInt2x4Storage": ("quint2x4", 1),
}
"""Types of the elements of storages, and their sizes in bytes."""

NUMPY_DTYPES = {
    dtype.storage.str[1:]: dtype
    for dtype in Dtype
    if dtype not in (Dtype.bfloat16, Dtype.float8_e4m3fn, Dtype.float8_e5m2)
}


ITEMSIZES = {dtype: dtype.itemsize for dtype in Dtype}
"""Once, for files with a hundred thousand tensors."""

ARRAY = Global("numpy", "ndarray")


@dataclass(eq=False)
class Storage:
    """Memory that tensors share: bytes of the file from `start` on, or else `content`."""

    size_bytes: int
    start: int | None = None
    content: bytes | None = None


@dataclass(frozen=True, eq=False)
class StorageView:
    """A storage from byte `start` on, seen as elements of one type, by its name in torch."""

    storage: Storage
    label: str
    start: int = 0


@dataclass(frozen=True, eq=False)
class StridedTensor:
    """A tensor that is not read: its first element is at byte `start` of a storage, its strides are in elements.

    Views may be marked as conjugate or negative: then the storage has other numbers.
    """

    storage: Storage
    start: int
    dtype: Dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    is_swapped: bool = False
    is_conjugate: bool = False
    is_negative: bool = False

    def __post_init__(self) -> None:
        numbers = (self.start, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(0 <= number <= MOST_ELEMENTS for number in numbers):
            raise ValueError("no shape")
        if prod(max(length, 1) for length in self.shape) > MOST_ELEMENTS:
            raise ValueError("no shape")

    @cached_property
    def size_bytes(self) -> int:
        """Size of its elements."""
        return prod(self.shape) * ITEMSIZES[self.dtype]

    @cached_property
    def stop(self) -> int:
        """Byte of the storage after the last element."""
        if not self.size_bytes:
            return self.start
        last = sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))
        return self.start + (last + 1) * ITEMSIZES[self.dtype]

    @cached_property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other in C order."""
        expected = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length > 1 and stride != expected:
                return not self.size_bytes
            expected *= length
        return True

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Its dimensions, that of the widest stride first."""
        return tuple(sorted(range(len(self.shape)), key=lambda dimension: -self.strides[dimension]))

    @cached_property
    def reordered(self) -> "StridedTensor":
        """The same elements with the dimensions in this order, as of a tensor that was transposed or is channels last.

        They lie one after the other if those of this tensor are the whole of what is between its first and its last.
        """
        shape, strides = (tuple(numbers[each] for each in self.order) for numbers in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)


MARKS = {"conj", "neg"}
"""Of views that are conjugate or negative."""


@dataclass(frozen=True, eq=False)
class OtherTensor:
    """A tensor that no ``.metaq`` file can hold: what it is, and what to do, in words."""

    label: str
    advice: str


AnyTensor = StridedTensor | OtherTensor


def unstorable(path: Path, name: str, tensor: OtherTensor) -> FormatError:
    """The error of a weight of a file that is such a tensor."""
    return FormatError(f"{path}: {name!r} is {tensor.label}, which cannot be stored; {tensor.advice}.")


class Array(Placeholder):
    """An array of numpy, whose state comes after it."""

    @cached_property
    def tensor(self) -> StridedTensor | None:
        """The array as a tensor, unless it has other elements than numbers, or its state is none of an array."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, is_fortran, content = self.state
        try:
            return _array(content, dtype, shape, is_fortran)
        except (TypeError, ValueError):
            return None


def tensor_of(value: object) -> AnyTensor | None:
    """The tensor that a value is, if it is one."""
    if isinstance(value, StridedTensor | OtherTensor):
        return value
    return value.tensor if isinstance(value, Array) else None


def storage_view(storage: Storage, kind: object, start: int = 0) -> StorageView:
    """A storage as one of a class, such as ``torch.FloatStorage``; raises :class:`ValueError` for what is no class."""
    return StorageView(storage, _storage_type(kind)[0], start)


def itemsize_of(kind: object) -> int:
    """Bytes of an element of a class of storages; raises :class:`ValueError` for what is no class."""
    return _storage_type(kind)[1]


def _storage_type(kind: object) -> tuple[str, int]:
    if not isinstance(kind, Global) or kind.name not in STORAGES:
        raise ValueError("no type")
    return STORAGES[kind.name]


def strided(
    view: object, offset: object, shape: object, strides: object, label: object = None, marks: object = None
) -> AnyTensor:
    """A tensor with the elements of a view from `offset` on, in a type other than that of the view if one is given."""
    if not isinstance(view, StorageView) or not isinstance(offset, int):
        raise TypeError("no storage")
    name = label.name if isinstance(label, Global) else view.label
    marked = {mark for mark, is_set in marks.items() if is_set} if isinstance(marks, dict) else set()
    if name not in Dtype.__members__:
        return OtherTensor(f"a tensor of {name}", "convert it, or give its bits: view(torch.uint8)")
    dtype = Dtype[name]
    if marked - MARKS or (marked and dtype.storage.kind not in "fc"):
        return OtherTensor("a view with marks", "give its resolve_conj().resolve_neg()")
    start = view.start + offset * ITEMSIZES[dtype]
    return StridedTensor(
        view.storage,
        start,
        dtype,
        integers(shape),
        integers(strides),
        is_conjugate="conj" in marked,
        is_negative="neg" in marked,
    )


def integers(values: object) -> tuple[int, ...]:
    """A shape or strides; raises :class:`TypeError` for what is none."""
    if not isinstance(values, tuple | list) or len(values) > MOST_DIMENSIONS:
        raise TypeError("no shape")
    if not all(type(value) is int for value in values):
        raise TypeError("no shape")
    return tuple(values)


def _array(content: object, dtype: object, shape: object, is_fortran: object) -> StridedTensor | None:
    """An array with these bytes for its elements, if they are numbers."""
    if not isinstance(dtype, Placeholder) or not isinstance(content, bytes | SkippedBytes):
        return None
    code = dtype.arguments[0] if dtype.arguments else None
    if not isinstance(code, str) or code not in NUMPY_DTYPES:
        return None
    if isinstance(content, bytes):
        storage = Storage(len(content), content=content)
    else:
        storage = Storage(content.size, start=content.start)
    lengths = integers(shape)
    inner = [lengths[:i] if is_fortran else lengths[i + 1 :] for i in range(len(lengths))]
    is_swapped = isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",)
    return StridedTensor(storage, 0, NUMPY_DTYPES[code], lengths, tuple(map(prod, inner)), is_swapped)


def _layout(name: object) -> Global:
    if not isinstance(name, str):
        raise TypeError("no layout")
    return Global("torch", name.removeprefix("torch."))


def _sparse(layout: object, *_: object) -> OtherTensor:
    name = layout.name if isinstance(layout, Global) else "sparse"
    return OtherTensor(f"a tensor of the layout {name}", "give its to_dense()")


def _quantised(view: object, *_: object) -> OtherTensor:
    label = view.label if isinstance(view, StorageView) else "integers"
    return OtherTensor(f"a quantised tensor ({label})", "give its dequantize()")


def _subclass(kind: object, *_: object) -> OtherTensor:
    name = kind.name if isinstance(kind, Global) else "no class"
    return OtherTensor(f"a tensor of the class {name}", "give a plain tensor")


def _of_type(function: object, kind: object, arguments: object, *_: object) -> object:
    builder = BUILDERS.get(str(function)) if isinstance(function, Global) else None
    if builder is None or builder is _of_type or not isinstance(arguments, tuple):
        return _subclass(kind)
    return builder(*arguments)


def _first(value: object, *_: object) -> object:
    found = tensor_of(value)
    return value if found is None else found


def _parts(*names: str) -> list[str]:
    return [f"numpy.{core}.{name}" for core in ("core", "_core") for name in names]


BUILDERS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": lambda view, offset, shape, strides: strided(view, offset, shape, strides),
    "torch._utils._rebuild_tensor_v2": lambda view, offset, shape, strides, _=None, __=None, marks=None: strided(
        view, offset, shape, strides, None, marks
    ),
    "torch._utils._rebuild_tensor_v3": lambda view, offset, shape, strides, _, __, label, marks=None: strided(
        view, offset, shape, strides, label, marks
    ),
    **dict.fromkeys(("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"), _of_type),
    "torch.tensor._rebuild_from_type": _of_type,
    "torch.serialization._get_layout": _layout,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_nested_tensor": lambda *_: OtherTensor("a nested tensor", "give its tensors one by one"),
    "torch._utils._rebuild_meta_tensor_no_storage": lambda *_: OtherTensor(
        "a tensor without values, on the device meta", "load the weights before saving"
    ),
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_wrapper_subclass": _subclass,
    **dict.fromkeys(
        (
            "torch._utils._rebuild_parameter",
            "torch._utils._rebuild_parameter_with_state",
            "torch._utils._rebuild_device_tensor_from_cpu_tensor",
            "torch._utils._rebuild_device_tensor_from_numpy",
            "torch._utils._rebuild_xla_tensor",
            "torch.nn.parameter.Parameter",
            "torch.Size",
            "torch.jit._pickle.build_boollist",
            "torch.jit._pickle.build_doublelist",
            "torch.jit._pickle.build_intlist",
            "torch.jit._pickle.build_tensorlist",
            "torch.jit._pickle.restore_type_tag",
        ),
        _first,
    ),
    **dict.fromkeys(_parts("multiarray._reconstruct"), lambda *_: Array(ARRAY)),
    **dict.fromkeys(
        _parts("numeric._frombuffer"),
        lambda content, dtype, shape, order="C": Array(ARRAY, (), (1, shape, dtype, order == "F", content)),
    ),
    "jax._src.array._reconstruct_array": lambda _, __, state, *___: Array(ARRAY, (), state),
}
"""What is built in the stead of functions of PyTorch and numpy; those of storages are the container's."""
