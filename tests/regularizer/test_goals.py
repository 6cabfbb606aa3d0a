from __future__ import annotations

import io
import math
import re
import statistics

import numpy as np
import pytest
import torch
from teacher_loop import STEPS, Loop, float_bytes, trained
from torch import nn

from metaq import ConfigError, EntropyRegularizer, FreezeConfig, RegularizerConfig, load
from metaq.regularizer import entropy_regularizer
from metaq.regularizer.last_choice import LEAST_SHARE, Placed, last_choice
from metaq.regularizer.pace import SETTLE
from metaq.regularizer.size_control import ASKING, SizeControl
from metaq.regularizer.step_control import REFRESHES

LEAST = 0.97


@pytest.mark.parametrize("ratio", [6, 16, 40])
def test_the_file_takes_no_more_than_the_goal_and_little_less(tmp_path, ratio):
    loop = Loop()
    regularizer = trained(loop, target_ratio=ratio)
    regularizer.finish()
    limit = int(float_bytes(loop.model) / ratio)
    size = regularizer.save(tmp_path / "model.metaq").file_bytes
    assert LEAST * limit <= size <= limit
    held, restored = loop.model.state_dict(), load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], held[name]) for name in held)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-2),
        lambda parameters: torch.optim.Adafactor(parameters, lr=1e-2),
    ],
)
def test_any_optimiser_reaches_it(tmp_path, make_optimizer):
    loop = Loop(make_optimizer=make_optimizer)
    regularizer = trained(loop, target_ratio=12)
    regularizer.finish()
    size = regularizer.save(tmp_path / "model.metaq").file_bytes
    assert LEAST <= size * 12 / float_bytes(loop.model) <= 1.0


def rows_in_use():
    """A table of zeros of which a few rows are read, and what makes a loss of it and a batch."""
    model = nn.Sequential(nn.Embedding(1000, 16), nn.Flatten(), nn.Linear(16, 8))
    nn.init.zeros_(model[0].weight)
    inputs = torch.arange(50)[:, None]
    return model, inputs, inputs[:, 0] % 8


def far_from_zero():
    """Targets around 2,000, to which the bias of the only output has come already."""
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
    nn.init.constant_(model[2].bias, 2000.0)
    inputs = torch.randn(256, 32)
    return model, inputs, 2000 + inputs[:, :1]


def test_single_numbers_are_kept_as_they_are(tmp_path):
    torch.manual_seed(0)
    model, inputs, wanted = far_from_zero()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    regularizer = EntropyRegularizer(model, total_steps=200, target_ratio=8).attach(optimizer)
    assert "2.bias" not in regularizer.grids()
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), wanted).backward()
        optimizer.step()
    regularizer.finish()
    assert float(nn.functional.mse_loss(model(inputs), wanted).detach()) < 0.05
    size = regularizer.save(tmp_path / "model.metaq").file_bytes
    assert LEAST <= size * 8 / float_bytes(model) <= 1.0
    # Where there is nothing else, they take part.
    assert set(EntropyRegularizer(nn.Linear(1, 1), total_steps=10, max_drop=1.0, larger_is_better=True).grids()) == {
        "weight",
        "bias",
    }


def one_far_out():
    """A weight far beyond all others."""
    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 8))
    with torch.no_grad():
        model[0].weight[0, 0] = 8.0
        model[2].weight[0, 0] = 5.0
    inputs = torch.randn(256, 32)
    return model, inputs, (inputs @ torch.randn(32, 8)).argmax(1)


@pytest.mark.parametrize(("make", "ratio"), [(rows_in_use, 12), (one_far_out, 32 / 7)])
def test_a_goal_that_weights_cannot_fill_leaves_them_as_they_are(tmp_path, make, ratio):
    torch.manual_seed(0)
    model, inputs, labels = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(model, total_steps=200, target_ratio=ratio).attach(optimizer)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    before, largest = model(inputs).detach(), float(model[0].weight.detach().abs().max())
    regularizer.finish()
    assert float(model[0].weight.detach().abs().max()) >= 0.97 * largest
    assert float((model(inputs) - before).detach().abs().max()) < 0.1 * float(before.abs().max())
    assert regularizer.save(tmp_path / "model.metaq").file_bytes <= float_bytes(model) / ratio


