from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

import metaq.onnx
from metaq.compression import pipeline
from metaq.errors import ConfigError, OutputError
from metaq.model import checkpoint
from metaq.model.structure import fold
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, QuantizedTensor
from metaq.tensors.scales import Scales

CLOSE = 1e-5


def quantized(model, *, count=15, center=0.0, smallest=30):
    """The model in evaluation mode on quantised weights, and its tensors; large ones have a grid."""
    grids = {
        name: BucketGrid(center=center, radius=float(weight.detach().abs().max()) or 1.0, count=count)
        for name, weight in model.named_parameters()
        if weight.numel() >= smallest
    }
    tensors = pipeline.to_tensors(model, grids=grids)
    model.load_state_dict(checkpoint.restore(tensors))
    return model.eval(), tensors


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def perceptron(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 5))


class Branchy(nn.Module):
    """Convolutions with batch normalisation, tied layers, and a weight used in two ways."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.inner.weight
        self.last = nn.Linear(8, 40)

    def forward(self, images):
        hidden = torch.relu(self.norm(self.first(images))).mean((2, 3))
        hidden = self.again(torch.tanh(self.inner(hidden)))
        return self.last(hidden) @ self.last.weight


class Reader(nn.Module):
    """Embeddings, attention and a head that is tied to the embedding; keyword arguments and nested outputs."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(60, 16), nn.Embedding(12, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 60, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids, weights):
        hidden = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        hidden = self.layers(hidden) * weights[..., None]
        return {"logits": self.head(hidden), "rest": (hidden.sum(1), ids > 5)}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTM(8, 12, batch_first=True), nn.GRU(12, 6, batch_first=True)

    def forward(self, series):
        return self.gru(self.lstm(series)[0])[0][:, -1]


def test_weights_become_integers_and_outputs_stay(tmp_path):
    model, tensors = quantized(perceptron())
    path, plain = tmp_path / "net.onnx", tmp_path / "float.onnx"
    made = metaq.onnx.export(path, model, torch.randn(4, 20), tensors=tensors)
    assert made.integers == {"0.weight": "int4", "0.bias": "int4", "2.weight": "int4", "4.weight": "int4"}
    assert made.floats == {"2.bias": "no smaller as integers"}
    assert made.is_batch_free
    assert made.output_difference < CLOSE
    assert made.file_bytes == path.stat().st_size < made.float_bytes / 3
    assert metaq.onnx.export(plain, model, torch.randn(4, 20)).integers == {}
    assert made.float_bytes == pytest.approx(plain.stat().st_size, abs=100)
    assert operators(path).count("DequantizeLinear") == 4
    inputs = torch.randn(7, 20)
    torch.testing.assert_close(torch.from_numpy(run(path, inputs)[0]), model(inputs), rtol=CLOSE, atol=CLOSE)
    file = path.read_bytes()
    assert b".py" not in file
    metaq.onnx.export(path, model, torch.randn(4, 20), tensors=tensors)
    assert path.read_bytes() == file
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "float.onnx"}


def test_the_model_is_left_as_it_was(tmp_path):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(20, 40), nn.Dropout(0.5), nn.Tanh(), nn.Linear(40, 5))
    model, tensors = quantized(layers)
    model.train()
    before = copy.deepcopy(model.state_dict())
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20), tensors=tensors)
    assert made.output_difference < CLOSE
    assert model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())


def test_any_grids_are_exported(tmp_path):
    model = perceptron()
    grids = {
        "0.weight": BucketGrid(center=0.0, radius=0.3, count=16),
        "2.weight": BucketGrid(center=-0.11, radius=1.114, count=140),
        "4.weight": BucketGrid(center=0.0, radius=0.3, count=1001),
        "4.bias": BucketGrid(center=0.0, radius=0.3, count=7),
    }
    tensors = pipeline.to_tensors(model, grids=grids)
    model.load_state_dict(checkpoint.restore(tensors))
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20), tensors=tensors, exact=True)
    assert made.integers == {"0.weight": "int4", "2.weight": "int8", "4.weight": "int16"}
    assert made.floats == {"4.bias": "no smaller as integers"}
    assert made.rounded == ()
    assert made.rounding_difference == 0
    assert 0 < made.weight_difference < 1e-6
    assert made.output_difference < CLOSE


