from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from metaq import (
    BucketConfig,
    ConfigError,
    EntropyRegularizer,
    OutputError,
    RegularizerConfig,
    compress,
    decode,
    load,
)
from metaq.errors import NonFiniteError
from metaq.model.norms import TOLERANCE

STEPS = 40
CONFIG = RegularizerConfig(strength=3e-4, refresh_every=3, exclude=("1.*",))


def make_model() -> nn.Sequential:
    """Convolution, batch normalisation, and two linear layers whose units may come in any order and sign."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 6, 3)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 24), nn.Tanh(), nn.Linear(24, 3)
    )


class Training:
    """A model, its optimiser and its regulariser."""

    def __init__(self, config: RegularizerConfig = CONFIG) -> None:
        self.model = make_model()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.regularizer = EntropyRegularizer(self.model, config, total_steps=STEPS).attach(self.optimizer)

    def train(self, first: int = 0, last: int = STEPS) -> Training:
        self.model.train()
        for step in range(first, last):
            inputs = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(step))
            labels = (inputs.mean(dim=(1, 2, 3)) * 20).long().clamp(-1, 1) + 1
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs), labels).backward()
            self.optimizer.step()
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return copy.deepcopy(self.model.state_dict())


def outputs_of(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    model = make_model().eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        return model(torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(99)))


def quantized_weights(training: Training) -> dict[str, torch.Tensor]:
    with training.regularizer.quantized_weights():
        return training.weights()


def require_same_network(restored: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> None:
    """The same outputs but for rounded batch normalisation, which is allowed an error relative to its outputs."""
    found, expected = outputs_of(restored), outputs_of(weights)
    assert float((found - expected).square().mean() / expected.square().mean()) < (3 * TOLERANCE) ** 2


@pytest.mark.parametrize("forward", ["quantized", "float"])
@pytest.mark.parametrize("last", [3, 25, STEPS])
def test_a_file_holds_the_network_that_training_would_end_with_now(tmp_path, forward, last):
    config = RegularizerConfig(strength=3e-4, refresh_every=3, exclude=("1.*",), forward=forward)
    training = Training(config).train(0, last)
    weights = quantized_weights(training)
    training.regularizer.save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    require_same_network(restored, weights)
    for name in ("0.weight", "6.bias"):
        assert torch.equal(restored[name], weights[name])
    training.regularizer.finish()
    require_same_network(restored, training.weights())
    training.regularizer.save(tmp_path / "again.metaq")
    assert (tmp_path / "again.metaq").read_bytes() == (tmp_path / "model.metaq").read_bytes()


def test_units_are_arranged_and_batch_normalisation_is_rounded(tmp_path):
    training = Training().train()
    weights = quantized_weights(training)
    report = training.regularizer.save(tmp_path / "model.metaq", metadata={"epochs": 3})
    restored = load(tmp_path / "model.metaq")
    assert not torch.equal(restored["4.weight"], weights["4.weight"])
    rows = [{tuple(row.sort().values.tolist()) for row in state["4.weight"].abs()} for state in (restored, weights)]
    assert len(rows[0]) > 2
    # Those of a unit that nobody reads become zero.
    assert rows[0] - {(0.0,) * 96} <= rows[1]
    for name in ("1.running_mean", "1.running_var", "1.weight", "1.bias"):
        assert not torch.equal(restored[name], weights[name])
    contents = decode.inspect(tmp_path / "model.metaq")
    assert contents.metadata == {"epochs": 3}
    assert report.file_bytes == contents.file_bytes == (tmp_path / "model.metaq").stat().st_size
    assert {part.name: part.reason for part in report.coverage.left_out} == {"1.num_batches_tracked": "integer"}


def test_saving_leaves_training_as_it_is(tmp_path):
    alone, saving = Training().train(), Training()
    for last in (2, 20, STEPS):
        saving.train(saving.regularizer.steps, last)
        saving.regularizer.save(tmp_path / f"{last}.metaq")
    assert saving.regularizer.report() == alone.regularizer.report()
    assert all(torch.equal(a, b) for a, b in zip(saving.weights().values(), alone.weights().values(), strict=True))
    alone.regularizer.save(tmp_path / "alone.metaq")
    # Units may come in the order of the file before, so that updates are small.
    one, other = tmp_path / "alone.metaq", tmp_path / f"{STEPS}.metaq"
    assert other.stat().st_size <= 1.01 * one.stat().st_size
    require_same_network(load(other), load(one))


def test_weights_of_another_moment_are_refused_without_the_state_of_that_moment(tmp_path):
    training = Training().train(0, 25)
    training.regularizer.save(tmp_path / "best.metaq")
    best, state = training.weights(), copy.deepcopy(training.regularizer.state_dict())
    training.train(25)
    training.model.load_state_dict(best)
    with pytest.raises(ConfigError, match=r"0\.weight: is not as training left it"):
        training.regularizer.save(tmp_path / "model.metaq")
    assert not (tmp_path / "model.metaq").exists()
    training.regularizer.load_state_dict(state)
    training.regularizer.save(tmp_path / "model.metaq")
    assert (tmp_path / "model.metaq").read_bytes() == (tmp_path / "best.metaq").read_bytes()


def test_weights_of_another_moment_are_finished_by_the_grids_of_that_moment(tmp_path):
    training = Training().train(0, 25)
    training.regularizer.save(tmp_path / "best.metaq")
    best, grids = quantized_weights(training), training.regularizer.grids()
    training.train(25)
    assert training.regularizer.grids() != grids
    training.model.load_state_dict(best)
    training.regularizer.finish(grids)
    assert all(torch.equal(best[name], tensor) for name, tensor in training.weights().items())
    assert training.regularizer.grids() == grids
    training.regularizer.save(tmp_path / "model.metaq")
    assert (tmp_path / "model.metaq").read_bytes() == (tmp_path / "best.metaq").read_bytes()


def test_weights_that_came_after_training_are_refused(tmp_path):
    training = Training().train()
    training.regularizer.finish()
    training.model[6].bias.data += 1
    with pytest.raises(ConfigError, match=r"6\.bias: is not as training left it"):
        training.regularizer.save(tmp_path / "model.metaq")


def test_saving_while_the_model_shows_other_weights_gives_the_same_file(tmp_path):
    training = Training().train()
    training.regularizer.save(tmp_path / "model.metaq")
    for number, view in enumerate((training.regularizer.latent_weights, training.regularizer.quantized_weights)):
        with view():
            training.regularizer.save(tmp_path / f"{number}.metaq")
        assert (tmp_path / f"{number}.metaq").read_bytes() == (tmp_path / "model.metaq").read_bytes()


def test_a_model_without_known_chains_keeps_its_weights_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    regularizer = EntropyRegularizer(
        model, RegularizerConfig(strength=1e-5, buckets=BucketConfig(count=15)), total_steps=5
    ).attach(torch.optim.SGD(model.parameters()))
    regularizer.save(tmp_path / "model.metaq", coder="fast")
    restored = load(tmp_path / "model.metaq")
    with regularizer.quantized_weights():
        assert all(torch.equal(restored[name], tensor) for name, tensor in model.state_dict().items())
    for name, grid in regularizer.grids().items():
        assert np.isin(restored[name].numpy(), grid.reference_values().astype(np.float32)).all()


def test_a_folder_that_is_not_there_is_an_error_and_training_goes_on(tmp_path):
    training = Training().train(0, 20)
    with pytest.raises(OutputError):
        training.regularizer.save(tmp_path / "missing" / "model.metaq")
    training.train(20)
    assert training.regularizer.report() == Training().train().regularizer.report()


def test_the_state_of_the_best_epoch_makes_its_file_at_the_end(tmp_path):
    training = Training().train(0, 25)
    training.regularizer.save(tmp_path / "best.metaq")
    held, best = training.weights(), training.regularizer.state()
    assert all(torch.equal(held[name], tensor) for name, tensor in training.weights().items())
    training.train(25)
    training.regularizer.finish()
    compress(best.state_dict, grids=best.grids).save(tmp_path / "later.metaq")
    assert (tmp_path / "later.metaq").read_bytes() == (tmp_path / "best.metaq").read_bytes()
    require_same_network(best.state_dict, held)
    training.model.load_state_dict(best.state_dict)
    training.regularizer.finish(best.grids)
    names = training.regularizer.grids().keys()
    assert all(torch.equal(best.state_dict[name], training.model.state_dict()[name]) for name in names)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_one_moment_with_the_grids_of_another_are_refused(dtype):
    training = Training()
    training.model.to(dtype)
    regularizer = EntropyRegularizer(training.model, CONFIG, total_steps=STEPS)
    kept = {}
    for step in range(STEPS):
        for parameter in training.model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        regularizer.before_step()
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.mul_(0.99)
        regularizer.after_step()
        kept[step] = training.weights(), copy.deepcopy(regularizer.grids())
    best, grids = kept[20]
    compress(best, grids=grids)
    compress({name: best[name].bfloat16().to(dtype) for name in grids}, grids=grids)
    with pytest.raises(ConfigError, match=r"0\.weight: is not on the grid .* take both from regularizer\.state\(\)"):
        compress(best, grids=kept[STEPS - 1][1])
    before, unheld = kept[1]
    compress(before, grids=unheld)


@pytest.mark.parametrize("at", [STEPS // 2, STEPS - 1])
@pytest.mark.parametrize("end", ["save", "state", "finish"])
def test_weights_that_have_become_nan_are_no_file(tmp_path, at, end):
    training = Training(RegularizerConfig(strength=3e-4, refresh_every=STEPS))
    training.train(0, at)
    training.optimizer.zero_grad()
    (training.model(torch.randn(16, 1, 6, 6)).sum() * float("nan")).backward()
    training.optimizer.step()
    path = tmp_path / "model.metaq"
    with pytest.raises(NonFiniteError, match="diverged"):
        getattr(training.regularizer, end)(*([path] if end == "save" else []))
    assert not path.exists()


class Goal:
    """A training to a size, whose hidden units are put in order."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.regularizer = EntropyRegularizer(self.model, total_steps=200, target_bytes=1200).attach(self.optimizer)

    def train(self, first: int, last: int) -> Goal:
        for step in range(first, last):
            inputs = torch.randn(64, 16, generator=torch.Generator().manual_seed(step))
            labels = (inputs[:, :4] + inputs[:, 4:8] * inputs[:, 8:12]).argmax(dim=1)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs), labels).backward()
            self.optimizer.step()
        return self

    def saved(self, path):
        self.regularizer.save(path)
        return path.read_bytes()


