"""Trainings to a goal in which λ, and not the step sizes, keeps the bits on their path."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from teacher_loop import STEPS, Loop, trained
from torch import nn

from metaq import EntropyRegularizer, RegularizerConfig
from metaq.compression.compressed import Goal
from metaq.regularizer.pace import SETTLE
from metaq.regularizer.quality_control import QualityControl
from metaq.regularizer.size_control import AIM, FALL, RISEN, UNDERSHOOT, SizeControl
from metaq.regularizer.step_control import StepControl

LED = RegularizerConfig(led_by="strength")
BITS, WEIGHTS, FIXED_BYTES = 8000, 100_000, 20
PRESSED = 1 - SETTLE
"""Share of all steps in which weights are pressed, without a warm-up."""

REFRESHES = 200


def size_control(*, bits: int = BITS, led_by: str = "strength") -> SizeControl:
    """Of one group, without a warm-up, to so many bits of weights."""
    return SizeControl(
        RegularizerConfig(warmup=0.0, led_by=led_by),
        limit_bytes=FIXED_BYTES + bits // 8,
        fixed_bytes=FIXED_BYTES,
        fixed_estimate=0.0,
        counts=torch.tensor([WEIGHTS]).double(),
    )


def refresh(control: StepControl, bits: float, progress: float, *, scale: float = 1.0) -> float:
    """What happens at a refresh where a loss of that scale has the same gradients as ever; gives λ."""
    step_sizes = torch.ones(1).double()
    control.watch(torch.tensor([WEIGHTS * scale**2]).double(), progress)
    control.weigh(1e-3 * scale * WEIGHTS, step_sizes, progress)
    factors = control.factors(bits, progress, step_sizes, torch.zeros(1))
    assert torch.isfinite(factors).all()
    return control.strength(progress)


def relaxing(*, sensitivity: float, scale: float = 1.0) -> list[float]:
    """Bits, at every refresh, of a model whose bits relax towards a level that falls as λ grows."""
    control, bits, trace = size_control(), 200_000.0, []
    for number in range(REFRESHES):
        strength = refresh(control, bits, number / REFRESHES, scale=scale)
        bits += 0.2 * (min(sensitivity * (strength / scale) ** -0.5, 2 * bits) - bits)
        trace.append(bits)
    return trace


@pytest.mark.parametrize("sensitivity", [500.0, 2000.0, 10_000.0])
def test_the_strength_finds_the_bits(sensitivity: float) -> None:
    trace = relaxing(sensitivity=sensitivity)
    assert min(trace) < 0.97 * BITS
    risen = trace[int(REFRESHES * PRESSED * 0.95) : int(REFRESHES * PRESSED)]
    assert risen == pytest.approx([BITS] * len(risen), rel=0.05)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    assert relaxing(sensitivity=2000.0, scale=scale) == pytest.approx(relaxing(sensitivity=2000.0), rel=1e-6)


def test_the_path_falls_below_the_goal_and_comes_back() -> None:
    control = size_control()
    shares = [number / 1000 for number in range(1001)]
    path = [math.exp(control.path(30_000.0, share * PRESSED, 0.0)) for share in shares]
    lowest = int(1000 * FALL)
    assert path[0] == pytest.approx(30_000)
    assert path[lowest] == min(path) == pytest.approx((1 - UNDERSHOOT) * AIM * BITS)
    assert path[: lowest + 1] == sorted(path[: lowest + 1], reverse=True)
    assert path[lowest:] == sorted(path[lowest:])
    risen = path[int(1000 * RISEN) + 1 :]
    assert risen == pytest.approx([AIM * BITS] * len(risen))


def test_the_strength_grows_above_the_path_and_falls_below_it() -> None:
    control, start = size_control(), RISEN * PRESSED + 1e-3
    first = refresh(control, BITS * AIM, start)
    times = [start + number * 1e-3 for number in range(1, 101)]
    above = [refresh(control, 1.3 * BITS, at) for at in times[:30]]
    below = [refresh(control, 0.8 * BITS, at) for at in times[30:]]
    assert all(later > earlier for earlier, later in itertools.pairwise([first, *above]))
    assert below == sorted(below, reverse=True)
    assert below[-1] < first < above[-1]


@pytest.mark.parametrize("led_by", ["step", "strength"])
def test_bits_that_collapse_to_none_do_not_end_the_training(led_by: str) -> None:
    config = RegularizerConfig(warmup=0.0, led_by=led_by)
    quality = QualityControl(
        config, Goal(target_value=90.0, larger_is_better=True), counts=torch.tensor([WEIGHTS]).double()
    )
    quality.observe(95.0, None, 0.0)
    for control in (size_control(led_by=led_by), quality):
        before = refresh(control, 30_000.0, 0.1)
        collapsed = [refresh(control, 0.0, 0.11 + number / 100) for number in range(10)]
        assert 0 < collapsed[-1] < before
        back = [refresh(control, 30_000.0, 0.22 + number / 100) for number in range(10)]
        assert back[-1] >= 0.1 * before


def test_a_state_goes_on() -> None:
    whole, resumed = size_control(), size_control()
    for number in range(100):
        refresh(whole, 30_000.0 - 250 * number, number / REFRESHES)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for number in range(100, REFRESHES):
        bits = BITS + 500 * math.sin(number)
        assert refresh(whole, bits, number / REFRESHES) == refresh(resumed, bits, number / REFRESHES)


def memorised(*, seed: int, target_bits_per_weight: float) -> EntropyRegularizer:
    """A network learns by heart what has no rule, so that no bit is too many; its training has come to its end."""
    torch.manual_seed(seed)
    inputs, labels = torch.randn(1000, 64), torch.randint(10, (1000,))
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    regularizer = EntropyRegularizer(model, LED, total_steps=3000, target_bits_per_weight=target_bits_per_weight)
    regularizer.attach(optimizer)
    for _ in range(3000):
        batch = torch.randint(len(inputs), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    regularizer.finish()
    return regularizer


def test_a_file_of_few_bits_a_weight_takes_what_the_goal_allows(tmp_path: Path) -> None:
    regularizer = memorised(seed=0, target_bits_per_weight=0.3)
    limit = int(0.3 * regularizer.report().weights / 8)
    assert 0.93 * limit <= regularizer.save(tmp_path / "model.metaq").file_bytes <= limit


def step_sizes(regularizer: EntropyRegularizer) -> dict[str, float]:
    return {name: grid.step_size for name, grid in regularizer.grids().items()}


def test_step_sizes_are_root_mean_squares_and_change_by_learning_alone() -> None:
    def seen(led_by: str, step_learning_rate: float) -> tuple[dict[str, float], dict[str, float], Loop]:
        loop = Loop()
        config = RegularizerConfig(warmup=0.0, led_by=led_by, step_learning_rate=step_learning_rate)
        regularizer = trained(loop, steps=1, config=config, target_bits_per_weight=0.6)
        first = step_sizes(regularizer)
        for _ in range(STEPS - 1):
            loop.step()
        return first, step_sizes(regularizer), loop

    first, last, _ = seen("strength", 0.0)
    roots = {name: float(weight.detach().square().mean().sqrt()) for name, weight in Loop().model.named_parameters()}
    assert first == pytest.approx(roots, rel=0.01)
    assert last == first
    first, last, _ = seen("strength", 1e-3)
    assert last != first
    assert last == pytest.approx(first, rel=math.expm1(1e-3 * STEPS))
    first, last, _ = seen("step", 0.0)
    assert max(abs(math.log(last[name] / first[name])) for name in first) > 0.4


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def finished(led_by: str, **goal: float) -> torch.Tensor:
    loop = Loop()
    trained(loop, config=RegularizerConfig(led_by=led_by), **goal).finish()
    return weights_of(loop.model)


def test_a_goal_of_more_than_a_bit_a_weight_is_led_by_the_step_sizes() -> None:
    assert torch.equal(finished("strength", target_bits_per_weight=2.0), finished("step", target_bits_per_weight=2.0))
    assert not torch.equal(
        finished("strength", target_bits_per_weight=0.6), finished("step", target_bits_per_weight=0.6)
    )


@pytest.mark.parametrize("bits_per_weight", [0.6, 2.0])
def test_a_resumed_training_ends_in_the_same_weights(bits_per_weight: float) -> None:
    whole, goal = Loop(), {"config": LED, "target_bits_per_weight": bits_per_weight}
    trained(whole, **goal).finish()
    first = Loop()
    regularizer = trained(first, steps=STEPS // 2, **goal)
    states = copy.deepcopy([owner.state_dict() for owner in (first.model, first.optimizer, regularizer)])
    second = Loop()
    regularizer = EntropyRegularizer(second.model, total_steps=STEPS, **goal).attach(second.optimizer)
    for owner, state in zip((second.model, second.optimizer, regularizer), states, strict=True):
        owner.load_state_dict(state)
    second._generator.set_state(first._generator.get_state())
    for _ in range(STEPS - STEPS // 2):
        second.step()
    regularizer.finish()
    assert torch.equal(weights_of(second.model), weights_of(whole.model))


def test_a_figure_keeps_to_its_target() -> None:
    untouched = Loop()
    for _ in range(STEPS):
        untouched.step()
    target, loop = 4 * untouched.error(), Loop()
    regularizer = EntropyRegularizer(
        loop.model, LED, total_steps=STEPS, target_value=target, larger_is_better=False
    ).attach(loop.optimizer)
    for step in range(1, STEPS + 1):
        loop.step()
        if step % 20 == 0:
            regularizer.observe(loop.error())
    regularizer.finish(evaluate=loop.error)
    assert loop.error() <= target
    assert regularizer.report().bits_per_weight < 3
