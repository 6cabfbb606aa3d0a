from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import metaq.onnx
from metaq.errors import ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, TiedTensor
from metaq.tensors.scales import Scales

FEW = BucketGrid(center=0.0, radius=0.3, count=15)
MANY = BucketGrid(center=0.0, radius=0.3, count=1001)


def tensor(name, shape, grid=FEW, seed=0, **options):
    indices = np.random.default_rng(seed).integers(0, grid.count, shape)
    return QuantizedTensor(name=name, indices=indices, grid=grid, **{"dtype": Dtype.float32, **options})


def scales(rows, columns):
    exponents = (5 * np.arange(rows + columns) % 17 - 8).astype(np.int8)
    return Scales(rows=exponents[:rows], columns=exponents[rows:])


def model_of(tensors, *, opset=21, dtype=TensorProto.FLOAT, ir_version=10, listed=False):
    """Words looked up, multiplied, and convolved: every way in which weights are commonly read."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    values = [numpy_helper.from_array(each.restore().astype(kind), each.name) for each in tensors]
    values.append(numpy_helper.from_array(np.array([0, 1, -1], dtype=np.int64), "shape"))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("MatMul", ["words", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["image"]),
        helper.make_node("Unsqueeze", ["image", "axes"], ["images"])
        if opset >= 13
        else helper.make_node("Unsqueeze", ["image"], ["images"], axes=[1]),
        helper.make_node("Conv", ["images", "filter"], ["y"], kernel_shape=[1, 3]),
    ]
    values += [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")] if opset >= 13 else []
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])]
    inputs += [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in values] if listed else []
    outputs = [helper.make_tensor_value_info("y", dtype, ["n", 6, "t", "width"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, values)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def weights(grid=FEW, **options):
    return [
        tensor("table", (50, 24), grid, 1, **options),
        tensor("matrix", (24, 40), grid, 2, **options),
        tensor("bias", (40,), FEW, 3),
        tensor("filter", (6, 1, 1, 3), FEW, 4),
    ]


def outputs(data):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, 50, (2, 7))
    return session.run(None, {"ids": ids})[0]


def kinds(data):
    found = {each.name: each.data_type for each in onnx.load_from_string(data).graph.initializer}
    return {name: found.get(f"{name}_quantized") for name in ("table", "matrix")}


INT4, INT8, INT16 = TensorProto.INT4, TensorProto.INT8, TensorProto.INT16


@pytest.mark.parametrize(
    ("opset", "ir_version", "listed", "kind"),
    [(21, 10, False, INT4), (22, 10, True, INT4), (21, 8, False, INT4), (17, 8, False, INT8), (11, 3, True, INT8)],
)
def test_initialisers_on_grids_become_the_narrowest_integers_that_the_file_may_have(opset, ir_version, listed, kind):
    data = model_of(weights(), opset=opset, ir_version=ir_version, listed=listed)
    made = metaq.onnx.with_integers(data, weights())
    assert kinds(made) == {"table": kind, "matrix": kind}
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    assert len(made) < len(data) / 2
    np.testing.assert_allclose(outputs(made), outputs(data), rtol=0, atol=1e-5 * np.abs(outputs(data)).max())
    assert metaq.onnx.with_integers(data, weights()) == made
    assert {each.name for each in onnx.load_from_string(made).graph.input} >= {"ids"}
    assert "table" not in {each.name for each in onnx.load_from_string(made).graph.input}


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_scales_of_rows_and_columns_and_trellises_are_kept(opset):
    for options in ({"trellis_bits": 4}, {"trellis_bits": 8, "dtype": Dtype.bfloat16}):
        tensors = [
            tensor("table", (50, 24), FEW, 1, scales=scales(50, 24), **options),
            tensor("matrix", (24, 40), FEW, 2, scales=scales(24, 40), **options),
            *weights()[2:],
        ]
        held = [
            ExactTensor(name=each.name, values=np.asarray(each.values(), dtype="<f4"), dtype=Dtype.float32)
            if each.dtype is Dtype.bfloat16
            else each
            for each in tensors
        ]
        made = metaq.onnx.with_integers(data := model_of(held, opset=opset), tensors)
        is_known = opset >= 13 or "dtype" not in options
        assert kinds(made) == dict.fromkeys(("table", "matrix"), INT8 if is_known else None)
        close = 1e-2 if "dtype" in options else 1e-5
        np.testing.assert_allclose(outputs(made), outputs(data), rtol=0, atol=close * np.abs(outputs(data)).max())


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_finer_grids_are_rounded_unless_values_must_be_kept(opset):
    tensors = weights(MANY)
    data = model_of(tensors, opset=opset)
    made = metaq.onnx.with_integers(data, tensors)
    assert kinds(made) == {"table": INT8, "matrix": INT8}
    error = np.abs(outputs(made) - outputs(data)).max() / np.abs(outputs(data)).max()
    assert 1e-5 < error < 0.02
    exact = metaq.onnx.with_integers(data, tensors, exact=True)
    if opset < 21:
        assert kinds(exact) == {"table": None, "matrix": None}
        return
    assert kinds(exact) == {"table": INT16, "matrix": INT16}
    np.testing.assert_allclose(outputs(exact), outputs(data), rtol=0, atol=1e-5 * np.abs(outputs(data)).max())


def test_values_come_from_the_tensors():
    data = model_of([tensor(each.name, each.shape, each.grid, 99) for each in weights()])
    made, wanted = metaq.onnx.with_integers(data, weights()), model_of(weights())
    everything = metaq.onnx.with_integers(wanted, weights())
    assert kinds(made) == kinds(everything)
    stored = [
        {each.name: each.raw_data for each in onnx.load_from_string(file).graph.initializer}["matrix_quantized"]
        for file in (made, everything)
    ]
    assert stored[0] == stored[1]


def test_tied_and_other_tensors():
    others = weights()[1:]
    tied = TiedTensor(name="table", first=tensor("elsewhere", (50, 24), FEW, 1))
    exact = ExactTensor(name="matrix", values=others[0].restore(), dtype=Dtype.float32)
    data = model_of(weights())
    made = metaq.onnx.with_integers(data, [tied, exact, tensor("unknown", (3, 3)), tensor("shape", (3,))])
    assert kinds(made) == {"table": INT4, "matrix": None}
    np.testing.assert_allclose(outputs(made), outputs(data), rtol=0, atol=1e-5 * np.abs(outputs(data)).max())
    assert metaq.onnx.with_integers(data, [exact]) is data
    assert metaq.onnx.with_integers(data, []) is data


def test_half_precision_stays_half_precision():
    data = model_of(weights(dtype=Dtype.float16)[:2] + weights()[2:], dtype=TensorProto.FLOAT16)
    made = metaq.onnx.with_integers(data, weights(dtype=Dtype.float16)[:2])
    assert kinds(made)["matrix"] == INT4
    assert outputs(made).dtype == np.float16
    np.testing.assert_allclose(outputs(made), outputs(data), rtol=0, atol=4e-3 * np.abs(outputs(data)).max())


def test_elements_in_other_files_stay_there(tmp_path):
    model = onnx.load_from_string(model_of(weights()))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    data = (tmp_path / "m.onnx").read_bytes()
    assert metaq.onnx.with_integers(data, weights()) is data


def test_what_cannot_be_changed_says_why():
    data = model_of(weights())
    with pytest.raises(ConfigError, match=r"matrix: has the shape \(3, 3\), but \(24, 40\) in the ONNX file"):
        metaq.onnx.with_integers(data, [tensor("matrix", (3, 3))])
    for wrong in (b"", b"nonsense" * 9, data[: len(data) // 2]):
        with pytest.raises(FormatError, match="data: is no ONNX file"):
            metaq.onnx.with_integers(wrong, weights())
    old = onnx.load_from_string(model_of(weights(), opset=11))
    old.opset_import[0].version = 9
    with pytest.raises(ConfigError, match=r"version 9 of ONNX's operators, .*version_converter"):
        metaq.onnx.with_integers(old.SerializeToString(), weights())