def test_finer_grids_than_eight_bits_are_rounded_and_that_is_told(tmp_path):
    model = perceptron()
    grids = {
        name: BucketGrid(center=0.0, radius=0.3, count=1001 if name != "0.weight" else 15)
        for name in ("0.weight", "2.weight", "2.bias", "4.weight")
    }
    tensors = pipeline.to_tensors(model, grids=grids)
    model.load_state_dict(checkpoint.restore(tensors))
    path, inputs = tmp_path / "net.onnx", torch.randn(4, 20)
    made = metaq.onnx.export(path, model, inputs, tensors=tensors)
    assert made.integers == {"0.weight": "int4", "2.weight": "int8", "4.weight": "int8"}
    assert made.rounded == ("2.weight", "4.weight")
    assert made.floats == {"2.bias": "a vector of more levels than eight bits hold"}
    assert made.output_difference < CLOSE
    assert 0 < made.weight_difference < 0.3 / 127
    with torch.no_grad():
        expected = model(inputs)
    found = torch.from_numpy(run(path, inputs)[0])
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert 1e-4 < difference <= made.rounding_difference + CLOSE
    assert made.rounding_difference < 0.05
    assert made.file_bytes < metaq.onnx.export(path, model, inputs, tensors=tensors, exact=True).file_bytes


@pytest.mark.parametrize("count", [7, 15, 101, 1001])
def test_scales_of_rows_and_columns_are_exported(tmp_path, count):
    torch.manual_seed(0)
    model = Reader().eval()
    grid = BucketGrid(center=0.0, radius=0.3, count=count)
    tensors = []
    for name, weight in model.state_dict().items():
        if weight.dim() == 2 and name != "head.weight":
            rows, columns = weight.shape
            exponents = (5 * np.arange(rows + columns) % 9 - 4).astype(np.int8)
            scales = Scales(rows=exponents[:rows], columns=exponents[rows:])
            indices = np.random.default_rng(rows).integers(0, count, weight.shape)
            tensors.append(QuantizedTensor(name=name, indices=indices, grid=grid, dtype=Dtype.float32, scales=scales))
    model.load_state_dict({**model.state_dict(), **checkpoint.restore(tensors)}, strict=False)
    inputs = {"ids": torch.randint(0, 60, (2, 9)), "weights": torch.rand(2, 9)}
    made = metaq.onnx.export(tmp_path / "net.onnx", model, inputs, tensors=tensors)
    assert made.output_difference < CLOSE
    assert set(made.integers.values()) == {"int4" if count == 7 or count == 15 else "int8"}
    assert bool(made.rounded) == (count == 1001)


def test_convolutions_normalisation_and_tied_layers(tmp_path):
    torch.manual_seed(0)
    model = Branchy()
    with torch.no_grad():
        for buffer in (model.norm.running_mean, model.norm.running_var):
            buffer.uniform_(0.5, 2)
    model, tensors = quantized(model, count=31, smallest=60)
    path = tmp_path / "net.onnx"
    made = metaq.onnx.export(path, model, torch.randn(1, 3, 6, 6), tensors=tensors)
    assert made.output_difference < CLOSE
    assert made.is_batch_free
    assert {"first.weight", "last.weight"} <= set(made.integers)
    tied = {
        name: kinds.get(name) for kinds in (made.integers, made.floats) for name in ("inner.weight", "again.weight")
    }
    assert tied["inner.weight"] == tied["again.weight"]


@pytest.mark.parametrize(("count", "kind"), [(15, "int4"), (255, "int8")])
def test_embeddings_attention_and_keyword_arguments(tmp_path, count, kind):
    torch.manual_seed(0)
    model, tensors = quantized(Reader(), count=count, smallest=200)
    inputs = {"ids": torch.randint(0, 60, (2, 9)), "weights": torch.rand(2, 9)}
    path = tmp_path / "net.onnx"
    made = metaq.onnx.export(path, model, inputs, tensors=tensors)
    assert made.output_difference < CLOSE
    assert made.is_batch_free
    assert set(made.integers.values()) == {kind}
    assert {"words.weight", "head.weight", "layers.layers.0.self_attn.in_proj_weight"} <= set(made.integers)
    graph = onnx.load(path).graph
    (looked_up,) = {node.input[0] for node in graph.node if node.op_type == "Gather" and "ids" in node.input}
    assert looked_up.endswith("_quantized") == (kind == "int8")
    after = [node for node in graph.node if any(name.endswith("DequantizeLinear") for name in node.input)]
    assert {node.op_type for node in after} <= {"Mul", "Gather"}