def test_the_order_of_units_of_a_file_before_goes_along_with_the_state(tmp_path):
    training = Goal()
    for last in range(40, 200, 40):
        written = training.train(last - 40, last).saved(tmp_path / "one.metaq")
        kept = training.regularizer.state()
        assert compress(kept.state_dict, grids=kept.grids).data == written
    resumed = Goal()
    for part in ("model", "optimizer", "regularizer"):
        getattr(resumed, part).load_state_dict(copy.deepcopy(getattr(training, part).state_dict()))
    for each in (training, resumed):
        each.train(160, 200).regularizer.finish()
    assert training.saved(tmp_path / "one.metaq") == resumed.saved(tmp_path / "two.metaq")


def test_later_steps_change_nothing_in_a_state():
    training = Goal().train(0, 100)
    state = training.regularizer.state_dict()
    kept = copy.deepcopy(state)
    training.train(100, 110)
    for name, held in kept["weights"].items():
        tensors = {key: value for key, value in held.items() if isinstance(value, torch.Tensor)}
        assert all(torch.equal(tensor, state["weights"][name][key]) for key, tensor in tensors.items())


def test_a_regulariser_works_beside_another_default_device(tmp_path):
    plain = Goal().train(0, 40).saved(tmp_path / "one.metaq")
    training = Goal()
    steps = [torch.randn(64, 16, generator=torch.Generator().manual_seed(step)) for step in range(40)]
    labels = [(x[:, :4] + x[:, 4:8] * x[:, 8:12]).argmax(dim=1) for x in steps]
    torch.set_default_device("meta")
    try:
        for inputs, wanted in zip(steps, labels, strict=True):
            training.optimizer.zero_grad()
            nn.functional.cross_entropy(training.model(inputs), wanted).backward()
            training.optimizer.step()
        assert training.saved(tmp_path / "two.metaq") == plain
        training.regularizer.state()
        training.regularizer.report()
    finally:
        torch.set_default_device(None)


