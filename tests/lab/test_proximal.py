from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import nn

from metaq.entropy.ecsq import solve_ecsq
from metaq.entropy.passes.grids import GridSet
from metaq.errors import ConfigError, NonFiniteError
from metaq.lab.proximal import Multipliers, ProximalRegularizer, compression_step
from metaq.regularizer.config import BucketConfig, RegularizerConfig
from metaq.tensors.grid import BucketGrid

STEPS = 120
GRID = BucketGrid(center=0.0, radius=1.5, count=3)
CONFIG = RegularizerConfig(forward="float", strength=1e-3, refresh_every=5)
PULLS = {"first_pull": 1e-3, "last_pull": 1.0}
seeds = st.integers(0, 2**32 - 1)


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def train(model, optimizer, first, last, scale=1.0):
    target = torch.arange(32) % 4
    for step in range(first, last):
        x = torch.randn(32, 12, generator=torch.Generator().manual_seed(step)) + target[:, None] / 2
        loss = nn.functional.cross_entropy(model(scale * x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def run(config=CONFIG, *, steps=STEPS, optimizer_class=torch.optim.Adam, lr=1e-2):
    model = make_model()
    optimizer = optimizer_class(model.parameters(), lr=lr)
    regularizer = ProximalRegularizer(model, config, total_steps=steps, **PULLS).attach(optimizer)
    train(model, optimizer, 0, steps)
    return model, regularizer


def test_an_evaluation_at_the_end_is_refused():
    _, regularizer = run(steps=20)
    with pytest.raises(ConfigError, match="evaluate: is for goals of a figure"):
        regularizer.finish(evaluate=lambda: 1.0)


def objective(targets, indices, grid, strength, penalty):
    counts = np.bincount(indices, minlength=grid.count)
    bits = counts[counts > 0] @ np.log2(len(targets) / counts[counts > 0])
    return strength * bits + penalty / 2 * np.sum((targets - grid.values_of(indices)) ** 2)


def instance(seed, *, n=None):
    rng = np.random.default_rng(seed)
    grid = BucketGrid(center=rng.normal(), radius=float(rng.uniform(0.2, 3)), count=int(rng.integers(2, 15)))
    targets = grid.center + grid.radius * rng.normal(0, 0.5, n or int(rng.integers(1, 200)))
    strength = float(10 ** rng.uniform(-6, 0))
    return rng, grid, targets, strength, strength * float(10 ** rng.uniform(-1, 3)) / grid.step_size**2


@given(seeds)
@settings(deadline=None)
def test_no_bucket_is_better_for_any_weight_and_nearest_rounding_is_not_better_for_all(seed):
    _, grid, targets, strength, penalty = instance(seed)
    found, code_lengths = compression_step(torch.from_numpy(targets), grid, strength=strength, penalty=penalty)
    away = (targets[:, None] - grid.reference_values()) ** 2
    costs = strength * code_lengths + penalty / 2 * away
    indices = found.numpy()
    mine = costs[np.arange(len(targets)), indices]
    assert (mine <= costs.min(axis=1) * (1 + 1e-9) + 1e-15).all()
    mine, nearest = (objective(targets, i, grid, strength, penalty) for i in (indices, grid.assign(targets)))
    assert mine <= nearest * (1 + 1e-9)


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_the_compression_step_keeps_the_best_of_all_assignments_and_never_claims_better(seed):
    rng = np.random.default_rng(seed)
    targets = rng.normal(0, 0.8, 5)
    penalty = float(10 ** rng.uniform(-1, 2))
    every = [np.array(indices) for indices in itertools.product(range(3), repeat=5)]
    costs = [objective(targets, indices, GRID, 1.0, penalty) for indices in every]
    best = every[int(np.argmin(costs))]
    lengths = np.log2(5 / np.maximum(np.bincount(best, minlength=3), 0.01))
    for start in (None, lengths):
        found, _ = compression_step(torch.from_numpy(targets), GRID, strength=1.0, penalty=penalty, code_lengths=start)
        reached = objective(targets, found.numpy(), GRID, 1.0, penalty)
        assert reached >= min(costs) - 1e-9
    assert reached == pytest.approx(min(costs), rel=1e-9)


@pytest.mark.parametrize(("strength", "penalty"), [(0.0, 1.0), (1.0, math.inf), (1e-300, 1e300)])
def test_without_a_price_every_weight_takes_the_nearest_bucket(strength, penalty):
    targets = torch.linspace(-2, 2, 41, dtype=torch.float64)
    found, code_lengths = compression_step(targets, GRID, strength=strength, penalty=penalty)
    np.testing.assert_array_equal(found.numpy(), GRID.assign(targets.numpy()))
    assert code_lengths is None


def test_targets_that_are_not_finite_are_refused():
    with pytest.raises(NonFiniteError):
        compression_step(torch.tensor([0.0, float("nan")]), GRID, strength=1.0, penalty=1.0)


def test_the_pull_grows_geometrically():
    regularizer = ProximalRegularizer(make_model(), replace(CONFIG, warmup=0.1), total_steps=100, **PULLS)
    pulls = []
    for regularizer.steps in (10, 40, 100, 200):
        pulls.append(regularizer.pull())
    assert pulls == pytest.approx([1e-3, 1e-2, 1.0, 1.0])


def moved(multipliers, parameter, by):
    """One optimiser step that moves the weights against a gradient."""
    parameter.grad = -torch.as_tensor(by, dtype=parameter.dtype)
    multipliers.before_optimizer()
    parameter -= 0.1 * parameter.grad
    multipliers.after_optimizer()


def minimizer(w, z, u, pull):
    return minimize_scalar(lambda x: (x - w) ** 2 / 2 + pull / 2 * (x + u - z) ** 2).x


@given(seeds, st.floats(1e-4, 10))
@settings(deadline=None)
def test_the_proximal_step_minimises_what_it_is_the_step_of(seed, pull):
    rng = np.random.default_rng(seed)
    parameter = torch.from_numpy(rng.normal(0, 1, 6))
    grids = GridSet.of([GRID])
    multipliers = Multipliers([parameter], [0], bucket_count=3)
    moved(multipliers, parameter, rng.normal(0, 1, 6))
    for _ in range(2):
        multipliers.compress(grids, strength=0.1, pull=pull)
        moved(multipliers, parameter, rng.normal(0, 0.1, 6))
    gradient = torch.from_numpy(rng.normal(0, 1, 6))
    before = (parameter + 0.1 * gradient).numpy()
    moved(multipliers, parameter, gradient)
    (z,), (u,) = list(multipliers.values(grids)), multipliers.state_dict()["multipliers"]
    best = [minimizer(*weight, pull) for weight in zip(before, z.tolist(), u.tolist(), strict=True)]
    np.testing.assert_allclose(parameter.numpy(), best, rtol=1e-6, atol=1e-6)


def test_multipliers_take_up_what_the_weights_are_short_of():
    parameter = torch.tensor([0.8, -0.2], dtype=torch.float64)
    multipliers, grids = Multipliers([parameter], [0], bucket_count=3), GridSet.of([GRID])
    moved(multipliers, parameter, [1e-9, 1e-9])
    multipliers.compress(grids, strength=0.0, pull=0.5)
    (u,) = multipliers.state_dict()["multipliers"]
    reached = 1 - 1 / 1.5
    torch.testing.assert_close(u, reached * torch.tensor([-0.2, -0.2], dtype=torch.float64), atol=1e-8, rtol=0)


def test_the_price_is_weighed_in_units_of_the_loss_whatever_the_learning_rate():
    def buckets(learning_rate, pull):
        parameter = 1.4 * torch.linspace(-1, 1, 30, dtype=torch.float64) ** 3
        multipliers, grids = Multipliers([parameter], [0], bucket_count=3), GridSet.of([GRID])
        parameter.grad = torch.full_like(parameter, 1e-6)
        multipliers.before_optimizer()
        parameter -= learning_rate * parameter.grad
        multipliers.after_optimizer()
        multipliers.compress(grids, strength=0.1, pull=pull)
        return next(multipliers.values(grids)).tolist()

    assert buckets(0.1, 0.02) == buckets(1.0, 0.2)
    assert buckets(0.1, 0.02) != buckets(0.1, 0.2)


@pytest.mark.parametrize(("optimizer_class", "lr"), [(torch.optim.Adam, 5e-3), (torch.optim.SGD, 0.1)])
def test_weights_end_on_the_grid(optimizer_class, lr):
    _, regularizer = run(optimizer_class=optimizer_class, lr=lr)
    step_size = min(grid.step_size for grid in regularizer.grids().values())
    assert regularizer.report().distance < 0.05 * step_size


@pytest.mark.parametrize("strength", [0.05, 0.2, 0.5])
def test_a_quadratic_loss_is_brought_as_low_as_by_quantising_for_it(strength):
    wanted = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = nn.ParameterList([nn.Parameter(wanted.clone())])
    config = RegularizerConfig(
        forward="float",
        strength=strength,
        warmup=0.0,
        ramp=0.0,
        decay_end=1.0,
        refresh_every=2,
    )
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.05)
    regularizer = ProximalRegularizer(weights, config, total_steps=400, first_pull=0.01, last_pull=1.0).attach(
        optimizer
    )
    for _ in range(400):
        optimizer.zero_grad()
        (weights[0] - wanted).square().sum().backward()
        optimizer.step()
    assert regularizer.report().distance < 1e-9
    grid = regularizer.grids()["0"]
    reached, quantized = (
        objective(wanted.numpy(), indices, grid, strength, 2.0)
        for indices in (
            grid.assign(weights[0].detach().numpy()),
            solve_ecsq(wanted, grid, mu=1 / strength).indices.numpy(),
        )
    )
    assert reached < 1.01 * quantized


def test_bits_fall_as_the_strength_grows():
    configs = [replace(CONFIG, strength=strength) for strength in (0.0, 1e-3, 1e-2, 0.1)]
    bits = [run(config)[1].report().bits for config in configs]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 0.5 * bits[0]


@pytest.mark.parametrize("exponent", [-6, 5])
def test_the_scale_of_the_weights_does_not_matter(exponent):
    config = replace(CONFIG, strength=1e-4)

    def quantized(scale):
        torch.manual_seed(0)
        model = nn.Linear(12, 4, bias=False)
        with torch.no_grad():
            model.weight *= scale
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * scale**2)
        regularizer = ProximalRegularizer(model, config, total_steps=STEPS, **PULLS).attach(optimizer)
        train(model, optimizer, 0, STEPS, scale=1 / scale)
        regularizer.finish()
        return model.weight.detach() / scale, regularizer.report().bits

    (plain, bits), (scaled, scaled_bits) = quantized(1.0), quantized(2.0**exponent)
    assert torch.equal(plain, scaled)
    assert bits == scaled_bits
    assert plain.unique().numel() > 2


