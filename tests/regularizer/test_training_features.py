"""What loops do beside the plain step, each with the regulariser and without: the same as the plain loop does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

from metaq import ConfigError, EntropyRegularizer, FreezeConfig, RegularizerConfig

STEPS = 40
CONFIG = RegularizerConfig(strength=2e-3, warmup=0.1, refresh_every=5, freeze=FreezeConfig(start=0.6))
with_and_without = pytest.mark.parametrize("is_regularized", [True, False])


def make_model(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)).to(dtype)


def batch(step, dtype=torch.float64):
    inputs = torch.randn(32, 10, generator=torch.Generator().manual_seed(step)).to(dtype)
    return inputs, inputs[:, :3].argmax(dim=1)


def make_optimizer(model, **options):
    return torch.optim.Adam(model.parameters(), lr=1e-2, **options)


def loss_of(model, inputs, labels):
    return nn.functional.cross_entropy(model(inputs), labels)


class Loop:
    """A loop of which single parts can be replaced; leaves losses, and the bits if there is a regulariser."""

    def __init__(self, is_regularized, *, dtype=torch.float64, config=CONFIG):
        self.model = make_model(dtype)
        self.dtype = dtype
        self.config = config if is_regularized else None
        self.losses = []

    def optimizers(self):
        return [make_optimizer(self.model)]

    def forward_backward(self, inputs, labels):
        loss = loss_of(self.model, inputs, labels)
        loss.backward()
        return loss

    def step(self, optimizers):
        for optimizer in optimizers:
            optimizer.step()

    def run(self):
        optimizers = self.optimizers()
        regularizer = None
        if self.config is not None:
            regularizer = EntropyRegularizer(self.model, self.config, total_steps=STEPS).attach(*optimizers)
        for step in range(STEPS):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = self.forward_backward(*batch(step, self.dtype))
            self.step(optimizers)
            self.losses.append(float(loss.detach()))
        self.regularizer = regularizer
        return self

    def require_like(self, other, *, rtol=1e-9, atol=1e-12):
        torch.testing.assert_close(self.losses, other.losses, rtol=rtol, atol=atol)
        for mine, theirs in zip(self.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)
        if self.regularizer is not None:
            assert self.regularizer.steps == other.regularizer.steps == STEPS
            assert self.regularizer.report().bits == pytest.approx(other.regularizer.report().bits, rel=1e-6)


def test_the_plain_loop_learns_and_its_bits_fall():
    plain, free = Loop(True).run(), Loop(True, config=RegularizerConfig(strength=0.0, warmup=0.1)).run()
    assert plain.losses[-1] < 0.6 * plain.losses[0]
    assert plain.regularizer.report().bits < 0.9 * free.regularizer.report().bits


@with_and_without
@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_every_way_to_run_an_optimiser(is_regularized, options):
    class WithOptions(Loop):
        def optimizers(self):
            return [make_optimizer(self.model, **options)]

    WithOptions(is_regularized).run().require_like(Loop(is_regularized).run())


@with_and_without
def test_gradient_accumulation(is_regularized):
    class Accumulating(Loop):
        def forward_backward(self, inputs, labels):
            total = 0.0
            for part, of_part in zip(inputs.split(8), labels.split(8), strict=True):
                loss = loss_of(self.model, part, of_part) / 4
                loss.backward()
                total = total + loss
            return total

    Accumulating(is_regularized).run().require_like(Loop(is_regularized).run())


@with_and_without
def test_clipping_sees_the_gradient_of_the_loss_alone(is_regularized):
    norms = {}

    class Clipping(Loop):
        def step(self, optimizers):
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
            of_gradient = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters()])
            norms.setdefault(self.config is not None, []).append((float(norm), float(of_gradient)))
            super().step(optimizers)

    config = RegularizerConfig(strength=1.0, warmup=0.0)
    Clipping(is_regularized, config=config).run()
    first, clipped = norms[is_regularized][0]
    assert clipped == pytest.approx(0.1, rel=1e-4)
    inputs, labels = batch(0)
    model = make_model()
    loss_of(model, inputs, labels).backward()
    alone = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
    assert first == pytest.approx(alone, rel=1e-12)


@with_and_without
def test_gradient_checkpointing(is_regularized):
    class Checkpointing(Loop):
        def forward_backward(self, inputs, labels):
            outputs = checkpoint_sequential(self.model, 2, inputs, use_reentrant=False)
            loss = nn.functional.cross_entropy(outputs, labels)
            loss.backward()
            return loss

    Checkpointing(is_regularized).run().require_like(Loop(is_regularized).run())


@with_and_without
def test_compiled_models(is_regularized):
    class Compiled(Loop):
        def __init__(self, is_regularized):
            super().__init__(is_regularized)
            self.plain = self.model
            self.model = torch.compile(self.plain, backend="aot_eager")

    compiled = Compiled(is_regularized).run()
    compiled.require_like(Loop(is_regularized).run())
    if is_regularized:
        assert set(compiled.regularizer.grids()) == {name for name, _ in compiled.plain.named_parameters()}


class Scaling(Loop):
    """Gradients are scaled; every `overflow_every`-th time one of them is infinite."""

    def __init__(self, is_regularized, *, fused, overflow_every=None):
        super().__init__(is_regularized, dtype=torch.float32)
        self.fused = fused
        self.overflow_every = overflow_every

    @property
    def overflows(self):
        return self.overflow_every is not None and len(self.losses) % self.overflow_every == self.overflow_every - 1

    def optimizers(self):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        return [make_optimizer(self.model, fused=self.fused)]

    def forward_backward(self, inputs, labels):
        loss = loss_of(self.model, inputs, labels)
        self.scaler.scale(loss).backward()
        if self.overflows:
            next(self.model.parameters()).grad[0, 0] = torch.inf
        return loss

    def step(self, optimizers):
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.scaler.step(optimizers[0])
        self.scaler.update()
        if self.overflows:
            same = zip(self.model.parameters(), before, strict=True)
            assert all(torch.allclose(mine, other, rtol=1e-6) for mine, other in same)


@with_and_without
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_nothing(is_regularized, fused):
    """A fused optimiser divides by the scale itself, inside its step."""
    plain = Loop(is_regularized, dtype=torch.float32).run()
    Scaling(is_regularized, fused=fused).run().require_like(plain, rtol=1e-4, atol=1e-5)


@with_and_without
@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_gradient_scaler_skips_leave_the_weights(is_regularized, fused):
    loop = Scaling(is_regularized, fused=fused, overflow_every=10).run()
    assert loop.losses[-1] < 0.7 * loop.losses[0]
    if is_regularized:
        assert loop.regularizer.report().bits > 0
        assert all(grid.step_size > 0 for grid in loop.regularizer.grids().values())


@with_and_without
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(is_regularized, dtype):
    class Autocasting(Loop):
        def forward_backward(self, inputs, labels):
            with torch.autocast("cpu", dtype=dtype):
                loss = loss_of(self.model, inputs, labels)
            loss.backward()
            return loss

    loop = Autocasting(is_regularized, dtype=torch.float32).run()
    plain = Loop(is_regularized, dtype=torch.float32).run()
    assert all(parameter.dtype == torch.float32 for parameter in loop.model.parameters())
    torch.testing.assert_close(loop.losses, plain.losses, rtol=0.1, atol=0.05)
    if is_regularized:
        assert loop.regularizer.report().bits == pytest.approx(plain.regularizer.report().bits, rel=0.1)


@with_and_without
def test_closures_make_gradients_from_the_weights_that_the_model_holds(is_regularized):
    class Closing(Loop):
        def forward_backward(self, inputs, labels):
            self.batch = inputs, labels
            return loss_of(self.model, inputs, labels)

        def step(self, optimizers):
            def closure():
                optimizers[0].zero_grad()
                loss = loss_of(self.model, *self.batch)
                loss.backward()
                return loss

            assert float(optimizers[0].step(closure).detach()) > 0

    Closing(is_regularized).run().require_like(Loop(is_regularized).run())


class Derived(torch.optim.Adam):
    """Its step is that of its base class; it can be told to fail in the middle."""

    fails = False

    def step(self, closure=None):
        loss = super().step(closure)
        if self.fails:
            raise KeyboardInterrupt
        return loss


@with_and_without
def test_an_optimiser_that_calls_the_step_of_its_base_class_steps_once(is_regularized):
    make_optimizer(make_model())

    class WithDerived(Loop):
        def optimizers(self):
            return [Derived(self.model.parameters(), lr=1e-2)]

    WithDerived(is_regularized).run().require_like(Loop(is_regularized).run())


def test_a_step_that_fails_is_not_taken_for_the_one_around_the_next():
    loop = Loop(True)
    optimizer = Derived(loop.model.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(loop.model, CONFIG, total_steps=STEPS).attach(optimizer)
    loop.forward_backward(*batch(0))
    optimizer.fails = True
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    optimizer.fails = False
    for _ in range(3):
        optimizer.step()
    assert regularizer.steps == 3


def test_optimisers_that_step_oftener_than_once_by_a_closure_are_refused():
    model = make_model()
    with pytest.raises(ConfigError, match="LBFGS"):
        EntropyRegularizer(model, CONFIG, total_steps=STEPS).attach(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ConfigError, match="optimizer list"):
        EntropyRegularizer(model, CONFIG, total_steps=STEPS).attach([make_optimizer(model)])


class Sharpness(torch.optim.Optimizer):
    """Steps from the gradients at the worst weights nearby, which it asks the closure for."""

    def __init__(self, parameters, *, asks_first, in_place):
        super().__init__(parameters, {"lr": 0.1})
        self.asks_first, self.in_place = asks_first, in_place

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        if self.asks_first:
            closure()
        parameters = [p for group in self.param_groups for p in group["params"]]
        before = [p.clone() for p in parameters]
        for p in parameters:
            (p if self.in_place else p.data).add_(p.grad, alpha=0.1)
        self.zero_grad()
        closure()
        for p, held in zip(parameters, before, strict=True):
            p.copy_(held - 0.1 * p.grad)


@pytest.mark.parametrize("asks_first", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_optimisers_that_ask_for_further_gradients_are_refused(asks_first, in_place):
    loop = Loop(is_regularized=False)
    optimizer = Sharpness(loop.model.parameters(), asks_first=asks_first, in_place=in_place)
    EntropyRegularizer(loop.model, CONFIG, total_steps=STEPS).attach(optimizer)

    def closure():
        optimizer.zero_grad()
        return loop.forward_backward(*batch(0))

    if not asks_first:
        closure()
    with pytest.raises(ConfigError, match="optimizer Sharpness: does not make one step from one gradient"):
        optimizer.step(closure)


def test_optimisers_that_maximise_are_refused():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    with pytest.raises(ConfigError, match=r"optimizer SGD: maximises, .* maximize=False"):
        EntropyRegularizer(model, CONFIG, total_steps=STEPS).attach(optimizer)


def halves(model):
    """Two optimisers, each with its own layers."""
    return [make_optimizer(model[:2]), make_optimizer(model[2:])]


@with_and_without
def test_several_optimisers(is_regularized):
    class Several(Loop):
        def optimizers(self):
            return halves(self.model)

    Several(is_regularized).run().require_like(Loop(is_regularized).run())


def test_an_optimiser_that_steps_oftener_does_not_hurry_the_schedule():
    class Oftener(Loop):
        def optimizers(self):
            return halves(self.model)

        def step(self, optimizers):
            optimizers[0].step()
            super().step(optimizers)

    loop = Oftener(True).run()
    assert loop.regularizer.steps == STEPS
    with loop.regularizer.quantized_weights():
        quantized = [parameter.detach().clone() for parameter in loop.model.parameters()]
    for parameter, values in zip(loop.model.parameters(), quantized, strict=True):
        torch.testing.assert_close(parameter.detach(), values, rtol=1e-3, atol=0)


def test_several_optimisers_are_resumed():
    whole = Loop(True)
    whole.optimizers = lambda: halves(whole.model)
    whole.run()
    first, second = Loop(True), Loop(True)
    optimizers = halves(first.model)
    regularizer = EntropyRegularizer(first.model, CONFIG, total_steps=STEPS).attach(*optimizers)
    others = halves(second.model)
    resumed = EntropyRegularizer(second.model, CONFIG, total_steps=STEPS).attach(*others)
    for step in range(STEPS):
        if step == 25:
            second.model.load_state_dict(first.model.state_dict())
            for mine, other in zip(others, optimizers, strict=True):
                mine.load_state_dict(other.state_dict())
            resumed.load_state_dict(regularizer.state_dict())
        model, chosen = (first.model, optimizers) if step < 25 else (second.model, others)
        for optimizer in chosen:
            optimizer.zero_grad()
        loss_of(model, *batch(step)).backward()
        for optimizer in chosen:
            optimizer.step()
    for mine, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_parameter_of_two_optimisers_is_refused():
    model = make_model()
    regularizer = EntropyRegularizer(model, CONFIG, total_steps=STEPS)
    with pytest.raises(ConfigError, match=r"4\.weight: 2 optimizers"):
        regularizer.attach(make_optimizer(model), make_optimizer(model[4]))
    with pytest.raises(ConfigError, match="no optimizer"):
        regularizer.attach()


def test_optimisers_may_change_in_the_middle():
    """Without momentum an optimiser remembers nothing, so that only what the regulariser remembers counts."""

    def of_all(model):
        return [torch.optim.SGD(model.parameters(), lr=0.3)]

    def of_halves(model):
        return [torch.optim.SGD(part.parameters(), lr=0.3) for part in (model[:2], model[2:])]

    outcomes = []
    for choices in ((of_all, of_all), (of_all, of_halves), (of_halves, of_all)):
        model = make_model()
        optimizers = choices[0](model)
        regularizer = EntropyRegularizer(model, CONFIG, total_steps=STEPS).attach(*optimizers)
        for step in range(STEPS):
            if step == 20:
                regularizer.detach()
                optimizers = choices[1](model)
                regularizer.attach(*optimizers)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss_of(model, *batch(step)).backward()
            for optimizer in optimizers:
                optimizer.step()
        outcomes.append((list(model.parameters()), regularizer.report()))
    for parameters, report in outcomes[1:]:
        assert report == outcomes[0][1]
        assert all(torch.equal(mine, other) for mine, other in zip(parameters, outcomes[0][0], strict=True))


def test_one_step_size_for_all_is_not_learned_by_several_optimisers():
    for config in (
        RegularizerConfig(strength=1e-5, grouping="global"),
        RegularizerConfig(strength=1e-5, grouping="global", step_learning_rate=0.0),
    ):
        model = make_model()
        regularizer = EntropyRegularizer(model, config, total_steps=STEPS)
        if config.step_learning_rate == 0:
            regularizer.attach(*halves(model))
            continue
        with pytest.raises(ConfigError, match="step_learning_rate=0"):
            regularizer.attach(*halves(model))
