from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from metaq import BucketConfig, ConfigError, EntropyRegularizer, FreezeConfig, RegularizerConfig, SolverError
from metaq.entropy.cells import cell_statistics
from metaq.entropy.dual import SpreadDual, solve_fista

STEPS = 60


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(32, 12, generator=generator) for _ in range(count)]


def train(model, regularizer, optimizer, inputs):
    target = torch.arange(32) % 4
    for x in inputs:
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return regularizer


def run(config, *, steps=STEPS, seed=0, optimizer_class=torch.optim.Adam, lr=1e-2):
    model = make_model(seed)
    optimizer = optimizer_class(model.parameters(), lr=lr)
    regularizer = EntropyRegularizer(model, config, total_steps=steps).attach(optimizer)
    train(model, regularizer, optimizer, batches(steps))
    return model, regularizer


@pytest.mark.parametrize(
    ("optimizer_class", "lr"), [(torch.optim.Adam, 1e-2), (torch.optim.SGD, 0.3), (torch.optim.AdamW, 1e-2)]
)
def test_bits_fall_against_training_without_the_term(optimizer_class, lr):
    with_term = run(RegularizerConfig(strength=3e-3), optimizer_class=optimizer_class, lr=lr)[1].report()
    without = run(RegularizerConfig(strength=0.0), optimizer_class=optimizer_class, lr=lr)[1].report()
    assert with_term.bits < 0.8 * without.bits
    assert with_term.weights == without.weights == 12 * 16 + 16 + 16 * 4 + 4
    assert with_term.bits_per_weight == pytest.approx(with_term.bits / with_term.weights)


def test_the_model_holds_quantised_weights_and_finish_leaves_them_there():
    model, regularizer = run(RegularizerConfig(strength=1e-5))
    grids = regularizer.grids()
    regularizer.finish()
    for name, parameter in model.named_parameters():
        weights = parameter.detach().double().numpy()
        values = grids[name].values_of(grids[name].assign(weights)).astype(np.float32)
        np.testing.assert_array_equal(values, parameter.detach().numpy())
    assert regularizer.report().distance < 1e-6


def test_latent_and_quantised_weights_come_and_go():
    model, regularizer = run(RegularizerConfig(strength=1e-5))
    held = copy.deepcopy(model.state_dict())
    with regularizer.latent_weights():
        latent = copy.deepcopy(model.state_dict())
    with regularizer.quantized_weights():
        quantized = copy.deepcopy(model.state_dict())
    assert any(not torch.equal(latent[name], held[name]) for name in held)
    assert all(torch.allclose(quantized[name], held[name], rtol=2**-11, atol=0) for name in held)
    assert all(torch.equal(model.state_dict()[name], held[name]) for name in held)


