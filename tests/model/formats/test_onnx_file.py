from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from metaq.errors import FormatError
from metaq.model import checkpoint
from metaq.model.formats import onnx_file, onnx_graph, protobuf
from metaq.model.stored import FileRange, Reader
from metaq.tensors.quantized import Dtype

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT

TYPES = {
    **{"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "DOUBLE": "float64", "BOOL": "bool"},
    **{"FLOAT8E4M3FN": "float8_e4m3fn", "FLOAT8E5M2": "float8_e5m2", "COMPLEX64": "complex64"},
    **{"COMPLEX128": "complex128", "INT8": "int8", "UINT8": "uint8", "INT16": "int16", "UINT16": "uint16"},
    **{"INT32": "int32", "UINT32": "uint32", "INT64": "int64", "UINT64": "uint64"},
}


def tensor(name, *shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def node(operator, inputs, outputs, **options):
    return helper.make_node(operator, inputs.split(), outputs.split(), **options)


def constant(output, proto):
    return helper.make_node("Constant", [], [output], value=proto)


def graph(nodes, tensors=(), *, inputs=("x",), outputs=("y",), shape=None):
    return helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, shape and [None, None]) for name in outputs],
        list(tensors),
    )


def write(path, body, **options):
    options = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 8, **options}
    path.write_bytes(helper.make_model(body, **options).SerializeToString())
    return path


def linear(path):
    """A matrix and a bias."""
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    return write(path, graph(nodes, [tensor("w", 8, 32), tensor("b", 32, seed=1)], shape=["n", 8]))


def held(file):
    """Bytes of all tensors by their names."""
    with Reader() as reader:
        return {each.name: reader.raw(each, 0, each.size_bytes) for each in file.tensors}


def overwrite(file):
    """Halve all float32 tensors where they lie."""
    for each in file.tensors:
        if each.dtype is Dtype.float32:
            assert isinstance(each.place, FileRange)
            content = bytearray(each.place.path.read_bytes())
            values = np.frombuffer(content, "<f4", each.count, each.place.start) / 2
            content[each.place.start : each.place.start + each.size_bytes] = values.astype("<f4").tobytes()
            each.place.path.write_bytes(content)


def run(path, **inputs):
    runtime = pytest.importorskip("onnxruntime")
    onnx.checker.check_model(str(path), full_check=True)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def reasons(tmp_path, nodes, tensors, **options):
    return dict(onnx_file.read(write(tmp_path / "model.onnx", graph(nodes, tensors), **options)).reasons)


# Which tensors are found, and where.


@pytest.mark.parametrize("kind", TYPES)
def test_elements_of_every_type_are_found_where_they_are(tmp_path, kind):
    number = getattr(onnx.TensorProto, kind)
    size = 30 * np.dtype(helper.tensor_dtype_to_np_dtype(number)).itemsize
    content = np.random.default_rng(0).integers(0, 2, size, dtype=np.uint8).tobytes()
    proto = helper.make_tensor("w", number, [5, 1, 6], content, raw=True)
    file = onnx_file.read(write(tmp_path / "model.onnx", graph([node("Relu", "x", "y")], [proto])))
    (found,) = file.tensors
    assert (found.dtype.name, found.shape) == (TYPES[kind], (5, 1, 6))
    assert held(file) == {"w": content} == {"w": numpy_helper.to_array(proto).tobytes()}
    assert not file.is_state_dict


@pytest.mark.parametrize(
    ("kind", "size_bytes"),
    [("INT4", 8), ("UINT4", 8), ("FLOAT4E2M1", 8), ("FLOAT8E4M3FNUZ", 15), ("UINT2", 4), ("FLOAT6E2M3", 12)],
)
def test_types_that_no_file_has_are_bytes(tmp_path, kind, size_bytes):
    number = getattr(onnx.TensorProto, kind, None) or pytest.skip(f"this onnx has no {kind}")
    content = bytes(range(size_bytes))
    proto = onnx.TensorProto(name="w", data_type=number, dims=[3, 5], raw_data=content)
    file = onnx_file.read(write(tmp_path / "model.onnx", graph([node("Relu", "x", "y")], [proto])))
    (found,) = file.tensors
    assert (found.dtype, found.shape) == (Dtype.uint8, (size_bytes,))
    assert held(file) == {"w": content}