def test_recurrent_networks(tmp_path):
    torch.manual_seed(0)
    model, tensors = quantized(Recurrent(), smallest=200)
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(2, 5, 8), tensors=tensors)
    assert made.output_difference < CLOSE
    assert set(made.integers) == {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "gru.weight_ih_l0"}


@pytest.mark.parametrize("looked_up", [True, False])
def test_a_basis_is_multiplied_with_what_is_looked_up(tmp_path, looked_up):
    generator = np.random.default_rng(0)
    levels = np.round(np.linalg.qr(generator.normal(size=(16, 16)))[0] * 128).astype(np.int64)
    basis = Basis(indices=levels + 128, grid=BucketGrid(center=0.0, radius=257 / 256, count=257))
    grid = BucketGrid(center=0.0, radius=1.7, count=61)
    indices = generator.integers(0, 61, (200, 16))
    table = QuantizedTensor(
        name="0.weight", indices=indices, grid=grid, dtype=Dtype.float32, trellis_bits=8, basis=basis
    )
    layer = nn.Embedding(200, 16) if looked_up else nn.Linear(16, 200, bias=False)
    model = nn.Sequential(layer, nn.Tanh())
    model.load_state_dict(checkpoint.restore([table]))
    inputs = torch.arange(12).reshape(3, 4) if looked_up else torch.randn(3, 4, 16)
    path = tmp_path / "net.onnx"
    made = metaq.onnx.export(path, model, inputs, tensors=[table], exact=True)
    assert made.integers == {"0.weight": "int8"}
    assert made.output_difference < CLOSE
    assert operators(path)[:2] == (["DequantizeLinear", "Gather"] if looked_up else ["DequantizeLinear"] * 2)
    made = metaq.onnx.export(path, model, inputs, tensors=[table])
    assert made.rounded == ("0.weight",)
    assert made.output_difference < CLOSE
    assert operators(path).count("DequantizeLinear") == 1


def test_half_precision_may_be_kept_or_left(tmp_path):
    model, tensors = quantized(perceptron().half())
    path = tmp_path / "half.onnx"
    made = metaq.onnx.export(path, model, torch.randn(4, 20).half(), tensors=tensors)
    assert made.integers == {"0.weight": "int4", "2.weight": "int4", "4.weight": "int4"}
    assert made.weight_difference == 0
    assert run(path, torch.randn(4, 20).half())[0].dtype == np.float16
    made = metaq.onnx.export(tmp_path / "float.onnx", model.float(), torch.randn(4, 20), tensors=tensors)
    assert made.weight_difference == 0
    assert made.output_difference < CLOSE


def test_what_onnxruntime_cannot_run_is_refused_with_a_way_out(tmp_path):
    model, tensors = quantized(perceptron().bfloat16())
    with pytest.raises(OutputError, match=r"onnxruntime cannot run .* model\.float\(\)"):
        metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20).bfloat16(), tensors=tensors)
    made = metaq.onnx.export(tmp_path / "net.onnx", model.float(), torch.randn(4, 20), tensors=tensors)
    assert made.weight_difference == 0


def test_double_precision_is_kept_as_floats(tmp_path):
    model, tensors = quantized(perceptron().double())
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20).double(), tensors=tensors)
    assert made.integers == {}
    assert set(made.floats.values()) == {"no integers give its values"}
    assert made.output_difference < CLOSE


