"""A step whose sums stay on the device of the weights, without a GPU: on tensors without data nothing can be read."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metaq import EntropyRegularizer, FreezeConfig, RegularizerConfig
from metaq.errors import NonFiniteError

STEPS = 60
FREEZE = FreezeConfig(start=0.5, first_threshold=0.02)


def make_model(device: str = "cpu") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    return model.to(device)


def train(model: nn.Module, config: RegularizerConfig, *, steps: int = STEPS) -> EntropyRegularizer:
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    regularizer = EntropyRegularizer(model, config, total_steps=steps).attach(optimizer)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(16, 3, 8, 8, generator=generator).to(device)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return regularizer


def stay_on_device(monkeypatch):
    """Let sums stay where the weights are and be made by PyTorch alone, as on a GPU."""
    monkeypatch.setattr("metaq.regularizer.participants.device_of_sums", lambda tensors, _config: tensors[0].device)
    monkeypatch.setattr("metaq.regularizer.participants.Participants.are_on_host", False)
    monkeypatch.setattr("metaq.entropy.passes.dispatch.COMPILED_KINDS", set())


@pytest.fixture
def on_device(monkeypatch):
    stay_on_device(monkeypatch)


@pytest.mark.parametrize(
    "config",
    [
        RegularizerConfig(strength=1e-3, refresh_every=4, freeze=FREEZE),
        RegularizerConfig(strength=1e-3, refresh_every=1, forward="float", alpha=0.1),
        RegularizerConfig(strength=1e-3, grouping="global", freeze=FREEZE),
    ],
)
def test_a_step_on_a_device_does_what_a_step_by_the_host_does(config, monkeypatch):
    by_host = make_model()
    expected = train(by_host, config)
    stay_on_device(monkeypatch)
    on_device = make_model()
    found = train(on_device, config)
    for mine, other in zip(on_device.state_dict().values(), by_host.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)
    assert found.report().bits == pytest.approx(expected.report().bits, rel=1e-9)
    assert found.report().frozen == expected.report().frozen


@pytest.mark.parametrize(
    "config",
    [
        RegularizerConfig(strength=1e-5, refresh_every=1, freeze=FREEZE),
        RegularizerConfig(strength=1e-5, refresh_every=4, grouping="global"),
        RegularizerConfig(strength=1e-5, refresh_every=4, forward="float", alpha=0.5, norm="l1"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("on_device")
def test_a_step_never_waits_for_the_device(config, dtype, monkeypatch):
    """Tensors on the device "meta" have no data: whatever would have to wait for a number fails."""
    monkeypatch.setattr(
        "metaq.regularizer.participants.select_parameters", lambda model, **_: dict(model.named_parameters())
    )
    model = make_model("meta").to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(model, config, total_steps=STEPS).attach(optimizer)
    for _ in range(STEPS):
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    assert regularizer.steps == STEPS
    assert regularizer._slopes.is_meta


@pytest.mark.usefixtures("on_device")
def test_a_resumed_run_on_a_device_is_the_same():
    config = RegularizerConfig(strength=1e-3, refresh_every=4, freeze=FREEZE)
    whole = make_model()
    train(whole, config)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    regularizer = EntropyRegularizer(model, config, total_steps=STEPS).attach(optimizer)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        if step == 33:
            states = copy.deepcopy([owner.state_dict() for owner in (model, optimizer, regularizer)])
            model = make_model()
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            regularizer = EntropyRegularizer(model, config, total_steps=STEPS).attach(optimizer)
            for owner, state in zip((model, optimizer, regularizer), states, strict=True):
                owner.load_state_dict(state)
        optimizer.zero_grad()
        model(torch.randn(16, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
    for mine, other in zip(model.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.usefixtures("on_device")
def test_weights_that_diverge_on_a_device_are_told_of_by_the_report():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    regularizer = EntropyRegularizer(
        model, RegularizerConfig(strength=1e-5, warmup=0.0, refresh_every=1), total_steps=10
    )
    regularizer.attach(optimizer)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan)
        optimizer.step()
    with pytest.raises(NonFiniteError, match="diverged"):
        regularizer.report()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_cuda_never_waits_and_takes_the_buckets_of_the_cpu():
    config = RegularizerConfig(strength=1e-3, refresh_every=4, freeze=FREEZE)
    on_cpu, on_cuda = make_model(), make_model("cuda")
    regularizers = []
    for model in (on_cpu, on_cuda):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        regularizer = EntropyRegularizer(model, config, total_steps=STEPS).attach(optimizer)
        generator = torch.Generator().manual_seed(2)
        gradients = [[torch.randn(p.shape, generator=generator) for p in model.parameters()] for _ in range(STEPS)]
        placed = [[g.to(next(model.parameters()).device) for g in step] for step in gradients]
        try:
            for number, step in enumerate(placed):
                # What stays the same is brought to the device in the first steps.
                torch.cuda.set_sync_debug_mode("error" if model is on_cuda and number > 15 else "default")
                for parameter, gradient in zip(model.parameters(), step, strict=True):
                    parameter.grad = gradient
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        regularizers.append(regularizer)
    with regularizers[0].latent_weights(), regularizers[1].latent_weights():
        for mine, other in zip(on_cpu.parameters(), on_cuda.parameters(), strict=True):
            torch.testing.assert_close(other.cpu(), mine, rtol=1e-4, atol=1e-6)