def test_fields_of_a_type_of_their_own_are_taken_only_if_they_have_the_elements_as_they_are(tmp_path):
    values = np.random.default_rng(0).standard_normal(70)
    protos = [
        helper.make_tensor("float", FLOAT, [7, 10], values),
        helper.make_tensor("double", onnx.TensorProto.DOUBLE, [70], values),
        helper.make_tensor("complex", onnx.TensorProto.COMPLEX64, [35], values[:35] + 1j * values[35:]),
        helper.make_tensor("half", onnx.TensorProto.FLOAT16, [70], values),
        helper.make_tensor("long", onnx.TensorProto.INT64, [70], range(70)),
        helper.make_tensor("texts", onnx.TensorProto.STRING, [2], [b"a", b"b"]),
        helper.make_tensor("none", FLOAT, [0, 3], []),
    ]
    file = onnx_file.read(write(tmp_path / "model.onnx", graph([node("Relu", "x", "y")], protos)))
    found = held(file)
    kept = found.pop("beside:half")
    assert found == {each.name: numpy_helper.to_array(each).tobytes() for each in protos[:3]}
    assert 2 * 70 < len(kept) <= 3 * 70
    reason = "its elements do not lie in the file as they are"
    assert dict(file.left_out) == {"half": reason}
    assert file.reasons["beside:half"] == reason
    (note,) = file.notes
    assert "raw data" in note


def test_weights_that_are_no_tensors_are_told(tmp_path):
    values = np.random.default_rng(0).standard_normal(80).astype(np.float32)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values[:9], "s"), numpy_helper.from_array(np.arange(9), "positions"), [8, 10]
    )
    nodes = [
        helper.make_node("Constant", [], ["n"], value_floats=values.tolist()),
        helper.make_node("Constant", [], ["few"], value_floats=values[:9].tolist()),
        helper.make_node("Constant", [], ["counts"], value_ints=list(range(200))),
        node("MatMul", "x s", "y"),
    ]
    body = graph(nodes, [tensor("w", 8, 32)])
    body.sparse_initializer.append(sparse)
    file = onnx_file.read(write(tmp_path / "model.onnx", body))
    assert [each.name for each in file.tensors] == ["w"]
    assert set(file.left_out) == {"n", "s"}
    assert file.notes


@pytest.mark.parametrize("kind", ["INT4", "INT8", "UINT8"])
def test_integers_that_do_not_lie_in_the_file_as_they_are_are_told(tmp_path, kind):
    proto = helper.make_tensor("q", getattr(onnx.TensorProto, kind), [16, 16], [1, 2] * 128)
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "y")]
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    file = onnx_file.read(write(tmp_path / "model.onnx", graph(nodes, [proto, scale])))
    assert set(file.left_out) == {"q"}
    assert set(held(file)) == {"s", "beside:q"}
    assert set(checkpoint.read(file.path)) == {"s"}
    assert file.notes == ("its weights are integers already: these are kept exactly",)