@pytest.mark.parametrize(("ratio", "steps"), [(4, 30), (5, 30), (4, 100)])
def test_a_short_training_of_a_single_layer_keeps_to_it(tmp_path, ratio, steps):
    torch.manual_seed(0)
    model = nn.Linear(32, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(model, total_steps=steps, target_ratio=ratio).attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 32)).square().mean().backward()
        optimizer.step()
    regularizer.finish()
    assert regularizer.save(tmp_path / "model.metaq").file_bytes <= float_bytes(model) / ratio


def test_the_scale_of_the_loss_does_not_matter():
    # Trainings that differ by rounding alone differ by up to a third: geometric means over seeds do not.
    errors, steps = [], []
    for scale in (1e-3, 1.0, 1e3):
        error, step = [], []
        for seed in range(4):
            loop = Loop(
                scale=scale,
                seed=seed,
                make_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3, eps=1e-12),
            )
            regularizer = trained(loop, target_ratio=12)
            regularizer.finish()
            error.append(loop.error())
            step.append(max(grid.step_size for grid in regularizer.grids().values()))
        errors.append(statistics.geometric_mean(error))
        steps.append(statistics.geometric_mean(step))
    assert max(errors) < 1.3 * min(errors)
    assert max(steps) < 1.3 * min(steps)


def test_more_bits_keep_more_of_the_network():
    errors = []
    for bits in (4.0, 2.0, 0.7):
        loop = Loop()
        trained(loop, target_bits_per_weight=bits).finish()
        errors.append(loop.error())
    untouched = Loop()
    for _ in range(STEPS):
        untouched.step()
    assert errors == sorted(errors)
    assert errors[0] < 1.5 * untouched.error()


def test_a_trained_network_is_not_thrown_away():
    loop = Loop()
    for _ in range(STEPS):
        loop.step()
    before = loop.error()
    for group in loop.optimizer.param_groups:
        group["lr"] = 1e-4
    trained(loop, steps=200, total_steps=200, target_bits_per_weight=4.0).finish()
    assert loop.error() < 1.3 * before


def test_a_resumed_training_ends_in_the_same_weights():
    straight = Loop()
    regularizer = trained(straight, target_ratio=12)
    regularizer.finish()

    first = Loop()
    regularizer = trained(first, steps=STEPS // 2, target_ratio=12)
    kept = io.BytesIO()
    torch.save(
        {
            "model": first.model.state_dict(),
            "optimizer": first.optimizer.state_dict(),
            "regularizer": regularizer.state_dict(),
            "batches": first._generator.get_state(),
        },
        kept,
    )
    kept.seek(0)
    saved = torch.load(kept, weights_only=True)
    second = Loop()
    regularizer = EntropyRegularizer(second.model, total_steps=STEPS, target_ratio=12).attach(second.optimizer)
    second.model.load_state_dict(saved["model"])
    second.optimizer.load_state_dict(saved["optimizer"])
    regularizer.load_state_dict(saved["regularizer"])
    second._generator.set_state(saved["batches"])
    for _ in range(STEPS // 2):
        second.step()
    regularizer.finish()
    for one, other in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)

    other = EntropyRegularizer(Loop().model, total_steps=STEPS, target_ratio=10)
    with pytest.raises(ConfigError, match="give the same goal"):
        other.load_state_dict(saved["regularizer"])


def test_a_loop_that_ends_early_still_keeps_to_the_goal_once_it_is_near(tmp_path):
    loop = Loop()
    regularizer = trained(loop, steps=round(STEPS * (1 - SETTLE / 2)), target_ratio=12)
    size = regularizer.save(tmp_path / "model.metaq").file_bytes
    assert LEAST <= size * 12 / float_bytes(loop.model) <= 1.0
    # The training goes on as if nothing had been.
    held = [parameter.detach().clone() for parameter in loop.model.parameters()]
    regularizer.save(tmp_path / "again.metaq")
    assert all(torch.equal(one, other) for one, other in zip(held, loop.model.parameters(), strict=True))
    assert (tmp_path / "again.metaq").read_bytes() == (tmp_path / "model.metaq").read_bytes()


def test_without_a_goal_the_goals_are_named():
    with pytest.raises(ConfigError, match=r"target_ratio .* target_bytes or target_bits_per_weight"):
        EntropyRegularizer(Loop().model, total_steps=STEPS)


@pytest.mark.parametrize(
    ("config", "goal", "told"),
    [
        (None, {"target_ratio": 8.0, "target_bytes": 1000}, "give one of them"),
        (None, {"target_ratio": -1.0}, "must be positive"),
        (None, {"target_bytes": "1000"}, "target_bytes: '1000' is no number"),
        (None, {"max_drop": 0.1, "larger_is_better": "min"}, "larger_is_better: 'min' is neither True nor False"),
        (None, {"target_ratio": 2.0}, "metaq.compress reaches that without training"),
        (None, {"target_bytes": 40}, "cannot be reached; with every weight at zero the file takes"),
        (RegularizerConfig(strength=1e-5, led_by="strength"), {}, "led_by: is about the way to a goal"),
        (RegularizerConfig(strength=1e-5), {"target_ratio": 8.0}, "strength: cannot be chosen with a goal"),
        (RegularizerConfig(forward="float"), {"target_ratio": 8.0}, "forward: cannot be chosen with a goal"),
        (RegularizerConfig(grouping="global"), {"target_ratio": 8.0}, "grouping: cannot be chosen with a goal"),
        (RegularizerConfig(ramp=0.1), {"target_ratio": 8.0}, "ramp: cannot be chosen with a goal"),
        (RegularizerConfig(freeze=FreezeConfig(start=0.7)), {"target_ratio": 8.0}, "start: cannot be chosen"),
    ],
)
def test_goals_that_make_no_sense_are_refused(config, goal, told):
    with pytest.raises(ConfigError, match=told):
        EntropyRegularizer(Loop().model, config, total_steps=STEPS, **goal)


def test_what_is_kept_exactly_is_not_counted_as_bits_of_the_weights(tmp_path):
    loop = Loop()
    for parameter in loop.model[2].parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError) as refused:
        EntropyRegularizer(loop.model, total_steps=STEPS, target_bytes=1)
    (fixed,) = re.findall(r"takes ([\d,]+) bytes", str(refused.value))
    limit = int(fixed.replace(",", "")) + 200
    assert limit > 7000
    regularizer = trained(loop, target_bytes=limit)
    regularizer.finish()
    assert limit - 20 <= regularizer.save(tmp_path / "model.metaq").file_bytes <= limit


