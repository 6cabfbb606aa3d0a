"""Every kind of module: trained towards few bits, written, restored, and computing the same bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from metaq import EntropyRegularizer, RegularizerConfig, choose_grids, compress, load
from metaq.compression.pipeline import quantized_state_dict
from metaq.errors import ConfigError
from metaq.model.weights import is_too_small
from metaq.quantize import curvature
from metaq.quantize.recovery import Recovery

STEPS = 4


class Calling(nn.Module):
    """A module that is called in a way of its own."""

    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self._call = call

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._call(self.inner, inputs)


class Tied(nn.Module):
    """A table whose rows are both looked up and multiplied with."""

    def __init__(self, table: nn.Embedding | nn.EmbeddingBag) -> None:
        super().__init__()
        self.table = table
        self.decoder = nn.Linear(8, 30)
        self.decoder.weight = table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.tanh(self.table(tokens))).flatten(1)


def attention(**options: int) -> nn.Module:
    inner = nn.MultiheadAttention(16, 4, batch_first=True, **options)
    keys, values = options.get("kdim", 16), options.get("vdim", 16)
    return Calling(inner, lambda module, x: module(x, x[..., :keys], x[..., :values])[0].flatten(1))


def recurrent(inner: nn.Module) -> nn.Module:
    return Calling(inner, lambda module, x: module(x)[0].flatten(1))


def convolution(kind: type[nn.Module], **options: object) -> nn.Module:
    return nn.Sequential(kind(4, 8, 3, **options), nn.Flatten())


def perceptron(first: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(first or nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def shared() -> nn.Module:
    layer = nn.Linear(16, 16)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(16, 3))


def transposed() -> nn.Module:
    model = perceptron()
    model[0].weight = nn.Parameter(torch.randn(16, 12).t())
    return model


def transformers_convolution() -> nn.Module:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is not installed")
    return nn.Sequential(pytorch_utils.Conv1D(12, 16), nn.GELU(), pytorch_utils.Conv1D(3, 12))


def adapters() -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    return peft.get_peft_model(perceptron(), peft.LoraConfig(r=4, target_modules=["0"], init_lora_weights=False))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (attention, (3, 5, 16)),
    "attention of other sizes": (lambda: attention(kdim=6, vdim=10), (3, 5, 16)),
    "transformer": (
        lambda: recurrent(nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)),
        (3, 5, 16),
    ),
    "embedding": (lambda: Tied(nn.Embedding(30, 8)), ()),
    "bag of embeddings": (lambda: Tied(nn.EmbeddingBag(30, 8)), ()),
    "convolution 1d": (lambda: convolution(nn.Conv1d), (3, 4, 9)),
    "convolution 2d": (lambda: convolution(nn.Conv2d), (3, 4, 7, 7)),
    "convolution 3d": (lambda: convolution(nn.Conv3d), (3, 4, 5, 5, 5)),
    "transposed convolution 1d": (lambda: convolution(nn.ConvTranspose1d), (3, 4, 9)),
    "transposed convolution 2d": (lambda: convolution(nn.ConvTranspose2d, groups=2), (3, 4, 7, 7)),
    "transposed convolution 3d": (lambda: convolution(nn.ConvTranspose3d), (3, 4, 5, 5, 5)),
    "grouped convolution": (lambda: convolution(nn.Conv2d, groups=2), (3, 4, 7, 7)),
    "depthwise convolution": (lambda: convolution(nn.Conv2d, groups=4), (3, 4, 7, 7)),
    "padded convolution": (lambda: convolution(nn.Conv2d, padding="same", padding_mode="reflect"), (3, 4, 7, 7)),
    "channels last": (lambda: convolution(nn.Conv2d).to(memory_format=torch.channels_last), (3, 4, 7, 7)),
    "Conv1D of Transformers": (transformers_convolution, (5, 16)),
    "weight normalisation": (lambda: perceptron(parametrizations.weight_norm(nn.Linear(16, 12))), (5, 16)),
    "spectral normalisation": (lambda: perceptron(parametrizations.spectral_norm(nn.Linear(16, 12))), (5, 16)),
    "orthogonal": (lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(16, 16))), (5, 16)),
    "LSTM": (lambda: recurrent(nn.LSTM(16, 6, num_layers=2, bidirectional=True)), (4, 5, 16)),
    "GRU": (lambda: recurrent(nn.GRU(16, 6)), (4, 5, 16)),
    "adapters": (adapters, (5, 16)),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Flatten(), nn.LayerNorm(200)
        ),
        (6, 4, 7, 7),
    ),
    "shared module": (shared, (5, 16)),
    "transposed weight": (transposed, (5, 16)),
    "PReLU": (lambda: nn.Sequential(nn.Linear(16, 12), nn.PReLU(), nn.Linear(12, 3)), (5, 16)),
    "float16": (lambda: perceptron().half(), (5, 16)),
    "bfloat16": (lambda: perceptron().bfloat16(), (5, 16)),
    "float64": (lambda: perceptron().double(), (5, 16)),
}

CALIBRATED = (
    "attention",
    "embedding",
    "grouped convolution",
    "Conv1D of Transformers",
    "weight normalisation",
    "spectral normalisation",
    "LSTM",
    "adapters",
    "shared module",
    "float16",
)


def built(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """The module and inputs for it."""
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    model = make()
    generator = torch.Generator().manual_seed(1)
    if not shape:
        return model, torch.randint(0, 30, (4, 5), generator=generator)
    return model, torch.randn(shape, generator=generator).to(next(model.parameters()).dtype)


def assert_restored(model: nn.Module, path: Path, kind: str) -> None:
    """A fresh module with the weights of the file computes what `model` does, and its ties hold."""
    other, inputs = built(kind)
    loaded = load(path)
    other.load_state_dict(loaded)
    assert list(loaded) == sorted(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(inputs), model.eval()(inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_is_trained_and_restored_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model, inputs = built(kind)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # In float16 the usual 1e-8 is 0.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-4)
    config = RegularizerConfig(strength=1e-4, forward="quantized", warmup=0.0)
    regularizer = EntropyRegularizer(model, config, total_steps=STEPS).attach(optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(inputs).float().square().mean().backward()
        optimizer.step()
    regularizer.finish()
    grids = regularizer.grids()
    parameters = dict(model.named_parameters())
    trained = {name for name, p in parameters.items() if p.requires_grad and not is_too_small(p.numel(), p.nbytes)}
    assert grids.keys() == trained
    quantized = quantized_state_dict(model, grids=grids)
    for name, parameter in parameters.items():
        assert name not in trained or torch.equal(parameter, quantized[name])
        assert parameter.requires_grad or torch.equal(parameter, before[name])
    report = compress(model, grids=grids)
    report.save(tmp_path / "m.metaq")
    assert not {part.name for part in report.coverage.left_out} & trained
    assert_restored(model, tmp_path / "m.metaq", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_is_quantised_and_restored_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model, inputs = built(kind)
    before = copy.deepcopy(model.state_dict())
    loss = curvature.random_projection_loss
    if kind in CALIBRATED:
        curves = curvature.measure(model, [inputs], loss=loss)
        assert all((curves[name].diagonal > 0).any() for name in curves), kind
    found = compress(model, batches=[inputs] if kind in CALIBRATED else None, loss=loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {part.reason for part in found.coverage.left_out} <= {
        "buffer",
        "integer",
        "too small to pay",
        "running statistics of batch normalisation",
        "vectors of spectral normalisation",
    }
    found.save(tmp_path / "m.metaq")
    model.load_state_dict(found.state_dict())
    assert_restored(model, tmp_path / "m.metaq", kind)


def test_the_weight_of_an_attention_is_chosen() -> None:
    assert {"inner.in_proj_weight", "inner.in_proj_bias", "inner.out_proj.weight"} <= choose_grids(
        attention(), count=15
    ).keys()
    other = choose_grids(attention(kdim=6, vdim=10), count=15).keys()
    assert {"inner.q_proj_weight", "inner.k_proj_weight", "inner.v_proj_weight"} <= other


def test_adapters_alone_are_trained_and_written() -> None:
    model, _ = built("adapters")
    grids = EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=1).grids()
    assert grids.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in grids)
    adapters_alone = {name: model.state_dict()[name] for name in grids}
    assert compress(adapters_alone, grids=grids).coverage.share == 1.0


def test_what_is_frozen_is_measured_and_recovers_as_well() -> None:
    model, inputs = built("adapters")
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    measured = curvature.measure(model, [inputs], loss=curvature.random_projection_loss)
    assert measured.keys() == flags.keys()
    reference = model(inputs).detach()
    compress(
        model,
        target_ratio=3.0,
        batches=[inputs],
        loss=curvature.random_projection_loss,
        training_loss=lambda output, _: (output - reference).square().mean(),
    )
    assert flags == {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def test_a_bias_is_measured_though_its_weight_is_computed_or_tied() -> None:
    for first in (parametrizations.weight_norm(nn.Linear(16, 12)), parametrizations.spectral_norm(nn.Linear(16, 12))):
        torch.manual_seed(0)
        model = perceptron(first)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        measured = curvature.measure(model, [torch.randn(9, 16)], loss=curvature.random_projection_loss)
        assert (measured["0.bias"].diagonal > 0).all()
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    tied, tokens = built("embedding")
    measured = curvature.measure(tied, [tokens], loss=curvature.random_projection_loss)
    assert (measured["decoder.bias"].diagonal > 0).all()


def test_curvature_of_half_precision_does_not_overflow() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).half()
    inputs = torch.full((50, 4), 100.0).half()
    measured = curvature.measure(model, [inputs], loss=curvature.random_projection_loss)["0.weight"]
    assert measured.inputs is not None
    assert measured.inputs[0, 0] == 10_000.0


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_modules_that_cannot_be_copied_are_told_of() -> None:
    model = perceptron(nn.utils.weight_norm(nn.Linear(16, 12)))
    inputs = torch.randn(5, 16)
    model(inputs)
    assert set(choose_grids(model, count=15)) == set(dict(model.named_parameters()))
    with pytest.raises(ConfigError, match=r"take those of torch\.nn\.utils\.parametrizations"):
        Recovery(model, [inputs], lambda output, _: output.square().mean())