def test_a_sparse_tensor_keeps_its_file(tmp_path):
    part = onnx.TensorProto(name="s", data_type=FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    part.external_data.add(key="location", value="a.bin")
    (tmp_path / "a.bin").write_bytes(b"1234")
    sparse = onnx.SparseTensorProto(values=part, indices=numpy_helper.from_array(np.arange(1)), dims=[80])
    body = graph([node("MatMul", "x s", "y")], [])
    body.sparse_initializer.append(sparse)
    file = onnx_file.read(write(tmp_path / "model.onnx", body))
    assert file.data_files == (tmp_path / "a.bin",)
    assert set(file.left_out) == {"s"}


def test_a_tensor_in_several_pieces_stays_in_the_rest(tmp_path):
    path = linear(tmp_path / "model.onnx")
    model = onnx.load(path)
    twice = model.graph.initializer[0].SerializeToString() + b"\x4a\x04abcd"
    del model.graph.initializer[0]
    content = model.graph.SerializeToString() + field(5, twice)
    model.ClearField("graph")
    path.write_bytes(model.SerializeToString() + field(7, content))
    file = onnx_file.read(path)
    assert [each.name for each in file.tensors] == ["b"]
    assert set(file.left_out) == {"w"}


def _varint(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def branch(name, seed):
    """A subgraph with a tensor of its own, called w as in other ones, and one more graph in it."""
    inner = graph([node("MatMul", "x w", "z")], [tensor("w", 8, 8, seed=seed + 1)], inputs=(), outputs=("z",))
    nodes = [
        node("MatMul", "x w", "h"),
        node("If", "c", "i", name="inner", then_branch=inner, else_branch=inner),
        constant("k", tensor("", 8, 8, seed=seed + 2)),
        node("MatMul", "i k", "j"),
        node("Add", "h j", name),
    ]
    return graph(nodes, [tensor("w", 8, 8, seed=seed)], inputs=(), outputs=(name,))


def nested(path):
    nodes = [
        node("MatMul", "x w", "v"),
        constant("small", tensor("", 7, 9)),
        node("If", "c", "u", name="outer", then_branch=branch("t", 10), else_branch=branch("e", 20)),
        node("Add", "u v", "y"),
    ]
    body = graph(nodes, [tensor("w", 8, 8)], shape=["n", 8])
    body.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    return write(path, body)


def test_tensors_of_graphs_in_graphs_have_names_of_their_own(tmp_path):
    file = onnx_file.read(nested(tmp_path / "model.onnx"))
    assert [each.name for each in file.tensors] == [
        "w",
        "outer.else_branch.w",
        "outer.else_branch.inner.else_branch.w",
        "outer.else_branch.inner.then_branch.w",
        "k",
        "outer.then_branch.w",
        "outer.then_branch.inner.else_branch.w",
        "outer.then_branch.inner.then_branch.w",
        "outer.then_branch.k",
    ]
    assert held(file)["outer.else_branch.inner.then_branch.w"] == tensor("w", 8, 8, seed=21).raw_data
    assert held(file)["outer.then_branch.k"] == tensor("w", 8, 8, seed=12).raw_data
    assert not file.reasons


def test_names_stay_distinct_when_paths_repeat_too(tmp_path):
    then = graph([node("MatMul", "x w", "t")], [tensor("w", 8, 8)], inputs=(), outputs=("t",))
    other = graph([node("MatMul", "x w", "t")], [tensor("w", 8, 8)], inputs=(), outputs=("t",))
    nodes = [node("If", "c", out, name="same", then_branch=then, else_branch=other) for out in ("a", "b")]
    tensors = [tensor("w", 8, 8), tensor("same.then_branch.w", 8, 8)]
    file = onnx_file.read(write(tmp_path / "model.onnx", graph([*nodes, node("Add", "a b", "y")], tensors)))
    names = [each.name for each in file.tensors]
    assert names[:2] == ["w", "same.then_branch.w"]
    assert len(names) == len(set(names)) == 6


def test_new_values_in_nested_graphs_are_what_a_runtime_uses(tmp_path):
    path = nested(tmp_path / "model.onnx")
    x = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    overwrite(onnx_file.read(path))
    w, t, inner, k = (np.frombuffer(tensor("", 8, 8, seed=s).raw_data, "f4").reshape(8, 8) / 2 for s in (0, 10, 11, 12))
    expected = x @ w + x @ t + x @ inner @ k
    np.testing.assert_allclose(run(path, x=x, c=np.array(True)), expected, rtol=1e-4, atol=1e-5)


def functional(path):
    nodes = [constant("k", tensor("", 8, 8, seed=3)), node("MatMul", "p k", "q")]
    imports = [helper.make_opsetid("", 18)]
    function = helper.make_function("own", "Project", ["p"], ["q"], nodes, imports)
    body = graph([node("Project", "x", "y", domain="own")], shape=["n", 8])
    options = {"functions": [function], "opset_imports": [*imports, helper.make_opsetid("own", 1)]}
    return write(path, body, **options)


def test_new_values_in_functions_are_what_a_runtime_uses(tmp_path):
    path = functional(tmp_path / "model.onnx")
    x = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    before, file = run(path, x=x), onnx_file.read(path)
    assert [each.name for each in file.tensors] == ["k"]
    overwrite(file)
    np.testing.assert_allclose(run(path, x=x), before / 2, rtol=1e-5)


def test_graphs_of_training_are_looked_through(tmp_path):
    path = linear(tmp_path / "model.onnx")
    model = onnx.load(path)
    training = model.training_info.add()
    training.algorithm.CopyFrom(graph([node("MatMul", "x w", "y")], [tensor("w", 8, 8, seed=9)]))
    path.write_bytes(model.SerializeToString())
    assert [each.name for each in onnx_file.read(path).tensors] == ["w", "b", "algorithm.w"]


def test_a_model_without_weights_has_no_tensors(tmp_path):
    file = onnx_file.read(write(tmp_path / "model.onnx", graph([node("Relu", "x", "y")])))
    assert not file.tensors
    assert not file.notes


@pytest.mark.slow
def test_models_of_many_tensors_are_read(tmp_path):
    each = b"\x08\x02\x10\x01" + field(9, bytes(8))
    tensors = [field(5, each + field(8, b"t%d" % index)) for index in range(100_000)]
    assert len(onnx_file.read(raw_model(tmp_path / "model.onnx", b"".join(tensors))).tensors) == 100_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_external", [False, True])
def test_what_pytorch_exports_is_found(tmp_path, is_external):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module, inputs = Recurrent().eval(), (torch.zeros(1, 5, dtype=torch.long),)
    path = tmp_path / "model.onnx"
    torch.onnx.export(module, inputs, path, dynamo=True, verbose=False, external_data=is_external)
    file = onnx_file.read(path)
    assert len(file.data_files) == is_external
    chosen = [each.count for each in file.tensors if each.dtype is Dtype.float32 and each.name not in file.reasons]
    assert sum(chosen) == sum(parameter.numel() for parameter in module.parameters())


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 16)
        self.recurrent = torch.nn.LSTM(16, 24, batch_first=True)
        self.out = torch.nn.Linear(24, 20)

    def forward(self, tokens):
        return self.out(self.recurrent(self.embedding(tokens))[0]).clamp(0, 6)


# Which tensors must stay as they are.

W = tensor("w", 32, 32)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Conv", "x w", "y")], None),
        ([node("Conv", "x v w", "y")], None),
        ([node("ConvTranspose", "x w", "y")], None),
        ([node("Gemm", "x w", "y")], None),
        ([node("MatMul", "w x", "y")], None),
        ([node("Einsum", "x w", "y", equation="ij,jk->ik")], None),
        ([node("Gather", "w x", "y")], None),
        ([node("LSTM", "x v w", "y")], None),
        ([node("GRU", "x v u w", "y")], None),
        ([node("GRU", "x v u t s w", "y")], "a constant of GRU"),
        ([node("LayerNormalization", "x w", "y")], None),
        ([node("PRelu", "x w", "y")], None),
        ([node("Add", "x w", "y")], None),
        ([node("Mul", "w x", "y")], None),
        ([node("SkipLayerNormalization", "x v w", "y", domain="com.microsoft")], None),
        ([node("BatchNormalization", "x w v u t", "y")], None),
        ([node("BatchNormalization", "x v u w t", "y")], "running statistics of batch normalisation"),
        ([node("BatchNormalization", "x v u t w", "y")], "running statistics of batch normalisation"),
        ([node("Where", "x w v", "y")], "a constant of Where"),
        ([node("Clip", "x w", "y")], "a constant of Clip"),
        ([node("Pow", "x w", "y")], "a constant of Pow"),
        ([node("STFT", "x v w", "y")], "a constant of STFT"),
        ([node("Conv", "w x", "y")], "a constant of Conv"),
        ([node("Unheard", "w", "y", domain="own")], "a constant of Unheard"),
        ([node("Relu", "x", "y")], "no operator takes it"),
        ([node("Add", "x w", "h"), node("Sub", "w h", "y")], "a constant of Sub"),
        ([node("Clip", "x w", "h"), node("MatMul", "h w", "y")], None),
        ([node("QuantizeLinear", "x w", "y")], "scale or zero point of QuantizeLinear"),
        ([node("DequantizeLinear", "x w", "y")], "scale or zero point of DequantizeLinear"),
        ([node("QLinearConv", "x w", "y")], "scale or zero point of QLinearConv"),
        ([node("MatMulNBits", "x v w", "y")], "scale or zero point of MatMulNBits"),
        ([node("Transpose", "w", "h"), node("MatMul", "x h", "y")], None),
        (
            [node("Cast", "w", "h", to=1), node("Identity", "h", "i"), node("Where", "x h v", "y")],
            "a constant of Where",
        ),
        ([node("QuantizeLinear", "w s", "h"), node("DequantizeLinear", "h s", "i"), node("Conv", "x i", "y")], None),
        ([node("Split", "w", "h i"), node("MatMul", "x i", "y")], None),
        ([node("Concat", "x w", "h", axis=0), node("Resize", "h h", "y")], "a constant of Resize"),
    ],
)
def test_the_operator_that_takes_a_tensor_tells_what_it_is(tmp_path, nodes, reason):
    assert reasons(tmp_path, nodes, [W]).get("w") == reason