def made_in_inference_mode():
    with torch.inference_mode():
        return nn.Linear(16, 40)


def attached(**goal):
    model = nn.Linear(16, 40)
    return EntropyRegularizer(model, **goal).attach(torch.optim.Adam(model.parameters()))


TO_A_FIGURE = {"total_steps": 5, "max_drop": 0.1, "larger_is_better": True}


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: attached(**TO_A_FIGURE).observe(None), "None is no number"),
        (lambda: attached(**TO_A_FIGURE).observe(torch.ones(2)), "is no number"),
        (lambda: attached(total_steps="10", target_ratio=8), "total_steps: 10 is no whole number"),
        (lambda: attached(total_steps=5, target_ratio=8).save(io.BytesIO()), "is no path of a file"),
        (lambda: compress({"a": torch.randn(40, 40)}).save(b"a.metaq"), "is no path of a file"),
        (lambda: compress({"a": torch.randn(40, 40)}).save("a\0b"), "is no path of a file"),
        (lambda: EntropyRegularizer(nn.Linear(16, 40), {"a": 1}, total_steps=5, target_ratio=4), "config"),
        (lambda: EntropyRegularizer({"a": 1}, total_steps=5, target_ratio=4), "is no module"),
        (lambda: EntropyRegularizer(made_in_inference_mode(), total_steps=5, target_ratio=4), "inference_mode"),
        (
            lambda: EntropyRegularizer(nn.Linear(16, 40), total_steps=5, target_ratio=4).attach([1]),
            r"optimizer list: is none of torch.optim; .* attach\(\*optimizers\)",
        ),
    ],
    ids=["none", "two", "steps", "stream", "bytes", "null", "config", "dict", "inference", "list"],
)
def test_values_of_another_kind_are_refused_with_a_sentence(ask, told):
    with pytest.raises(ConfigError, match=told):
        ask()
