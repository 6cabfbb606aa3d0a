from __future__ import annotations

import copy

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
    assert one.stat().st_size <= other.stat().st_size <= 1.01 * one.stat().st_size
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