def test_a_handful_of_summands_are_no_weights(tmp_path):
    nodes = [node("Mul", "x few", "h"), node("Add", "h one", "i"), node("Add", "i enough", "y")]
    found = reasons(tmp_path, nodes, [tensor("few", 15), tensor("one"), tensor("enough", 16)])
    assert found == {"few": "a constant of Mul", "one": "a constant of Add"}


def test_integers_need_no_reason(tmp_path):
    nodes = [node("Where", "x i", "y")]
    assert reasons(tmp_path, nodes, [numpy_helper.from_array(np.arange(100), "i")]) == {}


def test_what_a_graph_in_a_graph_makes_of_a_tensor_counts(tmp_path):
    inner = graph([node("MatMul", "x w", "t"), node("Clip", "t v", "e")], inputs=(), outputs=("e",))
    given = graph([node("Identity", "u", "g")], [tensor("u", 8, 8)], inputs=(), outputs=("g",))
    nodes = [
        node("If", "c", "a", then_branch=inner, else_branch=inner),
        node("If", "c", "b", then_branch=given, else_branch=given),
        node("MatMul", "a b", "y"),
    ]
    assert reasons(tmp_path, nodes, [W, tensor("v", 32)]) == {"v": "a constant of Clip"}


def test_a_name_that_a_graph_in_a_graph_has_too_is_another_tensor(tmp_path):
    inner = graph([node("MatMul", "x w", "t")], [W], inputs=(), outputs=("t",))
    nodes = [node("If", "c", "a", name="if", then_branch=inner, else_branch=inner), node("Where", "x w a", "y")]
    assert reasons(tmp_path, nodes, [W]) == {"w": "a constant of Where"}


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_a_tensor_that_goes_into_a_loop_and_out_of_it_is_followed(tmp_path, operator):
    skipped = 2 if operator == "Loop" else 0
    counted = ["m", "cond"][:skipped]
    body = graph(
        [node("MatMul", "p q", "r"), node("Identity", "v", "s")],
        [tensor("v", 40)],
        inputs=(*counted, "p", "q"),
        outputs=(*counted[1:], "r", "s"),
    )
    nodes = [node(operator, " ".join([*counted, "x", "w"]), "a b", body=body), node("Clip", "a b", "y")]
    assert reasons(tmp_path, nodes, [W]) == {"v": "a constant of Clip"}