def small_control() -> SizeControl:
    counts = torch.tensor([100.0, 300.0]).double()
    return SizeControl(RegularizerConfig(), limit_bytes=100, fixed_bytes=20, fixed_estimate=0.0, counts=counts)


def test_gradients_that_are_not_finite_do_not_reach_the_control():
    control = small_control()
    control.watch(torch.tensor([1.0, 3.0]).double(), 0.1)
    before = control.mean_squares()
    control.watch(torch.tensor([math.nan, math.inf]).double(), 0.11)
    control.weigh(math.nan, torch.ones(2).double(), 0.11)
    assert control.mean_squares() == before
    assert 0 < control.strength(0.2) < 1


@pytest.mark.parametrize(("most_exact", "exact"), [(10**5, 2), (0, 0)])
def test_the_file_is_really_coded_only_while_few_weights_settle(monkeypatch, most_exact, exact):
    """Coding takes seconds where an estimate takes none."""
    coded, estimated, loop = [], [], Loop()
    monkeypatch.setattr(entropy_regularizer, "EXACT_WEIGHTS", most_exact)
    regularizer = EntropyRegularizer(loop.model, total_steps=STEPS, target_ratio=12).attach(loop.optimizer)
    for name, steps in (("trained_size", coded), ("estimated_bits", estimated)):
        own = getattr(entropy_regularizer, name)

        def noting(*arguments, own=own, steps=steps, **named):
            steps.append(regularizer.steps)
            return own(*arguments, **named)

        monkeypatch.setattr(entropy_regularizer, name, noting)
    for _ in range(STEPS):
        loop.step()
    assert (len(coded), len(estimated)) == (exact, len(ASKING) - exact)
    assert all(step >= (1 - SETTLE) * STEPS for step in coded)