def test_float_forward_adds_exactly_lambda_beta_to_the_gradient():
    config = RegularizerConfig(
        objective="spread",
        strength=0.01,
        alpha=0.25,
        grouping="global",
        buckets=BucketConfig(rule="fixed", count=6, radius=1.0),
        forward="float",
        warmup=0.0,
        ramp=0.0,
        decay_end=1.0,
        refresh_every=1,
    )
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    regularizer = EntropyRegularizer(model, config, total_steps=1).attach(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, weights in before.items():
        moved = (weights - model.state_dict()[name]) - 0.01 * 0.25 * 2 * weights
        slopes = regularizer._slopes[0]
        assert float((moved / (0.01 * 0.75))[..., None].sub(slopes).abs().amin(dim=-1).max()) < 1e-3


def test_hysteresis_is_steeper_on_the_half_of_a_cell_nearer_the_attractor():
    config = RegularizerConfig(
        strength=1.0, warmup=0.0, ramp=0.0, decay_end=1.0, forward="float", hysteresis=0.5, include=("0.weight",)
    )
    model = make_model()
    regularizer = EntropyRegularizer(model, config, total_steps=10)
    weights = model[0].weight
    weights.grad = torch.zeros_like(weights)
    regularizer.before_step()
    gradient, step_size = weights.grad, regularizer.grids()["0.weight"].step_size
    distances = weights.detach().abs() / step_size
    near, far = gradient[(distances % 1 < 0.5) & (distances < 1)], gradient[(distances % 1 > 0.5) & (distances < 1)]
    assert float(near.abs().min()) == pytest.approx(float(near.abs().max()))
    assert float(near.abs().min()) == pytest.approx(3 * float(far.abs().max()))
    assert bool((gradient.sign() == weights.detach().sign()).all())


def test_nothing_happens_before_the_warm_up_ends():
    config = RegularizerConfig(strength=1e-5, warmup=0.5, ramp=0.2)
    model, plain = make_model(), make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(model, config, total_steps=20).attach(optimizer)
    train(model, regularizer, optimizer, batches(10))
    train(plain, None, torch.optim.Adam(plain.parameters(), lr=1e-2), batches(10))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert regularizer.active


def test_strength_ramps_up_and_decays():
    config = RegularizerConfig(strength=1.0, warmup=0.2, ramp=0.3, ramp_start=0.5, decay_end=0.1)
    regularizer = EntropyRegularizer(make_model(), config, total_steps=100)
    seen = []
    for step in range(101):
        regularizer.steps = step
        seen.append(regularizer.current_strength())
    assert seen[19] == 0.0
    assert seen[20] == pytest.approx(0.5)
    assert seen[50] == pytest.approx(1.0)
    assert seen[100] == pytest.approx(0.1)
    assert seen[20:51] == sorted(seen[20:51])
    assert seen[50:] == sorted(seen[50:], reverse=True)


@pytest.mark.parametrize("split", [7, 30, 55])
@pytest.mark.parametrize("rate_model", ["histogram", "context"])
def test_resuming_from_a_saved_state_gives_the_identical_result(split, rate_model):
    freeze = FreezeConfig(start=0.2, first_threshold=0.02)
    config = RegularizerConfig(strength=1e-3, refresh_every=4, freeze=freeze, rate_model=rate_model)
    whole, regularizer = run(config)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = EntropyRegularizer(model, config, total_steps=STEPS).attach(optimizer)
    train(model, first, optimizer, batches(STEPS)[:split])
    stream = io.BytesIO()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "regularizer": first.state_dict()}
    torch.save(saved, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    resumed = make_model(seed=9)
    resumed.load_state_dict(loaded["model"])
    optimizer = torch.optim.Adam(resumed.parameters(), lr=1e-2)
    optimizer.load_state_dict(loaded["optimizer"])
    second = EntropyRegularizer(resumed, config, total_steps=STEPS).attach(optimizer)
    second.load_state_dict(loaded["regularizer"])
    train(resumed, second, optimizer, batches(STEPS)[split:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert second.report() == regularizer.report()


def test_spread_objective_is_resumed_with_its_multipliers():
    config = RegularizerConfig(strength=1e-5, objective="spread", refresh_every=1, warmup=0.0)
    _, regularizer = run(config, steps=10)
    other = EntropyRegularizer(make_model(), config, total_steps=10)
    other.load_state_dict(regularizer.state_dict())
    xi = regularizer.state_dict()["xi"]
    assert bool(torch.isfinite(xi).all())
    assert torch.equal(other.state_dict()["xi"], xi)


@pytest.mark.parametrize("grouping", ["tensor", "global"])
def test_multipliers_of_the_spread_objective_are_those_of_the_dual_solver(grouping):
    config = RegularizerConfig(
        strength=1e-5,
        objective="spread",
        grouping=grouping,
        forward="float",
        refresh_every=1,
        warmup=0.0,
        buckets=BucketConfig(rule="fixed", count=7, radius=0.6),
    )
    model = make_model()
    regularizer = EntropyRegularizer(model, config, total_steps=10)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    regularizer.before_step()
    regularizer.report()
    weights = [parameter.detach() for parameter in model.parameters()]
    groups = [weights] if grouping == "global" else [[tensor] for tensor in weights]
    for group, grid, slopes in zip(groups, regularizer._grids, regularizer._slopes, strict=True):
        problem = SpreadDual(statistics=cell_statistics(group, grid))
        expected = solve_fista(problem, max_iterations=config.fista_iterations, tolerance=1e-300)
        np.testing.assert_allclose(slopes, expected.slopes, atol=1e-6 * sum(tensor.numel() for tensor in group))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_plain_regulariser_is_added_to_the_gradient(norm):
    config = RegularizerConfig(strength=0.5, alpha=1.0, norm=norm, forward="float", warmup=0.0, ramp=0.0, decay_end=1.0)
    model = make_model()
    regularizer = EntropyRegularizer(model, config, total_steps=10)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    regularizer.before_step()
    for parameter in model.parameters():
        plain = parameter.sign() if norm == "l1" else 2 * parameter
        torch.testing.assert_close(parameter.grad, 0.5 * plain.detach())


@pytest.mark.parametrize("every", [1, 4])
def test_slopes_are_kept_between_refreshes(every):
    config = RegularizerConfig(strength=1e-5, warmup=0.0, refresh_every=every, step_learning_rate=0.0)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    regularizer = EntropyRegularizer(model, config, total_steps=100).attach(optimizer)
    seen = []
    for x in batches(8):
        train(model, regularizer, optimizer, [x])
        seen.append(tuple(regularizer._slopes[0].tolist()))
    assert len(set(seen)) <= 8 / every
    assert len(set(seen)) > 1


def test_weights_that_diverge_are_told_of():
    model = make_model()
    regularizer = EntropyRegularizer(
        model, RegularizerConfig(strength=1e-5, warmup=0.0, refresh_every=1), total_steps=10
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    regularizer.attach(optimizer)
    train(model, regularizer, optimizer, batches(1))
    for parameter in model.parameters():
        parameter.grad.fill_(float("nan"))
    optimizer.step()
    with pytest.raises(SolverError, match="diverged"):
        optimizer.step()


def test_a_state_of_another_configuration_is_refused():
    _, regularizer = run(RegularizerConfig(strength=1e-5), steps=5)
    other = EntropyRegularizer(make_model(), RegularizerConfig(strength=1.0), total_steps=5)
    with pytest.raises(ConfigError, match="another configuration"):
        other.load_state_dict(regularizer.state_dict())
    incomplete = {key: value for key, value in regularizer.state_dict().items() if key != "weights"}
    with pytest.raises(ConfigError, match="missing"):
        other.load_state_dict(incomplete)


def test_oscillating_weights_are_frozen_and_stay():
    config = RegularizerConfig(
        strength=0.0,
        warmup=0.0,
        ramp=0.0,
        step_learning_rate=0.0,
        freeze=FreezeConfig(start=0.0, first_threshold=1e-3, last_threshold=1e-3),
    )
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    regularizer = EntropyRegularizer(model, config, total_steps=100).attach(optimizer)
    sign = 1.0
    step_size = {name: grid.step_size for name, grid in regularizer.grids().items()}
    for _ in range(60):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.full_like(parameter, sign * step_size[name])
        sign = -sign
        optimizer.step()
    assert regularizer.report().frozen == regularizer.report().weights
    held = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())


def test_tied_parameters_take_part_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(8, 8, bias=False)
            self.two = nn.Linear(8, 8, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    regularizer = EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=4).attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
    assert regularizer.report().weights == 64
    assert model.one.weight is model.two.weight


def test_half_precision_weights_are_quantised():
    model = make_model().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=3).attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 12, dtype=torch.bfloat16)).float().sum().backward()
        optimizer.step()
    regularizer.finish()
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_constant_tensors_have_a_grid():
    model = make_model()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert all(
        grid.step_size > 0
        for grid in EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=1).grids().values()
    )


