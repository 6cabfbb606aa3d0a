"""ONNX files without their weights, and onnxruntime on them, which is given weights with every call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, external_data_helper, helper, inliner, numpy_helper

from metaq.errors import ConfigError, DataError, FormatError, MetaqError
from metaq.onnx.branches import follow, repeated_names
from metaq.onnx.comparison import LOGS_ONLY_FATAL, reason

Array = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a graph takes: sizes are numbers, or names of dimensions that are free; None if even their number is."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        sizes = "any shape" if self.shape is None else f"shape [{', '.join(str(size or '?') for size in self.shape)}]"
        return f"{self.dtype} of {sizes}"


@dataclass(frozen=True, kw_only=True)
class Weight:
    """What was taken out of a graph; `number` is that of its type in TensorProto.DataType."""

    number: int
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements in NumPy."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.number))


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenGraph:
    """The model of a file without its `weights`, which have become inputs; functions lie where they are called, and
    branches where they are taken under `conditions`, values of the graph by name.
    """

    path: Path
    model: ModelProto
    weights: Mapping[str, Weight]
    conditions: Mapping[str, bool]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [value.name for value in self.model.graph.output]

    @cached_property
    def inputs(self) -> list[Input]:
        """What has to be given besides weights; raises :class:`FormatError` if it is no array of numbers."""
        return _inputs(self.path, self.model, self.weights)


def open_graph(path: Path, names: Collection[str], batch: Mapping[str, torch.Tensor] | None = None) -> OpenGraph:
    """The graph of a file without those of its initialisers and constants that have these `names`.

    With a `batch`, branches are followed as it says. Raises :class:`FormatError` if the file cannot be read, and
    :class:`DataError` if something is missing in the batch.
    """
    with _refused(path):
        model = onnx.load_model(path, load_external_data=False)
        conditions: dict[str, bool] = {}
        if batch is not None and any(node.op_type == "If" for node in model.graph.node):
            names = set(names) - repeated_names(model.graph)
            external_data_helper.load_external_data_for_model(model, str(path.parent))
            model = inliner.inline_local_functions(model) if model.functions else model
            arrays = arrays_of(batch, _inputs(path, model, ()))
            conditions = follow(model.graph, lambda wanted: _conditions(model, wanted, arrays))
        graph = model.graph
        taken = {each.name: each for each in graph.initializer if each.name in names}
        for node in graph.node:
            values = [each.t for each in node.attribute if each.name == "value"]
            if node.op_type == "Constant" and values and node.output[0] in names:
                taken[node.output[0]] = values[0]
        weights = {name: Weight(number=each.data_type, shape=tuple(each.dims)) for name, each in taken.items()}
        _keep(graph.initializer, lambda each: each.name not in weights)
        _keep(graph.input, lambda each: each.name not in weights)
        _keep(graph.node, lambda each: each.op_type != "Constant" or each.output[0] not in weights)
        external_data_helper.load_external_data_for_model(model, str(path.parent))
        for name, weight in weights.items():
            graph.input.append(helper.make_tensor_value_info(name, weight.number, weight.shape))
        model = inliner.inline_local_functions(model) if model.functions else model
    return OpenGraph(path=path, model=model, weights=weights, conditions=conditions)


def arrays_of(batch: Mapping[str, torch.Tensor], inputs: Sequence[Input]) -> dict[str, Array]:
    """What a session takes of a batch; raises :class:`DataError` if an input is missing."""
    missing = [each.name for each in inputs if each.name not in batch]
    if missing:
        raise DataError(f"the network takes {', '.join(missing)} too; give all of its inputs.")
    return {each.name: batch[each.name].detach().numpy().astype(each.dtype, copy=False) for each in inputs}


def _inputs(path: Path, model: ModelProto, weights: Collection[str]) -> list[Input]:
    known = {tensor.name for tensor in model.graph.initializer} | set(weights)
    return [_input(path, value) for value in model.graph.input if value.name not in known]


def _input(path: Path, value: ValueInfoProto) -> Input:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or tensor.elem_type == TensorProto.STRING:
        raise FormatError(f"{path}: {value.name!r} is no array of numbers; leave out --calibrate.")
    sizes = tuple(size.dim_value if size.dim_value > 0 else size.dim_param for size in tensor.shape.dim)
    return Input(
        name=value.name,
        dtype=np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
        shape=sizes if tensor.HasField("shape") else None,
    )


def _conditions(model: ModelProto, names: Sequence[str], batch: Mapping[str, Array]) -> dict[str, bool]:
    given = session_of(with_outputs(model, names)).run(names, dict(batch))
    return {name: bool(value) for name, value in zip(names, given, strict=True)}


def with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy of a model that also gives values with these names."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    copy.graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    return copy


def session_of(model: ModelProto) -> Any:
    """onnxruntime on a model; raises :class:`ConfigError` if it is not installed, and whatever it raises itself."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "onnxruntime is not installed, which runs ONNX files; add it by: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOGS_ONLY_FATAL
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Sessions:
    """Sessions on a graph; a copy is the same.

    Weights that are `transposed` are given as such. Raises :class:`ConfigError` if onnxruntime is not installed, and
    :class:`FormatError` if it does not take the graph.
    """

    def __init__(self, graph: OpenGraph, transposed: Collection[str]) -> None:
        model = ModelProto()
        model.CopyFrom(graph.model)
        for value in model.graph.input:
            if value.name in transposed:
                # The runtime makes one operator of this and a product of matrices.
                given = f"{value.name} transposed"
                node = helper.make_node("Transpose", [given], [value.name], perm=[1, 0])
                model.graph.node.insert(0, node)
                value.CopyFrom(
                    helper.make_tensor_value_info(
                        given, value.type.tensor_type.elem_type, graph.weights[value.name].shape[::-1]
                    )
                )
        self._path = graph.path
        self._model = model
        self._given = {name: f"{name} transposed" if name in transposed else name for name in graph.weights}
        self._outputs = graph.outputs
        self._conditions = graph.conditions
        self._values: Any = None
        self._given_values: tuple[str, ...] = ()
        with _refused(self._path):
            self._answers = session_of(with_outputs(model, graph.conditions))

    def __deepcopy__(self, _: object) -> Sessions:
        return self

    def outputs(self, inputs: Mapping[str, Array], weights: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that are arrays, by name."""
        return self._run(self._answers, self._outputs, inputs, weights)

    def values(
        self, names: Sequence[str], inputs: Mapping[str, Array], weights: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Values of the graph with these `names`, those of them that are arrays."""
        held = {each.name: each for each in self._model.graph.initializer if each.name in names}
        computed = [name for name in names if name not in held]
        found = self._run(self._giving(computed), computed, inputs, weights) if computed or self._conditions else {}
        return found | {name: numpy_helper.to_array(each) for name, each in held.items()}

    def _giving(self, names: Sequence[str]) -> Any:
        """A session that gives these values; others take no memory in it."""
        wanted = (*names, *self._conditions)
        if self._given_values != wanted:
            with _refused(self._path):
                self._values = session_of(with_outputs(self._model, wanted))
            self._given_values = wanted
        return self._values

    def _run(
        self, session: Any, names: Sequence[str], inputs: Mapping[str, Array], weights: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Raises :class:`DataError` if the network cannot be run on `inputs`, or they take other branches."""
        feed = {**inputs, **{self._given[name]: array for name, array in weights.items()}}
        wanted = [*names, *(name for name in self._conditions if name not in names)]
        try:
            given = session.run(wanted, feed)
        except Exception as error:
            raise DataError(
                f"onnxruntime cannot run the network on a batch ({reason(error)}); give inputs that it takes."
            ) from error
        found = dict(zip(wanted, given, strict=True))
        for name, met in self._conditions.items():
            if bool(found[name]) != met:
                raise DataError(f"a batch takes another branch than the first, by {name!r}; give inputs that do not.")
        found = {name: found[name] for name in names if isinstance(found[name], np.ndarray)}
        return {name: array for name, array in found.items() if array.dtype.kind in "fiub"}


def _keep(parts: Any, is_kept: Callable[[Any], bool]) -> None:
    kept = [part for part in parts if is_kept(part)]
    del parts[:]
    parts.extend(kept)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    # What these packages raise has no common base.
    try:
        yield
    except MetaqError:
        raise
    except Exception as error:
        raise FormatError(
            f"{path}: onnxruntime cannot run it ({reason(error)}); export it with an older opset, or leave out the "
            "inputs that calibrate."
        ) from error