def test_what_is_fixed_in_the_file_is_no_part_of_an_estimate(monkeypatch):
    """Statistics of batch normalisation that were there before are in the least file already."""
    told: list[float] = []
    own = SizeControl.tell

    def tell(control: SizeControl, coded_bits: float, bits: float, progress: float) -> None:
        told.append(coded_bits)
        own(control, coded_bits, bits, progress)

    def first_told_amid_settling(most_exact: int) -> float:
        monkeypatch.setattr(entropy_regularizer, "EXACT_WEIGHTS", most_exact)
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(64)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
        model = nn.Sequential(nn.Linear(16, 64), norm, nn.ReLU(), nn.Linear(64, 1)).eval()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        settings = RegularizerConfig(exclude=("1.*",))
        regularizer = EntropyRegularizer(model, settings, total_steps=STEPS, target_bytes=1300).attach(optimizer)
        told.clear()
        while len(told) < 3:
            x = torch.randn(32, 16)
            optimizer.zero_grad()
            (model(x) - x[:, :1].abs()).square().mean().backward()
            optimizer.step()
        assert regularizer.steps >= (1 - SETTLE) * STEPS
        return told[-1]

    monkeypatch.setattr(SizeControl, "tell", tell)
    assert first_told_amid_settling(0) == pytest.approx(first_told_amid_settling(10**5), rel=0.1)


def test_where_there_are_too_few_bits_less_presses():
    def strength(bits: float) -> float:
        control = small_control()
        control.watch(torch.tensor([1.0, 3.0]).double(), 0.1)
        control.weigh(1.0, torch.ones(2).double(), 0.2)
        control.factors(2000.0, 0.2, torch.ones(2).double(), torch.zeros(2))
        control.factors(bits, 0.21, torch.ones(2).double(), torch.zeros(2))
        return control.strength(0.21)

    assert strength(500.0) < 0.01 * strength(1000.0) < 0.1 * strength(2500.0)
    assert strength(2500.0) == strength(5000.0)


def test_refreshes_are_as_many_whatever_the_length():
    for total_steps, every in ((50, 1), (STEPS, STEPS // REFRESHES), (10**6, 25)):
        assert EntropyRegularizer(Loop().model, total_steps=total_steps, target_ratio=8).config.refresh_every == every


class TestLastChoice:
    """Synthetic tensors; a file takes the entropy of their levels."""

    @staticmethod
    def size_of(levels):
        total = 0.0
        for its in levels:
            _, counts = np.unique(its, return_counts=True)
            total += float(-(counts * np.log2(counts / its.size)).sum()) / 8
        return math.ceil(total) + 20

    def placed(self, importance=1.0):
        generator = np.random.default_rng(0)
        return [
            Placed(places=generator.laplace(size=shape) * 1.5, importance=importance, limit=500)
            for shape in ((64, 48), (48,), (10, 4, 3, 3))
        ]

    def chosen(self, tensors, limit):
        nearest = [tensor.nearest() for tensor in tensors]
        sizes = {
            "nearest_bytes": self.size_of(nearest),
            "fixed_bytes": self.size_of([0 * levels for levels in nearest]),
        }
        return last_choice(tensors, limit, self.size_of, self.size_of, **sizes)

    def test_what_fits_is_left(self):
        tensors = self.placed()
        limit = self.size_of([tensor.nearest() for tensor in tensors])
        found, size = self.chosen(tensors, limit)
        assert size == limit
        for levels, tensor in zip(found, tensors, strict=True):
            assert np.array_equal(levels, tensor.nearest())

    @pytest.mark.parametrize("share", [0.99, 0.95, 0.8, 0.5])
    @pytest.mark.parametrize("importance", [1e-9, 1.0, 1e6])
    def test_the_goal_is_met_and_not_wasted(self, share, importance):
        tensors = self.placed(importance)
        limit = int(share * self.size_of([tensor.nearest() for tensor in tensors]))
        levels, size = self.chosen(tensors, limit)
        assert LEAST_SHARE * limit <= size <= limit
        assert self.size_of(levels) == size

    def test_weights_that_matter_stay(self):
        generator = np.random.default_rng(1)
        importance = np.where(generator.random((64, 48)) < 0.5, 1.0, 1e-3)
        tensor = Placed(places=generator.laplace(size=(64, 48)) * 1.5, importance=importance, limit=500)
        limit = int(0.85 * self.size_of([tensor.nearest()]))
        (levels,), _ = self.chosen([tensor], limit)
        moved = levels != tensor.nearest()
        assert moved[importance < 1].mean() > 3 * moved[importance == 1].mean()