@pytest.mark.parametrize("grouping", ["tensor", "global"])
@pytest.mark.parametrize("split", [7, 31, 60, 119])
def test_resuming_gives_the_identical_result(split, grouping):
    config = replace(CONFIG, grouping=grouping)
    whole, regularizer = run(config)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = ProximalRegularizer(model, config, total_steps=STEPS, **PULLS).attach(optimizer)
    train(model, optimizer, 0, split)
    stream = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), first.state_dict()], stream)
    stream.seek(0)
    of_model, of_optimizer, of_regularizer = torch.load(stream, weights_only=True)
    resumed = make_model(seed=9)
    resumed.load_state_dict(of_model)
    optimizer = torch.optim.Adam(resumed.parameters(), lr=1e-2)
    optimizer.load_state_dict(of_optimizer)
    second = ProximalRegularizer(resumed, config, total_steps=STEPS, **PULLS).attach(optimizer)
    second.load_state_dict(of_regularizer)
    train(resumed, optimizer, split, STEPS)
    assert second.report() == regularizer.report()
    for one in (regularizer, second):
        one.finish()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert second.grids() == regularizer.grids()


def test_the_model_holds_float_weights_until_the_end():
    model, regularizer = run(steps=40)
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with regularizer.latent_weights():
        assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())
    with regularizer.quantized_weights():
        quantized = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(quantized[name], held[name]) for name in held)
    grids, report = regularizer.grids(), regularizer.report()
    regularizer.finish()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, quantized[name])
        weights = tensor.double().numpy()
        np.testing.assert_array_equal(grids[name].values_of(grids[name].assign(weights)).astype(np.float32), tensor)
    assert regularizer.report().bits == report.bits
    assert regularizer.grids() == grids