def test_a_tensor_that_goes_into_a_function_and_out_of_it_is_followed(tmp_path):
    imports = [helper.make_opsetid("", 18)]
    body = [node("MatMul", "p q", "r"), constant("s", tensor("", 100))]
    function = helper.make_function("own", "Where", ["p", "q"], ["r", "s"], body, imports)
    nodes = [node("Where", "x w", "a b", domain="own"), node("Clip", "a b", "y")]
    assert reasons(tmp_path, nodes, [W], functions=[function]) == {"s": "a constant of Clip"}


# Models that are quantised already.


def convolutional(path):
    nodes = [
        node("Conv", "x w b", "c", name="convolution"),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "f"),
        node("MatMul", "f m", "y", name="product"),
    ]
    tensors = [tensor("w", 16, 3, 3, 3), tensor("b", 16), tensor("m", 16, 40)]
    return write(path, graph(nodes, tensors, shape=["n", 3, 8, 8]))


def quantized_dynamically(path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    quantization.quantize_dynamic(convolutional(path.with_name("float.onnx")), path, per_channel=True)


def quantized_statically(path, form):
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Batches(quantization.CalibrationDataReader):
        def __init__(self):
            self._left = [np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)]

        def get_next(self):
            return {"x": self._left.pop()} if self._left else None

    quantization.quantize_static(
        convolutional(path.with_name("float.onnx")),
        path,
        Batches(),
        quant_format=getattr(quantization.QuantFormat, form),
        per_channel=True,
    )


def quantized_in_blocks(path):
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    body = graph([node("MatMul", "x m", "y", name="product")], [tensor("m", 256, 64)], shape=["n", 256])
    model = onnx.load(write(path, body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    made = quantizer.MatMulNBitsQuantizer(model, block_size=32, is_symmetric=False)
    made.process()
    made.model.save_model_to_file(str(path))


@pytest.mark.parametrize(
    ("make", "exact", "weights"),
    [
        (quantized_dynamically, {"scale of integers"}, {"b"}),
        (
            lambda path: quantized_statically(path, "QDQ"),
            {"scale or zero point of QuantizeLinear", "scale or zero point of DequantizeLinear"},
            set(),
        ),
        (
            lambda path: quantized_statically(path, "QOperator"),
            {
                "scale or zero point of QuantizeLinear",
                "scale or zero point of QLinearConv",
                "scale or zero point of QLinearGlobalAveragePool",
                "scale or zero point of QLinearMatMul",
            },
            set(),
        ),
        (quantized_in_blocks, {"scale or zero point of MatMulNBits"}, set()),
    ],
)
def test_scales_of_a_quantised_model_stay_as_they_are(tmp_path, make, exact, weights):
    path = tmp_path / "model.onnx"
    make(path)
    file = onnx_file.read(path)
    assert set(file.reasons.values()) == exact
    assert {each.name for each in file.tensors if each.dtype.is_quantizable} - file.reasons.keys() == weights
    assert file.notes == ("its weights are integers already: these are kept exactly",)


def test_a_float_model_is_not_called_quantised(tmp_path):
    assert not onnx_file.read(convolutional(tmp_path / "model.onnx")).notes


# External data.


EXTERNAL = [tensor("w", 8, 32), tensor("b", 32, seed=1), tensor("u", 32, 4, seed=2)]


def external(path, **options):
    """A matrix, a bias and a table in files beside the model."""
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "i"), node("MatMul", "i u", "y")]
    model = onnx.load(write(path, graph(nodes, EXTERNAL, shape=["n", 8])))
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, **options)
    return path


