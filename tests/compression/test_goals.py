"""Curvature against exact second derivatives, and compression to budgets."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import metaq
from metaq import compress, container
from metaq.compression.calibrated import RECOVERED_BISECTIONS, RECOVERED_NEIGHBOURS, RECOVERED_WIDENING
from metaq.compression.compressed import Compressed, Goal
from metaq.compression.search import SizeSearch, smallest_good
from metaq.errors import ConfigError
from metaq.lab import classifiers
from metaq.lab.classifiers import drop_bound
from metaq.quantize import curvature
from metaq.quantize.allocation import target_of
from metaq.quantize.recovery import Recovery
from metaq.tensors.quantized import ExactTensor


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 3))


def inputs(count: int = 200) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def test_curvature_of_a_linear_layer_is_exact() -> None:
    layer = nn.Sequential(nn.Linear(4, 2))
    data = torch.randn(4000, 4, generator=torch.Generator().manual_seed(2)) + 1
    found = curvature.measure(layer, data.split(10), loss=curvature.random_projection_loss)["0.weight"]
    assert found.inputs is not None
    np.testing.assert_allclose(found.inputs, (data.T @ data / 4000).double().numpy(), rtol=2e-3)
    np.testing.assert_allclose(found.outputs, np.eye(2), rtol=0.1, atol=0.1)
    np.testing.assert_allclose(found.diagonal, np.tile(np.diag(found.inputs), (2, 1)), rtol=0.35)


def test_positions_of_a_convolution_add_up() -> None:
    torch.manual_seed(3)
    convolution = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    model = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data = torch.randn(600, 2, 6, 6) + 1
    found = curvature.measure(model, data.split(50), loss=curvature.random_projection_loss)
    patches = nn.functional.unfold(data, 3, padding=1, stride=2).mean(dim=2)
    exact = (patches.T @ patches / len(patches)).double().numpy()
    weight, bias = found["0.weight"], found["0.bias"]
    assert weight.inputs is not None
    assert weight.outputs is not None
    np.testing.assert_allclose(np.trace(weight.inputs) * weight.outputs, np.trace(exact) * np.eye(3), rtol=0.1, atol=2)
    cosine = (weight.inputs * exact).sum() / np.linalg.norm(weight.inputs) / np.linalg.norm(exact)
    assert cosine > 0.9
    np.testing.assert_allclose(bias.inputs, np.eye(3), rtol=0.15, atol=0.15)


def test_categorical_loss_has_the_curvature_of_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]]).repeat(20000, 1).requires_grad_()
    value, count = curvature.categorical_loss(logits, torch.Generator().manual_seed(4))
    (gradients,) = torch.autograd.grad(value, [logits])
    p = logits[0].detach().softmax(dim=0)
    assert count == 20000
    np.testing.assert_allclose(gradients.T @ gradients / count, torch.diag(p) - torch.outer(p, p), atol=0.005)
    np.testing.assert_allclose(gradients.mean(dim=0), np.zeros(3), atol=0.01)


def test_weights_that_a_module_uses_without_calling_their_layer_are_measured_too() -> None:
    class Indirect(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 3)

        def forward(self, data: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(data, self.inner.weight, self.inner.bias)

    data = inputs()
    found = curvature.measure(Indirect(), [data], loss=curvature.random_projection_loss, draws=400)
    assert (found["inner.weight"].diagonal > 0).all()
    assert (found["inner.bias"].diagonal > 0).all()
    # The gradients of a linear layer are products with its inputs, so that these can be told from them.
    moment, expected = found["inner.weight"].inputs, (data.T @ data).double().numpy()
    assert moment is not None
    assert moment / np.trace(moment) == pytest.approx(expected / np.trace(expected), abs=0.02)


def test_inputs_of_wide_layers_are_seen_without_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "MAX_GRAM_WORK", 0)
    data = torch.randn(60, 5, 6, generator=torch.Generator().manual_seed(1)) + 1
    with_both = curvature.measure(nn.Sequential(nn.Linear(6, 3)), [data], loss=curvature.random_projection_loss)
    monkeypatch.setattr(curvature, "MAX_BOTH", 0)
    found = curvature.measure(nn.Sequential(nn.Linear(6, 3)), [data], loss=curvature.random_projection_loss)
    flat = data.flatten(0, 1).double()
    assert found["0.weight"].inputs == pytest.approx((flat.T @ flat / len(flat)).numpy(), rel=0.02)
    assert with_both["0.weight"].inputs != pytest.approx(found["0.weight"].inputs, rel=1e-2)


@pytest.mark.parametrize("others", [[], list(range(12))])
def test_rows_of_small_tables_matter_however_few_inputs_touch_them(others: list[int]) -> None:
    model = nn.Sequential(nn.Embedding(12, 4), nn.Linear(4, 3))
    batches = [torch.tensor([[1], [5], [5]])] * 10 + [torch.tensor(others)[:, None]] * bool(others)
    found = curvature.measure(model, batches, loss=curvature.random_projection_loss, draws=20)["0.weight"]
    assert found.measured is not None
    usual = found.measured[found.measured > 0].mean()
    assert found.rows == pytest.approx(np.maximum(found.measured, usual))
    assert (found.measured > 0).sum() == (12 if others else 2)


@pytest.mark.parametrize("count", [12, 400])
def test_sparse_gradients_are_measured_as_others_are(count: int) -> None:
    batches = torch.randint(0, count, (24, 5), generator=torch.Generator().manual_seed(0)).split(8)
    found = []
    for is_sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.EmbeddingBag(count, 16, sparse=is_sparse), nn.Linear(16, 3))
        found.append(curvature.measure(model, batches, loss=curvature.random_projection_loss)["0.weight"])
    assert found[1].diagonal == pytest.approx(found[0].diagonal, rel=1e-4)
    assert (found[0].inputs is None) == (found[1].inputs is None)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    gradient = torch.ones(3)
    model[2].bias.grad = gradient
    told: list[torch.Tensor] = []
    model[0].weight.register_post_accumulate_grad_hook(told.append)
    curvature.measure(model, [inputs()])
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model[2].bias.grad is gradient
    assert torch.equal(gradient, torch.ones(3))
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "2.bias")
    assert not told
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_no_data_and_no_logits_are_errors() -> None:
    with pytest.raises(ConfigError, match="no calibration data"):
        curvature.measure(network(), [])
    with pytest.raises(ConfigError, match="no matrix of logits"):
        curvature.measure(nn.Sequential(nn.Linear(6, 2), nn.Unflatten(1, (1, 2))), [inputs()])


@pytest.mark.parametrize("limit", [150, 300, 600])
def test_a_budget_in_bytes_is_met_and_used(limit: int) -> None:
    model = network()
    found = compress(model, target_bytes=limit, batches=[inputs()])
    size = len(container.encode(found.tensors))
    assert 0.85 * limit <= size <= limit


def test_a_ratio_is_met_without_data() -> None:
    model = network()
    float_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    found = compress(model.state_dict(), target_ratio=6.0)
    assert len(container.encode(found.tensors)) <= float_bytes / 6


def test_calibration_helps() -> None:
    model, data = network(), inputs(400)
    data[:, :3] *= 8
    reference = model(data).detach()

    def error(found: Compressed) -> float:
        other = network()
        other.load_state_dict(found.state_dict())
        return float((other(data) - reference).square().mean().detach())

    calibrated = compress(model, target_bytes=300, batches=[data], loss=curvature.random_projection_loss)
    assert error(calibrated) < error(compress(model, target_bytes=300))


def test_accuracy_is_kept() -> None:
    model, data = network(), inputs(500)
    labels = model(data).argmax(dim=1)

    def percent(weights: dict[str, torch.Tensor]) -> float:
        other = network()
        other.load_state_dict(weights)
        return 100 * float((other(data).argmax(dim=1) == labels).double().mean())

    tight, loose = (compress(model, max_drop=drop, batches=[data], accuracy=percent) for drop in (1.0, 10.0))
    assert tight.float_accuracy == 100.0
    assert percent(tight.state_dict()) == tight.accuracy
    assert tight.accuracy is not None
    assert tight.accuracy >= 99.0
    assert len(container.encode(loose.tensors)) < len(container.encode(tight.tensors))


def squared_error_to(reference: torch.Tensor) -> Callable[[object, int], torch.Tensor]:
    def loss(output: object, number: int) -> torch.Tensor:
        assert number == 0
        assert isinstance(output, torch.Tensor)
        return (output - reference).square().mean()

    return loss


def test_a_step_of_recovery_never_raises_the_loss_and_leaves_the_rest() -> None:
    model, data = network(), inputs(300)
    reference = model(data).detach()
    found = curvature.measure(model, [data], loss=curvature.random_projection_loss)
    importance = target_of("2.weight", model.state_dict()["2.weight"], found).importance
    recovery = Recovery(model, [data], squared_error_to(reference))
    worse = {**model.state_dict(), "0.weight": (4 * model[0].weight).round() / 4}
    better = recovery.improved(worse, {"2.weight": importance})
    assert recovery.loss(better) < 0.9 * recovery.loss(worse)
    assert all(torch.equal(better[name], worse[name]) for name in worse if name != "2.weight")
    best = model.state_dict()
    assert recovery.improved(best, {"2.weight": importance}) is best


def test_recovery_helps_at_the_same_size() -> None:
    model, data = network(), inputs(400)
    reference = model(data).detach()

    def error(found: Compressed) -> float:
        other = network()
        other.load_state_dict(found.state_dict())
        return float((other(data) - reference).square().mean().detach())

    loss = curvature.random_projection_loss
    # Where an accuracy is measured no inputs are held out: both see the same.
    plain = compress(model, target_bytes=250, batches=[data], loss=loss, accuracy=lambda _: 1.0)
    recovered = compress(model, target_bytes=250, batches=[data], loss=loss, training_loss=squared_error_to(reference))
    assert len(container.encode(recovered.tensors)) <= 250
    assert error(recovered) < error(plain)


class Jumping:
    """Estimates files of 10,000 / λ bytes; those that it makes are smaller by a jump from some λ on."""

    usual = 1.0

    def __init__(self, jump: float) -> None:
        self.jump = jump

    def size_bytes(self, multiplier: float) -> float:
        return 10_000 / multiplier

    def file_bytes(self, multiplier: float) -> int:
        return int((1.5 if multiplier < self.jump else 0.3) * self.size_bytes(multiplier))


@pytest.mark.parametrize("limit", [250, 300, 500])
def test_where_the_size_jumps_over_the_limit_the_finest_file_beyond_is_found(limit: int) -> None:
    model = Jumping(jump=10_000 / limit)
    search = SizeSearch(limit, model)
    while (current := search.next(lambda: 0)) is not None:
        search.finish(current, model.file_bytes(current.multiplier))
    best = search.best()
    assert best.file_bytes <= limit
    assert model.jump <= best.multiplier < 1.2 * model.jump


@pytest.mark.parametrize("power", [0.2, 0.35, 1.0])
def test_files_that_shrink_less_than_estimated_are_found_in_few_tries(power: float) -> None:
    model = Jumping(jump=math.inf)
    usual = model.usual
    limit = int(0.1 * model.size_bytes(usual))
    search = SizeSearch(limit, model)
    while (current := search.next(lambda: 0)) is not None:
        size = model.size_bytes(usual) * 0.3 * (current.multiplier / usual / 3) ** -power
        search.finish(current, int(size))
    assert 0.95 * limit < search.best().file_bytes <= limit
    assert len(search.tries) < 8


def test_the_smallest_file_is_told_of_the_coarsest_weights() -> None:
    torch.manual_seed(0)
    model = {"a.weight": 0.05 * torch.randn(200, 200), "a.bias": torch.randn(200)}
    with pytest.raises(
        ConfigError, match=r"smallest has (\d+) bytes or more, \d+ .* does not depend on quality"
    ) as told:
        compress(model, target_bytes=50)
    smallest = re.search(r"smallest has (\d+)", str(told.value))
    assert smallest is not None
    assert 50 < len(compress(model, target_bytes=int(smallest[1])).data) <= int(smallest[1])


def test_a_search_goes_on_where_it_was() -> None:
    model = Jumping(jump=40.0)
    whole, begun = SizeSearch(250, model), SizeSearch(250, model)
    for search, most in ((whole, 99), (begun, 2)):
        while len(search.tries) < most and (current := search.next(lambda: 0)) is not None:
            search.finish(current, model.file_bytes(current.multiplier))
    resumed = SizeSearch(250, model, begun.tries)
    while (current := resumed.next(lambda: 0)) is not None:
        resumed.finish(current, model.file_bytes(current.multiplier))
    assert resumed.tries == whole.tries


@dataclasses.dataclass(frozen=True)
class Noisy:
    multiplier: float

    @property
    def file_bytes(self) -> int:
        return int(1e6 / self.multiplier)


@pytest.mark.parametrize("limit", [1e-3, 0.9, 50.0])
def test_the_smallest_good_file_near_the_limit_is_found(limit: float) -> None:
    # Beyond the limit there is one more λ, a neighbour of it, that happens to be good.
    found = smallest_good(Noisy, lambda tried: tried.multiplier <= limit, 1.0)
    assert found is not None
    assert 0.85 * limit < found.multiplier <= limit
    lucky = smallest_good(Noisy, lambda tried: tried.multiplier <= limit or tried.multiplier > 1.3 * limit, limit / 2)
    assert lucky is not None
    assert lucky.multiplier > 1.3 * limit
    assert smallest_good(Noisy, lambda _: False, 1.0) is None


def test_with_recovery_one_bad_file_does_not_end_the_search() -> None:
    def is_good(tried: Noisy) -> bool:
        return tried.multiplier <= 1.5 and not 0.9 < tried.multiplier < 1.1

    few = {"widening": RECOVERED_WIDENING, "bisections": RECOVERED_BISECTIONS, "neighbours": RECOVERED_NEIGHBOURS}
    found = smallest_good(Noisy, is_good, 1.0, **few)
    assert found is not None
    assert 1.1 <= found.multiplier <= 1.5


def test_statistics_of_batch_normalisation_are_measured_anew() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model(inputs(400))
    model.eval()
    batches = list(inputs(400).split(100))
    kept, anew = (
        compress(model, target_ratio=2.0, batches=batches, recalibrates_norms=choice).state_dict()
        for choice in (False, True)
    )
    torch.testing.assert_close(kept["1.running_mean"], model[1].running_mean, rtol=0, atol=0.02)
    hidden = torch.cat(batches[:3]) @ anew["0.weight"].T + anew["0.bias"]
    torch.testing.assert_close(anew["1.running_mean"], hidden.mean(dim=0), rtol=0, atol=0.02)
    torch.testing.assert_close(anew["1.running_var"], hidden.var(dim=0), rtol=0.04, atol=0.02)


@pytest.mark.parametrize("ratio", [3.0, 12.0])
def test_statistics_of_batch_normalisation_are_rounded_as_finely_as_the_weights_deserve(ratio: float) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(60, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Linear(300, 3))
    data = torch.randn(2000, 60)
    model(data)
    model.eval()
    found = compress(model, target_ratio=ratio)
    assert [tensor.name for tensor in found.tensors if isinstance(tensor, ExactTensor)] == ["1.num_batches_tracked"]
    state = found.state_dict()
    exact = {name: model.state_dict()[name] if "running" in name else tensor for name, tensor in state.items()}
    outputs = []
    for weights in (model.state_dict(), state, exact):
        restored = copy.deepcopy(model)
        restored.load_state_dict(weights)
        outputs.append(restored(data).detach())
    by_statistics, by_weights = (float((outputs[1] - outputs[k]).square().mean()) for k in (2, 0))
    assert 0 < by_statistics < 0.05 * by_weights


def test_the_bound_of_a_drop_counts_lost_and_gained_images() -> None:
    before = torch.tensor([True] * 900 + [False] * 100)
    after = before.clone()
    assert drop_bound(before, after) == 0.0
    after[:30], after[-10:] = False, True
    spread = classifiers.STANDARD_ERRORS * (0.04 * (1 / 1000 + 1 / classifiers.TESTED)) ** 0.5
    assert drop_bound(before, after) == pytest.approx(0.02 + spread)


def test_tied_tensors_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    model[1].weight = model[0].weight
    restored = compress(model, target_ratio=2.0).state_dict()
    assert torch.equal(restored["0.weight"], restored["1.weight"])
    data = torch.randn(50, 5, generator=torch.Generator().manual_seed(6))
    recovered = compress(
        model,
        target_ratio=2.0,
        batches=[data],
        loss=curvature.random_projection_loss,
        training_loss=squared_error_to(model(data).detach()),
    ).state_dict()
    assert torch.equal(recovered["0.weight"], recovered["1.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 1.0, "target_bytes": 3}, "give one of them"),
        ({"target_ratio": 3, "target_bits_per_weight": 3}, "give one of them"),
        ({"target_bytes": -1}, "target_bytes: -1 must be positive"),
        ({"max_drop": float("nan")}, "must be zero or more"),
        ({"target_ratio": 0.0}, "must be positive"),
    ],
)
def test_goals_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Goal(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        compress(network(), accuracy=lambda _: 1.0, **options)  # type: ignore[arg-type]


def test_a_goal_in_bits_counts_every_weight() -> None:
    found = compress(network(), target_bits_per_weight=5.0)
    assert found.weights == 403
    assert found.bits_per_weight <= 5.0
    assert found.file_bytes == len(found.data)


def test_what_cannot_be_reached_is_said() -> None:
    with pytest.raises(ConfigError, match="no file of 10 bytes"):
        compress(network(), target_bytes=10)
    with pytest.raises(ConfigError, match="no file of 10 bytes"):
        compress(network(), target_bytes=10, batches=[inputs()])
    for goal in ({"max_drop": 1.0}, {"target_value": 90.0}):
        with pytest.raises(ConfigError, match="need a figure; give accuracy"):
            compress(network(), **goal)
    with pytest.raises(ConfigError, match="calibration needs the module"):
        compress(network().state_dict(), target_bytes=500, batches=[inputs()])
    with pytest.raises(ConfigError, match="need calibration data"):
        compress(network(), target_bytes=500, recalibrates_norms=True)
    figures = iter([1.0])
    with pytest.raises(ConfigError, match="even fine steps"):
        compress(network(), max_drop=0.0, batches=[inputs()], accuracy=lambda _: next(figures, 0.0))


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_a_figure_is_kept_whichever_way_it_improves(larger_is_better) -> None:
    model = network()
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sign = 1.0 if larger_is_better else -1.0

    def figure(weights) -> float:
        return -sign * max(float((weights[name].float() - whole[name]).abs().max()) for name in whole)

    sizes = []
    for room in (0.01, 0.1):
        goals = {"target_value": -sign * room}, {"max_drop": room}
        files = [compress(model, **goal, accuracy=figure, larger_is_better=larger_is_better) for goal in goals]
        assert all(sign * figure(found.state_dict()) >= -room for found in files)
        assert files[0].data == files[1].data
        sizes.append(files[0].file_bytes)
    assert sizes[0] > sizes[1]


def test_without_a_goal_calibration_spends_the_bytes_of_the_default() -> None:
    model = network()
    plain, calibrated = compress(model), compress(model, batches=[inputs()])
    assert 0.9 * plain.file_bytes < calibrated.file_bytes <= plain.file_bytes


def test_a_quality_is_kept_without_calibration_too() -> None:
    model, data = network(), inputs(500)
    labels = model(data).argmax(dim=1)

    def percent(weights: dict[str, torch.Tensor]) -> float:
        other = network()
        other.load_state_dict(weights)
        return 100 * float((other(data).argmax(dim=1) == labels).double().mean())

    found = compress(model.state_dict(), max_drop=2.0, accuracy=percent)
    assert found.float_accuracy == 100.0
    assert found.accuracy is not None
    assert 98.0 <= found.accuracy == percent(found.state_dict())
    assert found.file_bytes < compress(model.state_dict()).file_bytes


@pytest.mark.parametrize("coder", ["small", "fast"])
def test_what_is_saved_is_what_was_promised(tmp_path: Path, coder: str) -> None:
    model = network()
    found = compress(model, target_bytes=400, coder=coder, metadata={"net": "mine"})
    found.save(tmp_path / "m.metaq")
    assert (tmp_path / "m.metaq").stat().st_size == found.file_bytes <= 400
    file = metaq.open(tmp_path / "m.metaq")
    assert {entry.coder for entry in file.contents.entries} == {coder}
    assert file.metadata == {"net": "mine"}
    restored = metaq.load(tmp_path / "m.metaq")
    assert restored.keys() == found.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in found.state_dict().items())


class Recorder:
    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []
        self.done: list[float] = []

    def stage(self, label: str, total: float) -> None:
        self.stages.append((label, total))
        self.done.append(0)

    def advance(self, amount: float = 1) -> None:
        self.done[-1] += amount


class PaddedConvolution(nn.Conv2d):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(inputs, (1, 1, 1, 1)))


class HalvedLinear(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs[..., : self.in_features])


def test_layers_that_do_more_with_their_inputs_are_measured_by_their_gradients() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(PaddedConvolution(2, 3, 3), nn.Flatten(), HalvedLinear(40, 2))
    data = torch.randn(30, 2, 4, 4)
    found = curvature.measure(model, data.split(10), loss=curvature.random_projection_loss)
    for name, columns in (("0.weight", 18), ("2.weight", 40)):
        moment = found[name].inputs
        assert moment is not None
        assert moment.shape == (columns, columns)
        assert (np.linalg.eigvalsh(moment) > -1e-6 * np.trace(moment)).all()


@pytest.mark.parametrize("recovers", [False, True])
def test_every_stage_of_calibration_is_told(recovers: bool) -> None:
    model, batches = network(), inputs(100).split(20)
    told = Recorder()

    def error(output: torch.Tensor, number: int) -> torch.Tensor:
        return (output - model(batches[number]).detach()).square().mean()

    compress(model, target_bytes=300, batches=batches, training_loss=error if recovers else None, progress=told)
    labels = [label for label, _ in told.stages]
    assert labels[:3] == ["looking at weights", "measuring curvature", "estimating a size"]
    assert [label for label in labels if label.startswith("quantising")][:1] == ["quantising, try 1"]
    assert [total for _, total in told.stages] == told.done


def test_measuring_is_told() -> None:
    told = Recorder()
    compress(network(), accuracy=lambda _: 1.0, progress=told)
    assert [label for label, _ in told.stages].count("measuring accuracy") == 2


@pytest.mark.parametrize("ratio", [16, 19, 22, 25])
def test_a_small_file_keeps_something_of_every_layer(ratio):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 2, 16, generator=generator)
    labels = torch.randint(0, 5, (1500,), generator=generator)
    points = centres[labels, torch.randint(0, 2, (1500,), generator=generator)]
    points += 0.7 * torch.randn(1500, 16, generator=generator)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(600):
        batch = torch.randint(0, 1000, (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points[batch]), labels[batch]).backward()
        optimizer.step()
    made = metaq.compress(model, target_ratio=ratio)
    assert 0.9 * made.float_bytes / ratio < made.file_bytes <= made.float_bytes / ratio
    model.load_state_dict(made.state_dict())
    assert float((model(points[1000:]).argmax(1) == labels[1000:]).float().mean()) > 0.9