def test_the_pull_leaves_the_gradient_alone():
    model = make_model()
    regularizer = ProximalRegularizer(model, replace(CONFIG, warmup=0.0), total_steps=10)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    regularizer.before_step()
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


def test_nothing_happens_before_the_warm_up_ends():
    config = RegularizerConfig(strength=1e-5, forward="float", warmup=0.5, ramp=0.2, refresh_every=1)
    model, plain = make_model(), make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    regularizer = ProximalRegularizer(model, config, total_steps=20, **PULLS).attach(optimizer)
    train(model, optimizer, 0, 10)
    train(plain, torch.optim.Adam(plain.parameters(), lr=1e-2), 0, 10)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert regularizer.report().bits > 0


def test_grids_stay_as_they_were_chosen():
    def step_sizes(config, steps=STEPS):
        return [grid.step_size for grid in run(config, steps=steps)[1].grids().values()]

    left = replace(CONFIG, warmup=0.0)
    assert step_sizes(left) == step_sizes(left, steps=1)
    fixed = replace(CONFIG, buckets=BucketConfig(rule="fixed", count=8, radius=0.5))
    assert set(step_sizes(fixed)) == {0.125}


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_plain_regulariser_is_added_to_the_gradient(norm, alpha):
    config = replace(CONFIG, strength=0.5, alpha=alpha, norm=norm, warmup=0.0, ramp=0.0, decay_end=1.0)
    model = make_model()
    regularizer = ProximalRegularizer(model, config, total_steps=10)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    regularizer.before_step()
    for parameter in model.parameters():
        plain = parameter.sign() if norm == "l1" else 2 * parameter
        torch.testing.assert_close(parameter.grad, 0.5 * alpha * plain.detach())