def edited(path, **entries):
    """Another word on where the first tensor lies."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"location": "weights.bin"}, ["weights.bin"]),
        ({"all_tensors_to_one_file": False}, ["w", "b", "u"]),
    ],
)
def test_new_values_in_other_files_are_what_a_runtime_uses(tmp_path, options, files):
    path = external(tmp_path / "model.onnx", **options)
    file = onnx_file.read(path)
    assert [each.name for each in file.data_files] == files
    assert all(each.place.path in file.data_files for each in file.tensors)
    assert held(file) == {each.name: each.raw_data for each in EXTERNAL}
    overwrite(file)
    x = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    w, b, u = (numpy_helper.to_array(each) / 2 for each in EXTERNAL)
    np.testing.assert_allclose(run(path, x=x), (x @ w + b) @ u, rtol=1e-4, atol=1e-5)


def test_tensors_in_the_same_bytes_are_tied(tmp_path):
    path = external(tmp_path / "model.onnx", location="weights.bin")
    model = onnx.load(path, load_external_data=False)
    copy = model.graph.initializer.add()
    copy.CopyFrom(model.graph.initializer[0])
    copy.name, copy.dims[:] = "copy", [32, 8]
    model.graph.node.append(node("BatchNormalization", "y v v copy v", "z"))
    path.write_bytes(model.SerializeToString())
    file = onnx_file.read(path)
    assert [each.name for each in file.tensors] == ["w", "b", "u"]
    assert dict(file.ties) == {"copy": "w"}
    assert dict(file.reasons) == {"w": "running statistics of batch normalisation"}


def test_a_tensor_of_an_unknown_type_keeps_its_file(tmp_path):
    path = external(tmp_path / "model.onnx", all_tensors_to_one_file=False)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].data_type = 99
    path.write_bytes(model.SerializeToString())
    file = onnx_file.read(path)
    assert [each.name for each in file.tensors] == ["b", "u"]
    assert [each.name for each in file.data_files] == ["w", "b", "u"]


def test_small_constants_and_other_attributes_keep_their_file(tmp_path):
    elsewhere = onnx.TensorProto(name="t", data_type=FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value="a.bin")
    nodes = [constant("k", elsewhere), node("ConstantOfShape", "k", "y", value=elsewhere)]
    (tmp_path / "a.bin").write_bytes(b"1234")
    file = onnx_file.read(write(tmp_path / "model.onnx", graph(nodes)))
    assert [each.name for each in file.tensors] == ["k"]
    assert file.data_files == (tmp_path / "a.bin",)


def test_missing_data_are_called_by_name(tmp_path):
    path = external(tmp_path / "model.onnx", location="weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FormatError, match=r"weights\.bin: is missing; copy it beside model\.onnx"):
        onnx_file.read(path)


@pytest.mark.parametrize(
    "location",
    [
        *("", ".", "/etc/passwd", "../weights.bin", "a/../../weights.bin", "C:\\weights.bin", "a\0b"),
        *("model.onnx", "~/x", "x" * 300, "./.git/config"),
    ],
)
def test_data_out_of_the_folder_are_refused(tmp_path, location):
    (tmp_path / "weights.bin").write_bytes(bytes(4000))
    (tmp_path / "model").mkdir()
    path = external(tmp_path / "model" / "model.onnx", location="weights.bin")
    with pytest.raises(FormatError):
        onnx_file.read(edited(path, location=location))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "100000"}, "ends before 'w' of model.onnx does"),
        ({"offset": "-4"}, "takes 1024 bytes, but is said to have '1024' from '-4' on"),
        ({"offset": "9" * 5000}, "export the model again"),
        ({"offset": "٣"}, "export the model again"),
        ({"length": "1020"}, "takes 1024 bytes, but is said to have '1020' from '0' on"),
        ({"length": ""}, "export the model again"),
        ({"offset": "4"}, "'w' and 'b' share a part of their bytes"),
    ],
)
def test_ranges_that_cannot_be_are_refused(tmp_path, entries, message):
    path = external(tmp_path / "model.onnx", location="weights.bin")
    with pytest.raises(FormatError, match=message):
        onnx_file.read(edited(path, **entries))


def test_a_tensor_of_another_type_in_the_same_bytes_is_refused(tmp_path):
    path = external(tmp_path / "model.onnx", location="weights.bin")
    model = onnx.load(path, load_external_data=False)
    copy = model.graph.initializer.add()
    copy.CopyFrom(model.graph.initializer[0])
    copy.name, copy.data_type = "copy", onnx.TensorProto.INT32
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match="'w' and 'copy' share a part of their bytes"):
        onnx_file.read(path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_links_may_not_lead_out_of_the_folder_but_into_the_cache_of_the_hub(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "0123" / "onnx"
    snapshot.mkdir(parents=True)
    path = external(snapshot / "model.onnx", location="weights.bin")
    data, blobs = snapshot / "weights.bin", tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    data.rename(blobs / "abcd")
    data.symlink_to(Path("../../../blobs/abcd"))
    assert onnx_file.read(path).data_files == (data,)
    data.unlink()
    (blobs / "abcd").rename(tmp_path / "abcd")
    data.symlink_to(tmp_path / "abcd")
    with pytest.raises(FormatError, match="is a link out of its folder"):
        onnx_file.read(path)
    data.unlink()
    data.symlink_to(data)
    with pytest.raises(FormatError, match="is missing"):
        onnx_file.read(path)


# What is no model, or a damaged one.


def test_models_are_known_by_their_content(tmp_path):
    assert onnx_file.recognises(linear(tmp_path / "model.of.some.sort"))
    assert onnx_file.recognises(functional(tmp_path / "x.onnx"))


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + bytes(100),
        b"GGUF" + bytes(100),
        b"\x80\x02}q\x00.",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html><html>",
        bytes(1000),
        b"\xff" * 1000,
        # A tensor, as test data of ONNX have them, and a graph without a model.
        tensor("w", 4, 4).SerializeToString(),
        graph([node("Relu", "x", "y")]).SerializeToString(),
    ],
)
def test_other_files_are_not_taken_for_models(tmp_path, content):
    for name in ("file.bin", "file.onnx"):
        (tmp_path / name).write_bytes(content)
        assert not onnx_file.recognises(tmp_path / name)


def test_random_bytes_are_not_taken_for_models(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "file.bin"
    for _ in range(300):
        path.write_bytes(rng.bytes(rng.integers(1, 200)))
        assert not onnx_file.recognises(path)


@pytest.mark.parametrize("make", [nested, linear, convolutional])
def test_a_model_cut_short_is_called_so(tmp_path, make):
    path = make(tmp_path / "model.onnx")
    whole = path.read_bytes()
    for part in range(1, 50):
        path.write_bytes(whole[: part * len(whole) // 50])
        assert onnx_file.recognises(path)
        with pytest.raises(FormatError, match=r"model\.onnx: is cut short or damaged"):
            onnx_file.read(path)


@pytest.mark.parametrize("make", [nested, functional, external])
def test_damage_is_told_or_harmless(tmp_path, make):
    path = make(tmp_path / "model.onnx")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    data = [each for each in tmp_path.iterdir() if each != path]
    for _ in range(400):
        content = bytearray(whole)
        for position in rng.integers(0, len(whole), rng.integers(1, 4)):
            content[position] ^= 1 << rng.integers(0, 8)
        path.write_bytes(content)
        onnx_file.recognises(path)
        try:
            file = onnx_file.read(path)
        except FormatError:
            continue
        ranges = sorted((each.place.path, each.place.start, each.size_bytes) for each in file.tensors)
        assert set(file.data_files) <= set(data)
        assert all(start + size <= source.stat().st_size for source, start, size in ranges)
        for (source, start, size), (other, after, _) in pairwise(ranges):
            assert source != other or start + size <= after


def test_a_missing_or_empty_file_is_told(tmp_path):
    for ask in (onnx_file.recognises, onnx_file.read):
        with pytest.raises(FormatError, match="no such file"):
            ask(tmp_path / "model.onnx")
    (tmp_path / "empty.onnx").touch()
    for ask in (onnx_file.recognises, onnx_file.read):
        with pytest.raises(FormatError, match="is empty"):
            ask(tmp_path / "empty.onnx")
    with pytest.raises(FormatError, match="cannot be read"):
        onnx_file.read(tmp_path)


def field(number, content):
    """A field of bytes, as a message has it."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def raw_model(path, content):
    path.write_bytes(b"\x08\x08" + field(7, content))
    return path