def test_zero_weights_go_and_folded_networks_are_smaller(tmp_path):
    model, tensors = quantized(perceptron(), smallest=1)
    with torch.no_grad():
        model[0].weight[5:25], model[0].bias[:] = 0, 0
        model[2].bias[:] = 0.125
    grids = {each.name: each.grid for each in tensors} | {"2.bias": BucketGrid(center=0.0, radius=1.0, count=16)}
    tensors = pipeline.to_tensors(model, grids=grids)
    model.load_state_dict(checkpoint.restore(tensors))
    whole = metaq.onnx.export(tmp_path / "whole.onnx", model, torch.randn(4, 20), tensors=tensors)
    folded = metaq.onnx.export(tmp_path / "folded.onnx", fold(model).model, torch.randn(4, 20), tensors=tensors)
    assert folded.file_bytes < whole.file_bytes - 20 * 50 / 2 + 100
    assert folded.integers.keys() >= {"0.weight", "2.weight", "4.weight"}
    inputs = torch.randn(6, 20)
    outputs = [torch.from_numpy(run(tmp_path / name, inputs)[0]) for name in ("whole.onnx", "folded.onnx")]
    torch.testing.assert_close(*outputs, rtol=CLOSE, atol=CLOSE)


def test_names_that_are_taken_are_passed_over(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 20)
            self.layer.weight_scale = nn.Parameter(torch.rand(20))
            self.layer.weight_quantized = nn.Parameter(torch.rand(20))

        def forward(self, inputs):
            return self.layer(inputs * self.layer.weight_scale) + self.layer.weight_quantized

    model, tensors = quantized(Scaled(), smallest=100)
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20), tensors=tensors)
    assert made.integers == {"layer.weight": "int4"}
    assert made.output_difference < CLOSE


def test_a_fixed_batch_is_told(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, inputs):
            return self.layer(inputs.reshape(4, 20))

    model, tensors = quantized(Fixed(), smallest=100)
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20), tensors=tensors)
    assert not made.is_batch_free
    assert made.inputs == {"inputs": (4, 20)}
    assert made.fixed == {}
    inputs = torch.randn(4, 20)
    torch.testing.assert_close(torch.from_numpy(run(tmp_path / "net.onnx", inputs)[0]), model(inputs))