def test_what_cannot_be_regularised_is_refused_with_its_name():
    model = make_model()
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"0\.weight"):
        EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=1)
    with pytest.raises(ConfigError, match="no floating tensor"):
        EntropyRegularizer(
            make_model(), RegularizerConfig(strength=1e-5, exclude=("*.weight", "*.bias")), total_steps=1
        )
    for name in ("include", "exclude"):
        with pytest.raises(ConfigError, match=rf"{name}: '0\.weight' is no tuple of name globs"):
            RegularizerConfig(strength=1e-5, **{name: "0.weight"})
    with pytest.raises(ConfigError, match=r"0\.wieght"):
        EntropyRegularizer(make_model(), RegularizerConfig(strength=1e-5, include=("0.wieght",)), total_steps=1)
    model = make_model()
    regularizer = EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=1)
    with pytest.raises(ConfigError, match=r"2\.weight"):
        regularizer.attach(torch.optim.SGD(model[0].parameters(), lr=1.0))
    with pytest.raises(ConfigError, match="total_steps"):
        EntropyRegularizer(make_model(), RegularizerConfig(strength=1e-5), total_steps=0)


def test_attaching_twice_is_refused_and_detaching_stops():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    regularizer = EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=5).attach(optimizer)
    with pytest.raises(ConfigError, match="attached"):
        regularizer.attach(optimizer)
    regularizer.detach()
    optimizer.step()
    assert regularizer.steps == 0


def test_two_regularizers_do_not_share_parameters_and_an_optimizer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    optimizer = torch.optim.Adam(model.parameters())
    first = EntropyRegularizer(model, total_steps=100, target_ratio=20).attach(optimizer)
    second = EntropyRegularizer(model, total_steps=100, target_ratio=10)
    with pytest.raises(ConfigError, match="another one is attached to this optimizer"):
        second.attach(optimizer)
    first.detach()
    second.attach(optimizer)
    second.detach()
    for name in ("0.*", "2.*"):
        config = RegularizerConfig(include=(name,), strength=1e-4)
        EntropyRegularizer(model, config, total_steps=100).attach(optimizer)


def test_a_file_of_a_training_that_nobody_attached_is_warned_of(tmp_path):
    model = nn.Linear(20, 30)
    regularizer = EntropyRegularizer(model, total_steps=100, target_ratio=20)
    with pytest.warns(UserWarning, match="has seen no step of an optimizer"):
        regularizer.save(tmp_path / "m.metaq")
