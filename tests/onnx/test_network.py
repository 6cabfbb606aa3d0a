"""ONNX files as modules: the same outputs as onnxruntime's, and gradients that agree with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from metaq.compression.compressing import compress
from metaq.compression.network import transposed
from metaq.compression.quality import kept
from metaq.errors import DataError, FormatError
from metaq.model.opened import open_model
from metaq.onnx.inputs import batches_of
from metaq.onnx.network import OnnxNetwork, inputs_of
from metaq.quantize.curvature import measure, random_projection_loss
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor
from metaq.tensors.scales import Scales

pytest.importorskip("onnxruntime")

GENERATOR = np.random.default_rng(0)


def numbers(*shape: int, scale: float = 0.3) -> np.ndarray:
    return (scale * GENERATOR.standard_normal(shape)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@dataclass(frozen=True)
class Case:
    """A graph from ``x`` to ``y``: nodes as operator, inputs, outputs and attributes; an input left out is a dash."""

    x: np.ndarray
    nodes: list[tuple[Any, ...]]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17

    def model(self) -> onnx.ModelProto:
        made = []
        for kind, inputs, outputs, *rest in self.nodes:
            names = ["" if name == "-" else name for name in inputs.split()]
            made.append(helper.make_node(kind, names, outputs.split(), **(rest[0] if rest else {})))
        element = helper.np_dtype_to_tensor_dtype(self.x.dtype)
        graph = helper.make_graph(
            made,
            "graph",
            [helper.make_tensor_value_info("x", element, ["batch", *self.x.shape[1:]])],
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(array, name) for name, array in {**self.weights, **self.constants}.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)

    def saved(self, folder: Path) -> Path:
        onnx.save(self.model(), folder / "model.onnx")
        return folder / "model.onnx"


ROWS, SEQUENCE = numbers(8, 12, scale=1.0), numbers(4, 7, 12, scale=1.0)
IMAGE, SIGNAL = numbers(4, 3, 9, 8, scale=1.0), numbers(4, 3, 20, scale=1.0)
TOKENS = GENERATOR.integers(0, 40, (4, 6))
MATRIX, BIAS, FILTER = numbers(12, 20), numbers(20), numbers(16, 3, 3, 2)
GRU = {"hidden_size": 5, "linear_before_reset": 1}
CASES = {
    "product": Case(
        SEQUENCE, [("MatMul", "x w", "p"), ("Add", "b p", "q"), ("Tanh", "q", "y")], {"w": MATRIX, "b": BIAS}
    ),
    "rows": Case(
        ROWS,
        [("Gemm", "x w b", "p"), ("Sigmoid", "p", "q"), ("Gemm", "q v", "y", {"transB": 1})],
        {"w": MATRIX, "b": BIAS, "v": numbers(9, 20)},
    ),
    "scaled product": Case(
        ROWS,
        [("Gemm", "x w b", "y", {"transB": 1, "alpha": 0.5, "beta": 2.0})],
        {"w": numbers(20, 12), "b": BIAS},
    ),
    "product with a bias of others": Case(
        ROWS,
        [("Gemm", "x w b", "p"), ("Gemm", "x v b", "q"), ("Mul", "p q", "y")],
        {"w": MATRIX, "v": numbers(12, 20), "b": BIAS},
    ),
    "positions beside samples": Case(
        SEQUENCE,
        [("Reshape", "x s", "p"), ("MatMul", "p w", "q"), ("Reshape", "q t", "y")],
        {"w": MATRIX},
        {"s": ints(-1, 12), "t": ints(-1, 7, 20)},
    ),
    "shared": Case(
        TOKENS,
        [("Gather", "w x", "e"), ("Tanh", "e", "h"), ("Transpose", "w", "t"), ("MatMul", "h t", "y")],
        {"w": numbers(40, 12)},
    ),
    "twice": Case(
        ROWS,
        [("Identity", "w", "v"), ("MatMul", "x w", "p"), ("Tanh", "p", "q"), ("MatMul", "q v", "y")],
        {"w": numbers(12, 12)},
    ),
    "transposed": Case(
        ROWS, [("Transpose", "w", "t", {"perm": [1, 0]}), ("MatMul", "x t", "y")], {"w": numbers(20, 12)}
    ),
    "left": Case(
        SEQUENCE, [("Transpose", "x", "t", {"perm": [0, 2, 1]}), ("MatMul", "w t", "y")], {"w": numbers(20, 12)}
    ),
    "einsum": Case(SEQUENCE, [("Einsum", "x w", "y", {"equation": "bij,jk->bik"})], {"w": MATRIX}),
    "convolution": Case(
        IMAGE, [("Conv", "x w b", "y", {"pads": [1, 0, 2, 1], "strides": [2, 1]})], {"w": FILTER, "b": numbers(16)}
    ),
    "same size": Case(
        IMAGE, [("Conv", "x w", "p", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}), ("Elu", "p", "y")], {"w": FILTER}
    ),
    "dilated": Case(IMAGE, [("Conv", "x w", "y", {"auto_pad": "VALID", "dilations": [2, 1]})], {"w": FILTER}),
    "groups": Case(IMAGE, [("Conv", "x w", "y", {"group": 3})], {"w": numbers(6, 1, 3, 3)}),
    "along a line": Case(
        SIGNAL, [("Conv", "x w b", "y", {"pads": [2, 2]})], {"w": numbers(16, 3, 5), "b": numbers(16)}
    ),
    "convolution transposed": Case(
        IMAGE,
        [("ConvTranspose", "x w b", "y", {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]})],
        {"w": numbers(3, 16, 3, 3), "b": numbers(16)},
    ),
    "pools": Case(
        IMAGE,
        [
            ("Conv", "x w", "p"),
            ("MaxPool", "p", "q", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
            ("AveragePool", "q", "r", {"kernel_shape": [2, 2], "pads": [1, 0, 1, 0], "strides": [2, 1]}),
            ("GlobalAveragePool", "r", "y"),
        ],
        {"w": FILTER},
    ),
    "normalisations": Case(
        IMAGE,
        [
            ("Conv", "x w", "p"),
            ("BatchNormalization", "p s b m v", "q"),
            ("InstanceNormalization", "q s b", "r"),
            ("LpNormalization", "r", "y", {"axis": 1}),
        ],
        {"w": FILTER, "s": 1 + numbers(16), "b": numbers(16)},
        {"m": numbers(16), "v": 1 + np.abs(numbers(16))},
    ),
    "layer norm": Case(
        SEQUENCE,
        [("MatMul", "x w", "p"), ("LayerNormalization", "p s b", "q"), ("Softmax", "q", "y")],
        {"w": MATRIX, "s": 1 + numbers(20), "b": BIAS},
    ),
    "root mean square": Case(
        SEQUENCE,
        [("MatMul", "x w", "p"), ("RMSNormalization", "p s", "y")],
        {"w": MATRIX, "s": 1 + numbers(20)},
        opset=23,
    ),
    "group norm": Case(
        IMAGE,
        [("Conv", "x w", "p"), ("GroupNormalization", "p s b", "y", {"num_groups": 4})],
        {"w": FILTER, "s": 1 + numbers(16), "b": numbers(16)},
        opset=21,
    ),
    "activations": Case(
        SEQUENCE,
        [
            ("MatMul", "x w", "a"),
            ("Softplus", "a", "b"),
            ("HardSigmoid", "b", "c"),
            ("Gelu", "a", "d", {"approximate": "tanh"}),
            ("Erf", "c", "e"),
            ("Mul", "d e", "f"),
            ("PRelu", "f v", "g"),
            ("Clip", "g low", "h"),
            ("Pow", "a two", "i"),
            ("Sqrt", "b", "j"),
            ("Div", "i j", "k"),
            ("Sum", "h k d", "l"),
            ("Max", "l a", "m"),
            ("Min", "m k", "n"),
            ("LogSoftmax", "n", "y"),
        ],
        {"w": MATRIX, "v": BIAS},
        {"low": np.float32(-1), "two": np.float32(2)},
        opset=20,
    ),
    "attention": Case(
        SEQUENCE,
        [
            ("MatMul", "x w", "a"),
            ("Split", "a sizes", "b c d", {"axis": -1}),
            ("Transpose", "c", "e", {"perm": [0, 2, 1]}),
            ("MatMul", "b e", "f"),
            ("Where", "seen f never", "g"),
            ("Softmax", "g", "h"),
            ("MatMul", "h d", "y"),
        ],
        {"w": MATRIX},
        {"sizes": ints(6, 6, 8), "seen": np.tri(7, dtype=bool), "never": np.float32(-np.inf)},
    ),
    "places": Case(
        SEQUENCE,
        [
            ("MatMul", "x w", "a"),
            ("Slice", "a from to axes steps", "b"),
            ("Slice", "a last first axes back", "c"),
            ("Concat", "b c", "d", {"axis": 1}),
            ("Pad", "d pads", "e", {"mode": "reflect"}),
            ("Gather", "e some", "f", {"axis": -1}),
            ("Unsqueeze", "f axes", "g"),
            ("Squeeze", "g axes", "h"),
            ("Tile", "h times", "i"),
            ("Expand", "i shape", "j"),
            ("ReduceMean", "j", "k", {"axes": [1], "keepdims": 0}),
            ("CumSum", "k axes", "l"),
            ("Flatten", "l", "y"),
        ],
        {"w": MATRIX},
        {
            "from": ints(1),
            "to": ints(100),
            "axes": ints(1),
            "steps": ints(2),
            "last": ints(-1),
            "first": ints(-100),
            "back": ints(-3),
            "pads": ints(0, 1, 2, 0, 1, 0),
            "some": ints(0, -1, 3),
            "times": ints(1, 2, 1),
            "shape": ints(1, 1, 3),
        },
    ),
    "resized": Case(
        IMAGE,
        [("Conv", "x w", "p"), ("Resize", "p - scales", "q", {"mode": "linear"}), ("Resize", "q - - sizes", "y")],
        {"w": FILTER},
        {"scales": np.array([1, 1, 2, 2], dtype=np.float32), "sizes": ints(4, 16, 28, 28)},
    ),
    "older": Case(
        IMAGE,
        [
            ("Conv", "x w", "p"),
            ("Clip", "p", "q", {"min": -0.5, "max": 6.0}),
            ("Slice", "q", "r", {"starts": [1], "ends": [5], "axes": [2]}),
            ("Unsqueeze", "r", "s", {"axes": [0]}),
            ("Squeeze", "s", "t", {"axes": [0]}),
            ("Pad", "t", "u", {"pads": [0, 0, 1, 1, 0, 0, 0, 1]}),
            ("ReduceSum", "u", "y", {"axes": [2, 3]}),
        ],
        {"w": FILTER},
        opset=9,
    ),
    "lstm": Case(
        numbers(4, 3, 12, scale=1.0),
        [("LSTM", "x w r b", "y h c", {"hidden_size": 5, "direction": "bidirectional"})],
        {"w": numbers(2, 20, 12), "r": numbers(2, 20, 5), "b": numbers(2, 40)},
    ),
    "gru": Case(
        numbers(4, 3, 12, scale=1.0),
        [("GRU", "x w r b", "y", {**GRU, "direction": "reverse"})],
        {"w": numbers(1, 15, 12), "r": numbers(1, 15, 5), "b": numbers(1, 30)},
    ),
    "rnn": Case(
        numbers(4, 3, 12, scale=1.0),
        [("RNN", "x w r", "- h", {"hidden_size": 5}), ("Squeeze", "h axes", "y")],
        {"w": numbers(1, 5, 12), "r": numbers(1, 5, 5)},
        {"axes": ints(0)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_what_onnxruntime_computes(tmp_path, name):
    case = CASES[name]
    network = OnnxNetwork(case.saved(tmp_path)).eval()
    batch = {"x": torch.from_numpy(case.x)}
    assert network.weight_places.keys() == case.weights.keys()
    with torch.no_grad():
        wanted = network(**batch)["y"]
    found = network(**batch)["y"]
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad((found.double() * projection).sum(), parameters)
    assert all(bool(gradient.any()) for gradient in gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        # Along the gradient, with an even function of the step taken out.
        direction = 5e-3 * gradient / gradient.abs().max()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * direction
                sides.append(float((network(**batch)["y"].double() * projection).sum()))
                parameter -= sign * direction
        assert (sides[0] - sides[1]) / 2 == pytest.approx(float((gradient * direction).sum()), rel=0.05)


def test_weights_of_the_module_are_those_that_outputs_are_computed_with(tmp_path):
    network = OnnxNetwork(CASES["rows"].saved(tmp_path)).eval()
    batches = [{"x": torch.from_numpy(ROWS)}]
    name = network.weight_places["w"].name
    weight = network.get_parameter(name).detach()
    assert kept(network, {name: weight}, batches).score == 1
    assert 0.9 < kept(network, {name: weight * 1.02}, batches).score < 1
    assert kept(network, {name: torch.zeros_like(weight)}, batches).score < 0.9
    assert kept(network, {}, batches).score == 1


def test_an_onnx_file_is_measured_as_the_same_network_of_pytorch_is(tmp_path):
    nodes = [("MatMul", "x w", "p"), ("Add", "b p", "q"), ("Sigmoid", "q", "r"), ("Gemm", "r v", "y", {"transB": 1})]
    case = replace(CASES["rows"], nodes=nodes)
    network = OnnxNetwork(case.saved(tmp_path))
    module = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.Sigmoid(), torch.nn.Linear(20, 9, bias=False))
    weights = {name: torch.from_numpy(array) for name, array in case.weights.items()}
    module.load_state_dict({"0.weight": weights["w"].T, "0.bias": weights["b"], "2.weight": weights["v"]})
    batches = torch.from_numpy(numbers(96, 12, scale=1.0)).split(32)
    found = measure(network, [{"x": batch} for batch in batches], loss=random_projection_loss)
    wanted = measure(module, batches, loss=random_projection_loss)
    for name, own in {"w": "0.weight", "b": "0.bias", "v": "2.weight"}.items():
        curvature = found[network.weight_places[name].name]
        for part in ("rows", "columns", "inputs", "outputs"):
            np.testing.assert_allclose(getattr(curvature, part), getattr(wanted[own], part), rtol=1e-3, atol=1e-6)


def test_matrices_come_back_as_the_file_has_them(tmp_path):
    case = CASES["rows"]
    path = case.saved(tmp_path)
    batches = [{"x": torch.from_numpy(numbers(32, 12, scale=1.0))} for _ in range(8)]
    found = compress(path, module=OnnxNetwork(path), batches=batches, keep=0.99)
    assert 0.99 <= (found.kept or 0) < 0.999
    for name, tensor in found.state_dict().items():
        assert tensor.shape == case.weights[name].shape
        assert np.corrcoef(tensor.numpy().reshape(-1), case.weights[name].reshape(-1))[0, 1] > 0.9


def test_a_network_that_shares_a_table_and_a_matrix_is_quantised_once(tmp_path):
    path = CASES["shared"].saved(tmp_path)
    batches = [{"x": torch.from_numpy(GENERATOR.integers(0, 40, (8, 6)))} for _ in range(8)]
    found = compress(path, module=OnnxNetwork(path), batches=batches, target_bits_per_weight=8)
    assert (found.kept or 0) > 0.99
    assert found.coverage.quantized_bytes == 40 * 12 * 4


def with_unknown(case: Case) -> Case:
    """The case with an operator before its output of which PyTorch has no gradients here."""
    nodes = [*case.nodes[:-1], (*case.nodes[-1][:2], "z", *case.nodes[-1][3:]), ("Celu", "z", "y")]
    return replace(case, nodes=nodes)


@pytest.mark.parametrize("name", ["rows", "convolution"])
def test_weights_behind_an_unknown_operator_are_not_spoilt(tmp_path, name):
    case = with_unknown(CASES[name])
    path = case.saved(tmp_path)
    network = OnnxNetwork(path)
    generator = np.random.default_rng(1)
    batches = [{"x": torch.from_numpy(generator.standard_normal(case.x.shape).astype(np.float32))} for _ in range(8)]
    curvature = measure(network, batches, loss=random_projection_loss)
    assert all(each.mean == 0 for each in curvature.values())
    found = compress(path, module=network, batches=batches, target_bits_per_weight=16)
    assert (found.kept or 0) > 0.99
    for name, array in case.weights.items():
        errors = found.state_dict()[name].numpy() - array
        assert np.square(errors).mean() < 0.02 * np.square(array).mean()


def test_what_goes_on_beside_an_unknown_operator_is_measured(tmp_path):
    nodes = [("MatMul", "x w", "p"), ("Celu", "p", "q"), ("MatMul", "x v", "r"), ("Add", "q r", "y")]
    path = Case(ROWS, nodes, {"w": MATRIX, "v": numbers(12, 20)}).saved(tmp_path)
    network = OnnxNetwork(path)
    curvature = measure(network, [{"x": torch.from_numpy(ROWS)}], loss=random_projection_loss)
    assert curvature[network.weight_places["v"].name].mean > 0
    assert curvature[network.weight_places["w"].name].mean == 0


def test_an_operator_that_differs_from_that_of_onnxruntime_is_left_out(tmp_path):
    # Before opset 13, all dimensions from the axis on were one.
    nodes = [("MatMul", "x w", "p"), ("Softmax", "p", "q", {"axis": 1}), ("MatMul", "q v", "y")]
    path = Case(SEQUENCE, nodes, {"w": MATRIX, "v": numbers(20, 9)}, opset=11).saved(tmp_path)
    network = OnnxNetwork(path)
    batch = {"x": torch.from_numpy(SEQUENCE)}
    with torch.no_grad():
        wanted = network(**batch)["y"]
    torch.testing.assert_close(network(**batch)["y"].detach(), wanted)
    curvature = measure(network, [batch], loss=random_projection_loss)
    assert curvature[network.weight_places["v"].name].mean > 0
    assert curvature[network.weight_places["w"].name].mean == 0


def test_half_precision_is_given_as_such_and_measured_in_single(tmp_path):
    case = CASES["rows"]
    half = {name: array.astype(np.float16) for name, array in case.weights.items()}
    path = replace(case, x=case.x.astype(np.float16), weights=half).saved(tmp_path)
    network = OnnxNetwork(path)
    batch = {"x": torch.from_numpy(ROWS)}
    with torch.no_grad():
        wanted = network(**batch)["y"]
    assert wanted.dtype == torch.float16
    assert network(**batch)["y"].dtype == torch.float32
    torch.testing.assert_close(network(**batch)["y"].detach(), wanted.float(), rtol=1e-2, atol=1e-2)
    found = compress(path, module=network, batches=[batch] * 8, target_bits_per_weight=12)
    assert found.state_dict()["w"].dtype == torch.float16


def branching(path: Path) -> Path:
    """``If`` with weights of its own on both ways: of the same name in the branch, and around it."""

    def branch(name: str, own: np.ndarray) -> onnx.GraphProto:
        nodes = [helper.make_node("MatMul", ["h", name], ["p"]), helper.make_node("Tanh", ["p"], ["q"])]
        return helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name="q")], [numpy_helper.from_array(own, name)])

    case = Case(ROWS, [("MatMul", "x w", "h"), ("Equal", "kind one", "is_one")], {"w": MATRIX})
    model = replace(case, constants={"one": np.int64(1)}).model()
    fork = helper.make_node(
        "If", ["is_one"], ["y"], then_branch=branch("then", numbers(20, 9)), else_branch=branch("otherwise", MATRIX.T)
    )
    model.graph.node.append(fork)
    model.graph.input.append(helper.make_tensor_value_info("kind", onnx.TensorProto.INT64, []))
    onnx.save(model, path)
    return path


def test_branches_are_followed_as_the_inputs_say(tmp_path):
    path = branching(tmp_path / "model.onnx")
    batch = {"x": torch.from_numpy(ROWS), "kind": torch.tensor(1)}
    network = OnnxNetwork(path, batch=batch)
    assert network.weight_places.keys() == {"w", "then"}
    with torch.no_grad():
        wanted = network(**batch)["y"]
    torch.testing.assert_close(network(**batch)["y"].detach(), wanted)
    curvature = measure(network, [batch], loss=random_projection_loss)
    assert all(each.mean > 0 for each in curvature.values())
    for has_gradients in (True, False):
        with torch.set_grad_enabled(has_gradients), pytest.raises(DataError, match="another branch"):
            network(**{**batch, "kind": torch.tensor(2)})
    found = compress(path, module=network, batches=[batch] * 8, target_bits_per_weight=14)
    assert (found.kept or 0) > 0.99
    assert found.state_dict().keys() >= {"w", "then", "otherwise"}
    restored = found.state_dict()["otherwise"].numpy()
    assert np.square(restored - MATRIX.T).mean() < 0.02 * np.square(MATRIX).mean()


def test_without_inputs_branches_stay_as_they_are(tmp_path):
    path = branching(tmp_path / "model.onnx")
    network = OnnxNetwork(path)
    assert network.weight_places.keys() == {"w"}
    outputs = []
    for kind in (1, 2):
        with torch.no_grad():
            outputs.append(network(x=torch.from_numpy(ROWS), kind=torch.tensor(kind))["y"])
    assert outputs[0].shape == (8, 9)
    assert outputs[1].shape == (8, 12)


def test_functions_are_computed_where_they_are_called(tmp_path):
    model = replace(CASES["rows"], nodes=[("MatMul", "x w", "p")]).model()
    model.graph.node.append(helper.make_node("Activation", ["p"], ["y"], domain="own"))
    body = [helper.make_node("Sigmoid", ["a"], ["b"]), helper.make_node("Mul", ["a", "b"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Activation", ["a"], ["c"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, tmp_path / "model.onnx")
    network = OnnxNetwork(tmp_path / "model.onnx")
    found = network(x=torch.from_numpy(ROWS))["y"]
    assert found.requires_grad
    product = torch.from_numpy(ROWS @ MATRIX)
    torch.testing.assert_close(found.detach(), torch.nn.functional.silu(product), rtol=1e-4, atol=1e-5)


def test_external_data_are_read(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(CASES["rows"].model(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    (tmp_path / "other").mkdir()
    onnx.save(CASES["rows"].model(), tmp_path / "other" / "model.onnx")
    other = OnnxNetwork(tmp_path / "other" / "model.onnx")
    batch = {"x": torch.from_numpy(ROWS)}
    with torch.no_grad():
        assert torch.equal(OnnxNetwork(path)(**batch)["y"], other(**batch)["y"])


def test_empty_dimensions_are_no_hindrance(tmp_path):
    nodes = [("MatMul", "x w", "p"), ("Concat", "nothing p", "y", {"axis": 1})]
    path = Case(SEQUENCE, nodes, {"w": MATRIX}, {"nothing": np.zeros((4, 0, 20), dtype=np.float32)}).saved(tmp_path)
    found = OnnxNetwork(path)(x=torch.from_numpy(SEQUENCE))["y"]
    assert found.requires_grad
    assert found.shape == (4, 7, 20)


@pytest.mark.parametrize(
    "model",
    [
        replace(CASES["rows"], opset=999).model(),
        replace(CASES["rows"], nodes=[("NoSuchOperator", "x w b v", "y")]).model(),
        replace(CASES["rows"], nodes=[("MatMul", "x v", "y")]).model(),
    ],
    ids=["opset", "operator", "shapes"],
)
def test_what_onnxruntime_cannot_run_is_refused(tmp_path, model):
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(FormatError, match=r"model.onnx: onnxruntime cannot run it \(.*\); export"):
        OnnxNetwork(tmp_path / "model.onnx")


def test_inputs_that_are_no_arrays_of_numbers_are_refused(tmp_path):
    model = CASES["rows"].model()
    model.graph.input.append(helper.make_tensor_value_info("words", onnx.TensorProto.STRING, [1]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(FormatError, match="'words' is no array of numbers"):
        inputs_of(tmp_path / "model.onnx")


def test_missing_inputs_are_named(tmp_path):
    network = OnnxNetwork(branching(tmp_path / "model.onnx"))
    with pytest.raises(DataError, match="takes kind too"):
        network(torch.from_numpy(ROWS))


@pytest.mark.parametrize("scan", ["rows", "columns"])
@pytest.mark.parametrize("trellis_bits", [0, 3])
def test_a_transposed_tensor_has_the_same_values(scan, trellis_bits):
    generator = np.random.default_rng(0)
    exponents = [generator.integers(-8, 8, size).astype(np.int8) for size in (30, 40)]
    tensor = QuantizedTensor(
        name="w",
        indices=generator.integers(0, 9, (30, 40)),
        grid=BucketGrid(center=0.0, radius=1.0, count=9),
        dtype=Dtype.float32,
        scan=scan,
        trellis_bits=trellis_bits,
        scales=Scales(rows=exponents[0], columns=exponents[1]),
    )
    assert np.array_equal(transposed(tensor).values(), tensor.values().T)


def inputs_for(folder: Path, *shapes: tuple[str, int, list[Any]]) -> Any:
    """What a network takes that has inputs of these names, types and shapes."""
    values = [helper.make_tensor_value_info(*each) for each in shapes]
    node = helper.make_node("Identity", [shapes[0][0]], ["y"])
    graph = helper.make_graph([node], "graph", values, [onnx.ValueInfoProto(name="y")])
    onnx.save(helper.make_model(graph), folder / "inputs.onnx")
    return inputs_of(folder / "inputs.onnx")


FLOAT, INT32, INT64, BOOL = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "INT32", "INT64", "BOOL"))


def test_samples_are_cut_into_batches(tmp_path):
    inputs = inputs_for(tmp_path, ("ids", INT64, ["batch", "length"]), ("mask", FLOAT, ["batch", 6]))
    ids, mask = np.arange(600).reshape(100, 6), np.ones((100, 6))
    np.savez(tmp_path / "x.npz", ids=ids, mask=mask)
    batches = batches_of(tmp_path / "x.npz", inputs)
    assert len(batches) >= 8
    assert torch.equal(torch.cat([batch["ids"] for batch in batches]), torch.from_numpy(ids))
    assert all(batch["mask"].shape == batch["ids"].shape for batch in batches)


def test_a_fixed_number_of_samples_is_run_at_once(tmp_path):
    inputs = inputs_for(tmp_path, ("x", FLOAT, [4, 3]), ("state", FLOAT, [2, 1, 5]), ("rate", INT64, []))
    np.savez(tmp_path / "x.npz", x=np.zeros((10, 3)), state=np.zeros((2, 1, 5)), rate=16000)
    batches = batches_of(tmp_path / "x.npz", inputs)
    assert [{name: tuple(array.shape) for name, array in batch.items()} for batch in batches] == [
        {"x": (4, 3), "state": (2, 1, 5), "rate": ()}
    ] * 2


def test_an_array_with_one_dimension_more_has_a_run_for_every_index(tmp_path):
    inputs = inputs_for(tmp_path, ("x", FLOAT, ["n", 3]), ("state", FLOAT, [2, "n", 5]), ("rate", INT64, []))
    states = np.arange(120.0).reshape(6, 2, 2, 5)
    np.savez(tmp_path / "x.npz", x=np.zeros((6, 2, 3)), state=states, rate=16000)
    batches = batches_of(tmp_path / "x.npz", inputs)
    assert len(batches) == 6
    assert torch.equal(batches[4]["state"], torch.from_numpy(states[4]).float())
    assert batches[4]["x"].shape == (2, 3)
    assert int(batches[4]["rate"]) == 16000


def test_one_array_is_for_the_first_floating_input(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 3)))
    inputs = inputs_for(tmp_path, ("x", FLOAT, ["batch", 3]))
    assert batches_of(tmp_path / "x.npy", inputs)[0].keys() == {"x"}
    more = inputs_for(tmp_path, ("ids", INT64, ["batch"]), ("x", FLOAT, ["batch", 3]))
    with pytest.raises(DataError, match=r"lacks ids; .*ids \(int64 of shape \[batch\]\)"):
        batches_of(tmp_path / "x.npy", more)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x": np.zeros((9, 3))}, "lacks ids"),
        ({"x": np.zeros((9, 3)), "ids": np.zeros((9, 2), int), "z": np.zeros(3)}, "takes no z; it takes x"),
        ({"x": np.zeros((9, 4)), "ids": np.zeros((9, 2), int)}, r"x is float32 of shape \[9, 4\], but"),
        ({"x": np.zeros(3), "ids": np.zeros((9, 2), int)}, "x is float32"),
        ({"x": np.zeros((9, 3)), "ids": np.zeros((9, 2))}, "ids is float32"),
        ({"x": np.zeros((9, 3)), "ids": np.full((9, 2), 1 << 40)}, "ids is int64"),
        ({"x": np.zeros((9, 3)), "ids": np.zeros((8, 2), int)}, "9 for x, 8 for ids"),
        ({"x": np.full((9, 3), np.nan), "ids": np.zeros((9, 2), int)}, "x.npz: x: holds NaN"),
        ({"x": np.array(["a"]), "ids": np.zeros((9, 2), int)}, "x.npz: x: holds no array of real numbers"),
        ({}, "holds no array"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, arrays, named):
    inputs = inputs_for(tmp_path, ("x", FLOAT, ["batch", 3]), ("ids", INT32, ["batch", 2]))
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=named):
        batches_of(tmp_path / "x.npz", inputs)


def test_too_few_samples_for_two_runs_are_refused(tmp_path):
    inputs = inputs_for(tmp_path, ("x", FLOAT, [8, 3]))
    np.save(tmp_path / "x.npy", np.zeros((15, 3)))
    with pytest.raises(DataError, match="enough for 1 run"):
        batches_of(tmp_path / "x.npy", inputs)


def test_damaged_archives_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.arange(300.0))
    whole = (tmp_path / "x.npz").read_bytes()
    inputs = inputs_for(tmp_path, ("x", FLOAT, ["n"]))
    refused = 0
    for number in range(0, len(whole), 7):
        (tmp_path / "x.npz").write_bytes(whole[:number] + bytes([whole[number] ^ 0xFF]) + whole[number + 1 :])
        try:
            batches_of(tmp_path / "x.npz", inputs)
        except DataError:
            refused += 1
    assert refused > 10


def test_an_opened_model_is_not_read_twice(tmp_path):
    path = CASES["rows"].saved(tmp_path)
    model = open_model(path)
    assert OnnxNetwork(path, model).weight_places == OnnxNetwork(path).weight_places