def test_a_graph_in_a_graph_without_end_is_refused(tmp_path):
    content = b""
    for _ in range(3000):
        content = field(1, field(5, field(6, content)))
    path = raw_model(tmp_path / "model.onnx", content)
    assert onnx_file.recognises(path)
    with pytest.raises(FormatError, match="more than 32 graphs in each other"):
        onnx_file.read(path)


@pytest.mark.parametrize(
    "content",
    [
        # Numbers of 11 bytes, and without an end
        b"\x08" + b"\x80" * 10 + b"\x01",
        b"\x08" + b"\xff" * 3,
        # Fields that are longer than the message, in it and in one that it holds
        b"\x2a" + _varint(1 << 62) + b"abc",
        field(5, b"\x42\x7fw"),
        # The number 0, groups, and an unknown kind
        b"\x02\x01a",
        b"\x0b\x0c",
        b"\x0f",
        # A name of another kind, one that is no text, one without an end, and none
        field(5, b"\x40\x01"),
        field(5, field(8, b"\xff\xfe") + field(9, b"")),
        field(5, field(8, b"w" * (protobuf.MOST_TEXT_BYTES + 1))),
        field(5, field(9, b"abcd") + b"\x10\x01\x08\x01"),
        # Shapes: below 0, too long, and larger than the elements
        field(5, field(8, b"w") + b"\x10\x01\x08" + b"\xff" * 9 + b"\x01" + field(9, b"abcd")),
        field(5, field(8, b"w") + b"\x10\x01" + field(1, b"\x01" * 33) + field(9, b"abcd")),
        field(5, field(8, b"w") + b"\x10\x01" + b"\x08\x01" * 33 + field(9, b"abcd")),
        field(5, field(8, b"w") + b"\x10\x01" + field(1, _varint(1 << 62) * 32) + field(9, b"abcd")),
        field(5, field(8, b"w") + b"\x10\x01\x08\x02" + field(9, b"abcd")),
    ],
)
def test_messages_that_cannot_be_are_refused(tmp_path, content):
    with pytest.raises(FormatError, match=r"model\.onnx: is (cut short or )?damaged"):
        onnx_file.read(raw_model(tmp_path / "model.onnx", content))