class Tagger(nn.Module):
    """Words with a mask, whose number is limited."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(60, 16), nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 7)

    def forward(self, ids, mask):
        hidden = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.layer(hidden, src_key_padding_mask=mask == 0))


class Recurring(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(60, 16), nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 7)

    def forward(self, ids):
        return self.head(self.layer(self.words(ids))[0])


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 7)

    def forward(self, images):
        return self.head(torch.relu(self.first(images)).mean((2, 3)))


@pytest.mark.parametrize("length", [2, 7])
def test_the_length_is_free_where_the_network_takes_others(tmp_path, length):
    torch.manual_seed(0)
    path = tmp_path / "net.onnx"
    ids = torch.randint(0, 60, (1, length))
    for network, inputs in ((Tagger(), (ids, torch.ones_like(ids))), (Recurring(), ids)):
        model, tensors = quantized(network, smallest=200)
        made = metaq.onnx.export(path, model, inputs, tensors=tensors)
        assert all(isinstance(shape[0], str) and shape[1] == "length" for shape in made.inputs.values()), made.inputs
        assert made.fixed == {}
        assert made.output_difference < CLOSE
        for batch, other in ((1, 1), (2, 2), (3, 13), (5, length)):
            given = [torch.randint(0, 60, (batch, other)), torch.ones(batch, other, dtype=torch.int64)]
            given = given[: len(made.inputs)]
            with torch.no_grad():
                expected = model(*given)
            torch.testing.assert_close(torch.from_numpy(run(path, *given)[0]), expected, rtol=1e-4, atol=1e-4)
        shape = [
            each.dim_param or each.dim_value for each in onnx.load(path).graph.output[0].type.tensor_type.shape.dim
        ]
        assert shape == ["batch", "length", 7]


def test_images_of_any_size_are_taken_where_the_network_takes_them(tmp_path):
    torch.manual_seed(0)
    model, tensors = quantized(Pooled())
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(1, 3, 9, 9), tensors=tensors)
    assert made.inputs == {"images": ("batch", 3, "size", "size_1")}
    images = torch.randn(2, 3, 12, 17)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(torch.from_numpy(run(tmp_path / "net.onnx", images)[0]), expected, rtol=1e-4, atol=1e-4)


def test_a_length_that_tracing_fixes_is_told(tmp_path):
    class Unrolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, series):
            found = series[:, 0]
            for place in range(int(series.shape[1])):
                found = torch.tanh(self.layer(found + series[:, place]))
            return found

    model, tensors = quantized(Unrolled(), smallest=100)
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 6, 20), tensors=tensors)
    assert made.inputs == {"series": ("batch", 6, 20)}
    assert made.fixed == {"series": (1,)}
    assert made.is_batch_free
    assert made.output_difference < CLOSE


def test_tensors_are_taken_out_of_whatever_a_network_gives(tmp_path):
    class Various(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 30)

        def forward(self, inputs):
            hidden = self.layer(inputs)
            return {"one": hidden, "two": (hidden.sum(1), [hidden > 0]), "number": 3, "nothing": None, "name": "x"}

    model, tensors = quantized(Various(), smallest=100)
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20), tensors=tensors)
    assert made.inputs == {"inputs": ("batch", 20)}
    inputs = torch.randn(3, 20)
    found = run(tmp_path / "net.onnx", inputs)
    expected = model(inputs)
    assert [each.shape for each in found] == [(3, 30), (3,), (3, 30)]
    torch.testing.assert_close(torch.from_numpy(found[0]), expected["one"], rtol=CLOSE, atol=CLOSE)


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, inputs):
        return self.layer(inputs) if inputs.sum() > 0 else inputs


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, inputs):
        return torch.linalg.eigvalsh(self.layer(inputs).T @ self.layer(inputs))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, inputs):
        return functional.dropout(self.layer(inputs), training=True)


@pytest.mark.parametrize(
    ("model", "inputs", "error", "said"),
    [
        (Choosing(), torch.randn(4, 20), ConfigError, "network Choosing: cannot be traced"),
        (Spectral(), torch.randn(4, 20), ConfigError, "network Spectral: cannot be written as ONNX"),
        (Noisy(), torch.randn(4, 20), OutputError, "differ from those of PyTorch"),
        (perceptron(), torch.randn(4, 21), ConfigError, "does not take inputs of shape 4×21"),
        (perceptron(), {"image": torch.randn(4, 20)}, ConfigError, "does not take inputs of shape 4×20"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path, monkeypatch, model, inputs, error, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"precious")
    with pytest.raises(error, match=said):
        metaq.onnx.export(tmp_path / "net.onnx", model, inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == b"precious"


def test_tensors_that_are_not_the_models_are_refused(tmp_path):
    model, tensors = quantized(perceptron())
    with pytest.raises(ConfigError, match="load the restored ones into it first"):
        metaq.onnx.export(tmp_path / "net.onnx", perceptron(seed=1), torch.randn(4, 20), tensors=tensors)
    with pytest.raises(ConfigError, match=r"4\.weight: is no tensor of the network"):
        metaq.onnx.export(tmp_path / "net.onnx", model[:4], torch.randn(4, 20), tensors=tensors)
    assert not list(tmp_path.iterdir())


def test_a_wider_tolerance_lets_more_pass(tmp_path):
    made = metaq.onnx.export(tmp_path / "net.onnx", Noisy().eval(), torch.randn(4, 20), tolerance=10)
    assert made.output_difference > 0.1


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    model, tensors = quantized(perceptron())
    hidden = {"onnxruntime"}
    for module in ("metaq.onnx.exporting", "metaq.config"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None if name in hidden else object())
    made = metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20), tensors=tensors)
    assert made.output_difference is None
    hidden.add("onnxscript")
    with pytest.raises(ConfigError, match=r"onnxscript is not installed; the extra onnx .*"):
        metaq.onnx.export(tmp_path / "net.onnx", model, torch.randn(4, 20), tensors=tensors)


def test_a_folder_that_is_missing_is_an_error_of_output(tmp_path):
    model, tensors = quantized(perceptron())
    with pytest.raises(OutputError, match="cannot be written"):
        metaq.onnx.export(tmp_path / "missing" / "net.onnx", model, torch.randn(4, 20), tensors=tensors)