def test_weights_that_get_no_gradient_are_rounded_to_the_nearest():
    model = nn.ParameterDict({"used": torch.randn(20), "unused": torch.randn(20)})
    before = model["unused"].detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = RegularizerConfig(strength=1e-5, forward="float", warmup=0.0, refresh_every=2)
    regularizer = ProximalRegularizer(model, config, total_steps=50, last_pull=1.0).attach(optimizer)
    for _ in range(50):
        optimizer.zero_grad()
        model["used"].square().sum().backward()
        optimizer.step()
    grid = regularizer.grids()["unused"]
    regularizer.finish()
    values = grid.values_of(grid.assign(before.numpy())).astype(np.float32)
    np.testing.assert_array_equal(model["unused"].detach(), values)


def test_half_precision_weights_are_pulled_onto_the_grid():
    model = make_model().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    regularizer = ProximalRegularizer(model, CONFIG, total_steps=30, **PULLS).attach(optimizer)
    for _ in range(30):
        optimizer.zero_grad()
        model(torch.ones(2, 12, dtype=torch.bfloat16)).float().sum().backward()
        optimizer.step()
    assert regularizer.report().distance < 0.1
    regularizer.finish()
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_weights_that_diverge_are_told_of():
    model = make_model()
    regularizer = ProximalRegularizer(model, CONFIG, total_steps=10, **PULLS)
    optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
    regularizer.attach(optimizer)
    with pytest.raises(NonFiniteError):
        train(model, optimizer, 0, 10)


@pytest.mark.parametrize("options", [{"objective": "spread"}, {"forward": "quantized"}])
def test_what_does_not_go_with_it_is_refused(options):
    with pytest.raises(ConfigError, match="code_length"):
        ProximalRegularizer(make_model(), replace(CONFIG, **options), total_steps=10)


@pytest.mark.parametrize("pulls", [{"first_pull": 0.0}, {"first_pull": 0.5, "last_pull": 0.1}, {"last_pull": math.inf}])
def test_pulls_out_of_range_are_refused(pulls):
    with pytest.raises(ConfigError, match="first_pull"):
        ProximalRegularizer(make_model(), CONFIG, total_steps=10, **pulls)


def test_several_optimisers_and_states_of_other_pulls_are_refused():
    model = make_model()
    regularizer = ProximalRegularizer(model, CONFIG, total_steps=10, **PULLS)
    with pytest.raises(ConfigError, match="one optimizer"):
        regularizer.attach(*(torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (model[0], model[2])))
    with pytest.raises(ConfigError, match="other pulls"):
        ProximalRegularizer(model, CONFIG, total_steps=10).load_state_dict(regularizer.state_dict())