def test_two_graphs_are_refused(tmp_path):
    path = linear(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(FormatError, match="it has 2 graphs"):
        onnx_file.read(path)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    for nodes in ([node("Relu", "x", "y")], [constant("w", tensor("", 8, 8))]):
        tensors = [W, W] if len(nodes[0].input) else [W]
        with pytest.raises(FormatError, match="two tensors called 'w' in one graph"):
            onnx_file.read(write(tmp_path / "model.onnx", graph(nodes, tensors)))


def test_fields_without_number_are_not_gone_through(tmp_path, monkeypatch):
    monkeypatch.setattr(protobuf, "MOST_NUMBERS", 1000)
    path = raw_model(tmp_path / "model.onnx", b"\x0a\x00" * 600)
    with pytest.raises(FormatError, match="has more fields than metaq reads"):
        onnx_file.read(path)


def test_more_tensors_than_a_file_can_have_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "MAX_TENSORS", 1)
    with pytest.raises(FormatError, match="has more than 1 tensors"):
        onnx_file.read(linear(tmp_path / "model.onnx"))


def test_long_lists_of_numbers_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(protobuf, "MOST_NUMBERS", 1000)
    trees = node("TreeEnsemble", "x", "y", domain="ai.onnx.ml", weights=[0.5] * 5000, ids=list(range(5000)))
    assert not onnx_file.read(write(tmp_path / "model.onnx", graph([trees]))).tensors


@pytest.mark.parametrize("name", ["a b", "/é/ü:0", "\n\t", "名", "x" * 1000, "file:x", "../../w"])
def test_names_may_be_of_any_characters(tmp_path, name):
    file = onnx_file.read(write(tmp_path / "model.onnx", graph([node("Relu", "x", "y")], [tensor(name, 4)])))
    assert [each.name for each in file.tensors] == [name]


def test_external_data_that_no_tensor_has_are_told(tmp_path):
    body = graph([node("MatMul", "x w", "y")], [tensor("w", 64, 64)], shape=["n", 64])
    for number in (1, 2, 3):
        model = onnx.load_from_string(write(tmp_path / "plain.onnx", body).read_bytes())
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        size_bytes = (tmp_path / "w.bin").stat().st_size
        notes = onnx_file.read(tmp_path / "m.onnx").notes
        assert len(notes) == (number > 1)
        unused = size_bytes - 64 * 64 * 4
        assert all(f"{unused:,} of {size_bytes:,} bytes of w.bin belong to no tensor" in note for note in notes)
