"""An ONNX file as a module, so that it is calibrated as one: onnxruntime gives its outputs, PyTorch their gradients."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from metaq.compression.network import Place
from metaq.model.checkpoint import restore
from metaq.model.opened import OpenedModel, open_model
from metaq.model.stored import Reader
from metaq.onnx.replay.nodes import Node
from metaq.onnx.replay.roles import Role, roles_of
from metaq.onnx.replay.steps import Layer, Replay
from metaq.onnx.sessions import Array, Input, Sessions, arrays_of, open_graph
from metaq.tensors.quantized import Dtype

GIVEN = (Dtype.float16, Dtype.float32, Dtype.float64)
"""Types of weights that a session is given with every call; others it holds itself."""


class OnnxNetwork(nn.Module):
    """The graph of an ONNX file, with the weights of its main graph for parameters.

    It takes inputs by name, or by position in their order, and gives its outputs by name. Weights of half precision are
    float32 here, and matrices that inputs are multiplied by are as ``torch.nn.Linear`` has them.

    Parameters
    ----------
    path
        The file.
    model
        What :func:`metaq.model.opened.open_model` gives for it, or for the folder that it is the model of.
    batch
        Inputs by name, if branches of the graph are to be calibrated too: those that these inputs take, and all others
        have to.

    Raises
    ------
    ConfigError
        If onnxruntime is not installed.
    FormatError
        If the file is damaged, onnxruntime cannot run it, or it takes other inputs than arrays of numbers.
    DataError
        If something is missing in the batch.
    """

    def __init__(
        self,
        path: str | Path,
        model: OpenedModel | None = None,
        batch: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        model = open_model(path) if model is None else model
        names = [name for name in model.holders if name not in model.reasons and model.tensor(name).dtype in GIVEN]
        graph = open_graph(Path(path), names, batch)
        nodes = [Node.of(node) for node in graph.model.graph.node]
        roles = roles_of(nodes, {name: weight.shape for name, weight in graph.weights.items()}, graph.outputs)
        self.inputs = graph.inputs
        self._output_names = graph.outputs
        self._types = {name: weight.dtype for name, weight in graph.weights.items()}
        self._sessions = Sessions(graph, [name for name, role in roles.items() if role.is_transposed])
        self.weight_places: dict[str, Place] = {}
        self.weights = nn.Module()
        layers: dict[int, Layer] = {}
        # Biases are put into layers that are there.
        ordered = sorted(roles, key=lambda name: roles[name].part == "bias")
        with Reader() as reader:
            for number, name in enumerate(ordered):
                role, stored = roles[name], model.tensor(name)
                values = restore([reader.exact(stored)])[stored.name]
                values = values.float() if stored.dtype is Dtype.float16 else values
                parameter = nn.Parameter(values.mT.contiguous() if role.is_transposed else values)
                label = f"{number} {name}" if role.layer is None else f"{number} {name} {nodes[role.layer].name}"
                own = self._put(label.replace(".", "/"), parameter, role, layers, nodes)
                self.weight_places[name] = Place(name=f"weights.{own}", is_transposed=role.is_transposed)
        self._replay = Replay(nodes, self._types, layers)

    def _put(
        self, label: str, parameter: nn.Parameter, role: Role, layers: dict[int, Layer], nodes: Sequence[Node]
    ) -> str:
        """Take in a weight, and give its name among them."""
        if role.layer is None:
            self.weights.register_parameter(label, parameter)
            return label
        if role.layer not in layers:
            layers[role.layer] = Layer(module=_layer(nodes[role.layer], parameter), last=role.layer)
            self.weights.add_module(label, layers[role.layer].module)
        module = layers[role.layer].module
        layers[role.layer] = Layer(module=module, last=role.layer if role.last is None else role.last)
        setattr(module, role.part, parameter)
        label = next(name for name, each in self.weights.named_children() if each is module)
        return f"{label}.{role.part}"

    def forward(self, *arguments: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
        """All outputs that are arrays, by name; floating ones have gradients where these are enabled.

        Raises :class:`DataError` if an input is missing or does not fit.
        """
        given = dict(zip((each.name for each in self.inputs), arguments, strict=False))
        inputs = arrays_of({**given, **named}, self.inputs)
        own = {name: self.get_parameter(place.name) for name, place in self.weight_places.items()}
        weights = {name: own[name].detach().numpy().astype(dtype, copy=False) for name, dtype in self._types.items()}
        if not torch.is_grad_enabled():
            found = self._sessions.outputs(inputs, weights)
            return {name: torch.from_numpy(array) for name, array in found.items()}

        def fetch(names: Sequence[str]) -> dict[str, torch.Tensor]:
            return {name: _wide(array) for name, array in self._sessions.values(names, inputs, weights).items()}

        values = {name: _wide(array) for name, array in inputs.items()}
        values |= {
            name: own[name].mT if place.is_transposed else own[name] for name, place in self.weight_places.items()
        }
        return _with_gradients(self._replay.outputs(self._output_names, values, fetch), list(own.values()))


def inputs_of(path: Path) -> list[Input]:
    """What the network of a file takes; raises :class:`FormatError` if it cannot be read."""
    return open_graph(path, ()).inputs


def _layer(node: Node, weight: torch.Tensor) -> nn.Module:
    """A layer without weights for a node that multiplies by one."""
    if node.operator != "Conv":
        return nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    return nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=tuple(node.get("strides", (1, 1))),
        dilation=tuple(node.get("dilations", (1, 1))),
        bias=False,
        device="meta",
    )


def _wide(array: Array) -> torch.Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _with_gradients(outputs: dict[str, torch.Tensor], weights: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs; if none of them has a gradient, because nothing is known of some operator, with gradients of 0."""
    if not weights or any(tensor.requires_grad for tensor in outputs.values()):
        return outputs
    nothing = torch.stack([0 * weight.reshape(-1)[:1].sum().double() for weight in weights]).sum()
    return {
        name: tensor + nothing.to(tensor) if tensor.is_floating_point() else tensor for name, tensor in outputs.items()
    }
