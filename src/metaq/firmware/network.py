"""From a module to the steps that a microcontroller computes it by."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any, Literal, cast

import torch
from torch import fx, nn

from metaq.config import require
from metaq.errors import ConfigError

Does = Literal[
    "weigh",
    "bias",
    "normalise",
    "change",
    "maximum",
    "average",
    "pad",
    "add",
    "clamp",
    "tanh",
    "sigmoid",
    "softmax",
]

SUPPORTED = (
    "convolutions of one and two dimensions, linear layers, maximum and average pooling, batch normalisation, ReLU, "
    "ReLU6, clamp, tanh, sigmoid, softmax, flatten, dropout, sums of two layers, constants for each channel, zeros "
    "around channels and places, and every nth place"
)

MOST_ELEMENTS = (1 << 31) - 1
"""Of a tensor or an activation: what an int of C counts."""

SAME = frozenset(
    {
        "view",
        "_unsafe_view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "alias",
        "detach",
        "detach_",
        "lift_fresh_copy",
        "to",
        "_to_copy",
    }
)
"""Operators that keep the elements, and their order, in evaluation."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a convolution or a pooling goes over; pairs are for rows and columns, see ``layers.h``."""

    channels: int
    height: int
    width: int
    outputs: int
    out_height: int
    out_width: int
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    counts_padding: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of a function of ``layers.c``.

    Attributes
    ----------
    layer
        What it belongs to, for comments.
    does
        Name of the function.
    inputs, output
        Numbers of the activations, see :class:`Network`.
    tensors
        Names of the parameters and buffers that it reads; None for one that the layer lacks.
    window
        Of convolutions, linear layers and pooling.
    constants
        Numbers that are in no file, one a channel; None for what the function is not given.
    numbers
        What else the function is told, in its order.
    """

    layer: str
    does: Does
    inputs: tuple[int, ...]
    output: int
    tensors: tuple[str | None, ...] = ()
    window: Window | None = None
    constants: tuple[tuple[float, ...] | None, ...] = ()
    numbers: tuple[float, ...] = ()

    @property
    def may_overwrite(self) -> bool:
        """Whether the output may lie where an input lies."""
        if self.does in ("maximum", "average"):
            assert self.window is not None
            return self.window.padding == (0, 0)
        return self.does not in ("weigh", "pad")


@dataclass(frozen=True, kw_only=True)
class Network:
    """Steps in order, and the elements of every activation: number 0 is the input; `output` is that of the network."""

    steps: tuple[Step, ...]
    sizes: tuple[int, ...]
    output: int


def network_of(model: nn.Module, input_shape: Sequence[int]) -> Network:
    """The steps of `model`, in evaluation, for one input of `input_shape`, which is without the batch.

    Raises :class:`ConfigError` if the network cannot be traced, or for the first layer that no function is there for.
    """
    program = _traced(model.eval(), input_shape)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    require(len(signature.user_inputs) == 1, f"{_name(model)}: takes several inputs; C is written for one.")
    require(len(signature.user_outputs) == 1, f"{_name(model)}: gives several outputs; C is written for one.")
    unsaved = {name: key for name, key in names.items() if key in signature.non_persistent_buffers}
    lifted = {**unsaved, **signature.inputs_to_lifted_tensor_constants}
    constants = {name: cast(torch.Tensor, program.constants[key]) for name, key in lifted.items()}
    translation = _Translation({name: key for name, key in names.items() if name not in unsaved}, constants)
    nodes = {node.name: node for node in program.graph.nodes}
    translation.begin(nodes[signature.user_inputs[0]])
    output = nodes[signature.user_outputs[0]]
    needed = _needed(output)
    for node in program.graph.nodes:
        if node.op == "call_function" and node in needed:
            translation.add(node)
    require(bool(translation.steps), f"{_name(model)}: computes nothing; give a network with layers.")
    return Network(steps=tuple(translation.steps), sizes=tuple(translation.sizes), output=translation.value(output))


def _traced(model: nn.Module, input_shape: Sequence[int]) -> torch.export.ExportedProgram:
    example = torch.zeros(1, *input_shape)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Without operators that change their inputs.
            exported = torch.export.export(model, (example,), strict=False)
            return cast(torch.export.ExportedProgram, exported.run_decompositions({}))
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            advice = "check --input-shape, and that what forward does depends on no values of tensors."
            if isinstance(error, SyntaxError):
                advice = "take quotes and line breaks out of the names of its modules."
            raise ConfigError(
                f"network {_name(model)}: cannot be traced with an input of shape {tuple(input_shape)} ({first}); "
                f"{advice}"
            ) from error


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _needed(output: fx.Node) -> set[fx.Node]:
    """The nodes that an output depends on."""
    found, waiting = {output}, [output]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


class _Translation:
    """Steps for the nodes of a graph, one after the other."""

    def __init__(self, names: Mapping[str, str], constants: Mapping[str, torch.Tensor]) -> None:
        self._names = names
        self._constants = constants
        self._values: dict[fx.Node, int] = {}
        self.steps: list[Step] = []
        self.sizes: list[int] = []

    def begin(self, node: fx.Node) -> None:
        """Take the input of the network."""
        self._values[node] = self._new(node)

    def value(self, node: Any) -> int:
        """Number of an activation."""
        if node not in self._values:
            raise ConfigError(f"{node}: is no activation that C knows, but a parameter or a constant.")
        return self._values[node]

    def add(self, node: fx.Node) -> None:
        """Take a node; raises :class:`ConfigError` if there is nothing for it."""
        operator, given = _operator(node), _arguments(node)
        dtype = _first(node).dtype
        require(
            dtype is torch.float32,
            f"{_layer(node)}: computes in {str(dtype).removeprefix('torch.')}; C is written for float32, such as "
            "that of model.float().",
        )
        known = operator in SAME or operator in HANDLERS
        if known and next(iter(given.values()), None) not in self._values:
            raise ConfigError(
                f"{_layer(node)}: {operator} changes a parameter or a constant; C takes them as they are in the file."
            )
        if operator == "getitem":
            require(bool(node.args[1] == 0), f"{_layer(node)}: gives several outputs; C is written for one.")
            self._values[node] = self.value(node.args[0])
        elif operator in SAME:
            source = next(iter(given.values()))
            require(
                _shape(source) is not None and prod(_shape(source)) == prod(_shape(node)),
                _refusal(node, operator),
            )
            self._values[node] = self.value(source)
        elif operator in HANDLERS:
            self._values[node] = HANDLERS[operator](self, node, given)
        else:
            raise ConfigError(_refusal(node, operator))

    def step(self, node: fx.Node, does: Does, *inputs: int, **told: Any) -> int:
        """Take down a step; the number of its output."""
        output = self._new(node)
        self.steps.append(Step(layer=_layer(node), does=does, inputs=inputs, output=output, **told))
        return output

    def tensor(self, node: fx.Node, what: str, given: Any) -> str:
        """Name of a parameter or buffer."""
        name = self._names.get(given.name) if isinstance(given, fx.Node) else None
        if name is None:
            raise ConfigError(
                f"{_layer(node)}: its {what} is computed, or no tensor of the file; C reads it from there."
            )
        return name

    def constant(self, given: Any) -> torch.Tensor | None:
        """Numbers that are known at export and in no file, or None."""
        if isinstance(given, int | float):
            return torch.tensor(float(given))
        return self._constants.get(given.name) if isinstance(given, fx.Node) else None

    def optional(self, node: fx.Node, what: str, given: Any) -> str | None:
        """The same of one that may be missing."""
        return None if given is None else self.tensor(node, what, given)

    def _new(self, node: fx.Node) -> int:
        count = prod(_shape(node))
        require(count <= MOST_ELEMENTS, f"{_layer(node)}: an activation of {count} elements is too large for C.")
        self.sizes.append(count)
        return len(self.sizes) - 1


Given = Mapping[str, Any]
Handler = Callable[[_Translation, fx.Node, Given], int]


def _convolution(to: _Translation, node: fx.Node, given: Given) -> int:
    source, kernel = _shape(given["input"]), _shape(given["weight"])[2:]
    dimensions = len(kernel)
    _require_images(node, source, dimensions)
    dilation = _pair(given["dilation"], dimensions, 1)
    if isinstance(given["padding"], str):
        is_same = given["padding"] == "same"
        whole = [
            step * (size - 1) // 2 if is_same else 0 for step, size in zip(dilation, _pair(kernel, 0, 1), strict=True)
        ]
        padding = (whole[0], whole[1])
    else:
        padding = _pair(given["padding"], dimensions, 0)
    window = replace(
        _sides(source, _shape(node)),
        groups=given["groups"],
        kernel=_pair(kernel, dimensions, 1),
        stride=_pair(given["stride"], dimensions, 1),
        padding=padding,
        dilation=dilation,
    )
    return _weighed(to, node, given, window)


def _linear(to: _Translation, node: fx.Node, given: Given) -> int:
    source, made = _shape(given["input"]), _shape(node)
    require(
        prod(source) == source[-1],
        f"{_layer(node)}: a linear layer reads {prod(source) // max(source[-1], 1)} places at once; "
        "C is written for one, as after flatten.",
    )
    return _weighed(to, node, given, _sides((1, source[-1], 1), (1, made[-1], 1)))


def _weighed(to: _Translation, node: fx.Node, given: Given, window: Window) -> int:
    weight = to.tensor(node, "weight", given["weight"])
    bias = to.optional(node, "bias", given["bias"])
    made = to.step(node, "weigh", to.value(given["input"]), tensors=(weight,), window=window)
    if bias is None:
        return made
    size = window.out_height * window.out_width
    return to.step(node, "bias", made, tensors=(bias,), numbers=(window.outputs, size))


def _normalisation(to: _Translation, node: fx.Node, given: Given) -> int:
    require(not given.get("training"), f"{_layer(node)}: normalises by the batch also in evaluation, which C does not.")
    source = _shape(given["input"])
    require(
        len(source) > 1 and source[0] == 1,
        f"{_layer(node)}: normalises a tensor of shape {source}; C does so for the channels of one input.",
    )
    tensors = (
        to.optional(node, "weight", given["weight"]),
        to.optional(node, "bias", given["bias"]),
        to.tensor(node, "running mean", given["running_mean"]),
        to.tensor(node, "running variance", given["running_var"]),
    )
    numbers = (given["eps"], source[1], prod(source[2:]))
    return to.step(node, "normalise", to.value(given["input"]), tensors=tensors, numbers=numbers)


def _maximum_pool(to: _Translation, node: fx.Node, given: Given) -> int:
    return _pool(to, node, given, "maximum", dilation=given["dilation"], counts_padding=False)


def _average_pool(to: _Translation, node: fx.Node, given: Given) -> int:
    is_plain = given.get("divisor_override") is None
    require(is_plain, f"{_layer(node)}: average pooling with divisor_override is nothing that C does; leave it out.")
    return _pool(to, node, given, "average", dilation=1, counts_padding=bool(given["count_include_pad"]))


def _pool(to: _Translation, node: fx.Node, given: Given, does: Does, *, dilation: Any, counts_padding: bool) -> int:
    source = _shape(given["self"])
    dimensions = len(given["kernel_size"])
    _require_images(node, source, dimensions)
    window = replace(
        _sides(source, _shape(node)),
        kernel=_pair(given["kernel_size"], dimensions, 1),
        stride=_pair(given["stride"] or given["kernel_size"], dimensions, 1),
        padding=_pair(given["padding"], dimensions, 0),
        dilation=_pair(dilation, dimensions, 1),
        counts_padding=counts_padding,
    )
    return to.step(node, does, to.value(given["self"]), window=window)


def _adaptive_pool(to: _Translation, node: fx.Node, given: Given) -> int:
    source, made = _shape(given["self"]), _shape(node)
    _require_images(node, source, len(made) - 2)
    return _means(to, node, given, _sides(source, made))


def _mean(to: _Translation, node: fx.Node, given: Given) -> int:
    source = _shape(given["self"])
    axes = sorted(axis % len(source) for axis in given.get("dim") or range(len(source)))
    is_global = len(source) in (3, 4) and source[0] == 1 and axes == list(range(2, len(source)))
    require(
        is_global, f"{_layer(node)}: takes means over dimensions {axes}; C does so over all places of each channel."
    )
    return _means(to, node, given, _sides(source, (1, source[1]) + (1,) * len(axes)))


def _means(to: _Translation, node: fx.Node, given: Given, of: Window) -> int:
    require(
        of.height % of.out_height == 0 and of.width % of.out_width == 0,
        f"{_layer(node)}: means of {of.out_height} x {of.out_width} parts of {of.height} x {of.width} places, which "
        "overlap; C is written for parts that do not, such as 1 x 1.",
    )
    kernel = (of.height // of.out_height, of.width // of.out_width)
    return to.step(node, "average", to.value(given["self"]), window=replace(of, kernel=kernel, stride=kernel))


def _sum(to: _Translation, node: fx.Node, given: Given) -> int:
    left, right = given["self"], given["other"]
    if to.constant(right) is not None:
        return _changed(to, node, given)
    is_plain = isinstance(right, fx.Node) and given.get("alpha", 1) == 1 and _shape(left) == _shape(right)
    require(
        is_plain, f"{_layer(node)}: a sum ({node.name}) of other things than two layers of one shape; C lacks that."
    )
    return to.step(node, "add", to.value(left), to.value(right), numbers=(prod(_shape(node)),))


def _changed(to: _Translation, node: fx.Node, given: Given) -> int:
    """A constant added, subtracted, multiplied with or divided by: one number, or one a channel."""
    found, shape = to.constant(given["other"]), _shape(node)
    is_plain = given.get("alpha", 1) == 1 and given.get("rounding_mode") is None
    if found is None or not is_plain or not isinstance(given["self"], fx.Node):
        raise ConfigError(_refusal(node, _operator(node)))
    sizes = (1,) * (len(shape) - found.dim()) + tuple(found.shape)
    of_channels = len(shape) > 1 and shape[0] == 1 and sizes == (1, shape[1]) + (1,) * (len(shape) - 2)
    if (found.numel() != 1 and not of_channels) or prod(shape) != prod(_shape(given["self"])):
        raise ConfigError(_refusal(node, _operator(node)))
    values = found.double().reshape(-1)
    made = {"add": values, "sub": -values, "mul": values, "div": 1 / values}[_operator(node)].float().tolist()
    constants = (None, tuple(made)) if _operator(node) in ("add", "sub") else (tuple(made), None)
    numbers = (len(made), prod(shape) // len(made))
    return to.step(node, "change", to.value(given["self"]), constants=constants, numbers=numbers)


def _padded(to: _Translation, node: fx.Node, given: Given) -> int:
    source, widths = _shape(given["self"]), list(given["pad"])
    is_zero = given.get("mode", "constant") == "constant" and not given.get("value")
    # Pairs of what is put before and behind, from the last dimension on.
    before = [widths[2 * axis] if 2 * axis < len(widths) else 0 for axis in range(len(source))][::-1]
    is_known = is_zero and len(source) in (3, 4) and source[0] == 1 and min(widths, default=0) >= 0 and len(widths) < 7
    if not is_known:
        raise ConfigError(_refusal(node, _operator(node)))
    padding = (before[2] if len(source) == 4 else 0, before[-1])
    window = replace(_sides(source, _shape(node)), padding=padding)
    return to.step(node, "pad", to.value(given["self"]), window=window, numbers=(before[1],))


def _sliced(to: _Translation, node: fx.Node, given: Given) -> int:
    source, made = _shape(given["self"]), _shape(node)
    if source == made:
        return to.value(given["self"])
    axis = given["dim"] % len(source)
    if len(source) not in (3, 4) or source[0] != 1 or axis < 2:
        raise ConfigError(_refusal(node, _operator(node)))
    start = given["start"] or 0
    first = max(start + source[axis], 0) if start < 0 else start
    is_row = axis == 2 and len(source) == 4
    pairs = [(place, unit) if is_row else (unit, place) for place, unit in ((given["step"], 1), (-first, 0))]
    window = replace(_sides(source, made), stride=pairs[0], padding=pairs[1])
    return to.step(node, "maximum", to.value(given["self"]), window=window)


def _clamped(low: Any, high: Any) -> Handler:
    """Of an operator whose limits are fixed, or arguments by their names."""

    def handler(to: _Translation, node: fx.Node, given: Given) -> int:
        limits = [given[each] if isinstance(each, str) else each for each in (low, high)]
        is_plain = not any(isinstance(limit, fx.Node) for limit in limits)
        require(is_plain, f"{_layer(node)}: clamps to limits that are computed; C lacks that.")
        numbers = (-inf if limits[0] is None else limits[0], inf if limits[1] is None else limits[1])
        return to.step(node, "clamp", to.value(given["self"]), numbers=(prod(_shape(node)), *numbers))

    return handler


def _elementwise(does: Does) -> Handler:
    def handler(to: _Translation, node: fx.Node, given: Given) -> int:
        return to.step(node, does, to.value(given["self"]), numbers=(prod(_shape(node)),))

    return handler


def _softmax(to: _Translation, node: fx.Node, given: Given) -> int:
    shape = _shape(node)
    axis = given["dim"] % len(shape)
    numbers = (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
    return to.step(node, "softmax", to.value(given["self"]), numbers=numbers)


HANDLERS: dict[str, Handler] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "linear": _linear,
    "batch_norm": _normalisation,
    "_native_batch_norm_legit_no_training": _normalisation,
    "max_pool1d": _maximum_pool,
    "max_pool2d": _maximum_pool,
    "max_pool2d_with_indices": _maximum_pool,
    "avg_pool1d": _average_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool1d": _adaptive_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "mean": _mean,
    "add": _sum,
    "sub": _changed,
    "mul": _changed,
    "div": _changed,
    "constant_pad_nd": _padded,
    "pad": _padded,
    "slice": _sliced,
    "relu": _clamped(0.0, None),
    "relu6": _clamped(0.0, 6.0),
    "hardtanh": _clamped("min_val", "max_val"),
    "clamp": _clamped("min", "max"),
    "clamp_min": _clamped("min", None),
    "clamp_max": _clamped(None, "max"),
    "tanh": _elementwise("tanh"),
    "sigmoid": _elementwise("sigmoid"),
    "softmax": _softmax,
    "_softmax": _softmax,
}


def _operator(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments by their names, with defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    found: dict[str, Any] = {}
    for place, argument in enumerate(schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        found[argument.name] = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, default)
    return found


def _shape(node: Any) -> tuple[int, ...]:
    """Of the tensor that a node gives, or of the first of several."""
    return tuple(int(size) for size in _first(node).shape)


def _first(node: fx.Node) -> torch.Tensor:
    """What a node gives, without elements, or the first of several things."""
    value = node.meta["val"]
    return cast(torch.Tensor, value[0] if isinstance(value, tuple | list) else value)


def _layer(node: fx.Node) -> str:
    """Name of the innermost module that a node belongs to, or of the node."""
    stack = list(cast(Mapping[str, tuple[str, Any]], node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0] if stack and stack[-1][0] else node.name


def _refusal(node: fx.Node, operator: str) -> str:
    stack = list(cast(Mapping[str, tuple[str, Any]], node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    named = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    what = f"{path} ({named.rpartition('.')[2]})" if path else f"{node.name} of forward"
    return f"{what}: {operator} is nothing that C is written for; there are {SUPPORTED}."


def _require_images(node: fx.Node, shape: Sequence[int], dimensions: int) -> None:
    """Refuse what has other dimensions than those of a batch of one."""
    is_known = dimensions in (1, 2) and len(shape) == dimensions + 2 and shape[0] == 1
    require(
        is_known,
        f"{_layer(node)}: takes a tensor of shape {tuple(shape)}; C is written for channels of one or two dimensions.",
    )


def _sides(source: Sequence[int], made: Sequence[int]) -> Window:
    """Channels, height and width of what a layer takes and gives; sequences have height 1."""
    return Window(
        channels=source[1],
        height=source[2] if len(source) == 4 else 1,
        width=source[-1],
        outputs=made[1],
        out_height=made[2] if len(made) == 4 else 1,
        out_width=made[-1],
    )


def _pair(value: Any, dimensions: int, of_height: int) -> tuple[int, int]:
    """A number, or one for each dimension, as one for rows and one for columns; of sequences, rows have `of_height`."""
    numbers = [int(each) for each in value] if isinstance(value, list | tuple | torch.Size) else [int(value)]
    if dimensions == 1 or (dimensions == 0 and len(numbers) == 1):
        return of_height, numbers[0]
    return numbers[0], numbers[-1]
