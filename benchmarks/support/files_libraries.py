"""Model files in the libraries that they belong to: what is in them, and what they compute.

What is in a file is told by names: of every array its shape and type, of everything else what tells it apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from support.bank import weights_of_numpy

Structure = dict[str, str]
PLAIN = (str, bytes, int, float, bool, type(None))


def of_torch(path: Path) -> Structure:
    """A checkpoint, by torch.load of tensors and plain values alone."""
    return dict(_flattened(weights_of_numpy(path), ""))


def of_trusted_torch(path: Path) -> Structure:
    """A checkpoint that holds more than plain values, from a package whose code is trusted."""
    return dict(_flattened(torch.load(path, map_location="cpu", weights_only=False), ""))


def _flattened(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _flattened(inner, f"{name}/{number}")
    elif isinstance(value, torch.Tensor):
        yield name, f"{value.dtype} {tuple(value.shape)}"
    elif isinstance(value, PLAIN):
        yield name, f"{type(value).__name__} {value!r}"
    else:
        yield name, type(value).__name__


def of_script(path: Path) -> Structure:
    """TorchScript, by torch.jit.load: tensors, and the code of its forward."""
    module = torch.jit.load(path, map_location="cpu")
    return {**dict(_flattened(dict(module.state_dict()), "")), "code": module.code}


def of_export(path: Path) -> Structure:
    """A program of torch.export, by torch.export.load."""
    program = torch.export.load(path)
    return {**dict(_flattened(dict(program.state_dict), "")), "code": program.graph_module.code}


def of_safetensors(path: Path) -> Structure:
    """A safetensors file, by its own package."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return dict(_flattened(tensors, ""))


def of_onnx(path: Path) -> Structure:
    """A graph that onnx.checker accepts and onnxruntime opens; weights may lie in branches and constants."""
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model)
    session(path)
    found: Structure = {}
    _graph(model.graph, "", found)
    return found


def _graph(graph: Any, name: str, found: Structure) -> None:
    for tensor in graph.initializer:
        found[f"{name}/{tensor.name}"] = f"{tensor.data_type} {tuple(tensor.dims)}"
    for number, node in enumerate(graph.node):
        place = f"{name}/{number}:{node.op_type}"
        found[place] = f"{tuple(node.input)} {tuple(node.output)}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _graph(attribute.g, f"{place}/{attribute.name}", found)
            elif attribute.HasField("t"):
                found[f"{place}/{attribute.name}"] = f"{attribute.t.data_type} {tuple(attribute.t.dims)}"
            else:
                found[f"{place}/{attribute.name}"] = str(attribute)


def session(path: Path) -> Any:
    """An onnxruntime session, of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def by_onnx(inputs: Sequence[np.ndarray]) -> Callable[[Path], torch.Tensor]:
    """What gives the outputs of a graph with a single input on batches; several outputs flat, shape (inputs, all)."""

    def outputs(path: Path) -> torch.Tensor:
        opened = session(path)
        name = opened.get_inputs()[0].name
        rows = []
        for batch in inputs:
            found = [torch.from_numpy(output) for output in opened.run(None, {name: batch})]
            rows.append(found[0] if len(found) == 1 else torch.cat([output.flatten(1) for output in found], dim=1))
        return torch.cat(rows)

    return outputs


def of_tflite(path: Path) -> Structure:
    """A TFLite file, by the interpreter of LiteRT."""
    details = interpreter(path).get_tensor_details()
    return {
        f"{tensor['index']}:{tensor['name']}": f"{np.dtype(tensor['dtype'])} {tuple(tensor['shape'].tolist())}"
        for tensor in details
    }


def interpreter(path: Path) -> Any:
    """LiteRT's, ready to run."""
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(str(path), num_threads=1)
    made.allocate_tensors()
    return made


def by_tflite(inputs: np.ndarray) -> Callable[[Path], torch.Tensor]:
    """What gives all outputs for every input by itself, flat: shape (inputs, outputs)."""

    def outputs(path: Path) -> torch.Tensor:
        made = interpreter(path)
        place = made.get_input_details()[0]["index"]
        rows = []
        for row in inputs:
            made.set_tensor(place, row[None])
            made.invoke()
            found = [made.get_tensor(detail["index"]).reshape(-1) for detail in made.get_output_details()]
            rows.append(torch.from_numpy(np.concatenate(found)))
        return torch.stack(rows)

    return outputs


def of_keras(path: Path) -> Structure:
    """A Keras file of HDF5, by h5py, which Keras opens as a model."""
    import h5py

    keras_model(path)
    found: Structure = {}

    def visit(name: str, item: Any) -> None:
        found[name] = f"{item.dtype} {item.shape}" if isinstance(item, h5py.Dataset) else "group"
        found.update({f"{name}@{key}": repr(value) for key, value in item.attrs.items()})

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return found


def keras_model(path: Path) -> Any:
    """The model of a file, run by PyTorch."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    return keras.models.load_model(path, compile=False)


def by_keras(inputs: np.ndarray) -> Callable[[Path], torch.Tensor]:
    """What gives the outputs of a Keras model."""

    def outputs(path: Path) -> torch.Tensor:
        return torch.from_numpy(np.asarray(keras_model(path).predict(inputs, verbose=0)))

    return outputs


def of_npz(path: Path) -> Structure:
    """Arrays, by NumPy."""
    with np.load(path) as file:
        return {name: f"{file[name].dtype} {file[name].shape}" for name in file.files}


def of_bytes(path: Path) -> Structure:
    """A file of which nothing is known."""
    return {"sha256": sha256(path.read_bytes()).hexdigest()}


def of_folder(weights: str, inside: Callable[[Path], Structure]) -> Callable[[Path], Structure]:
    """What tells what is in a folder: of all files but the one with the `weights` their bytes."""

    def structure(folder: Path) -> Structure:
        found = inside(folder / weights)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name != weights and "__pycache__" not in name:
                found[f"file {name}"] = json.dumps(of_bytes(path))
        return found

    return structure
