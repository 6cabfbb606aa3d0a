"""Options of the wrong kind are refused at once, with a sentence; so is a figure that is none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from metaq import ConfigError, compress, diff
from metaq.compression.compressed import Goal
from metaq.compression.compressing import compress_to_file
from metaq.compression.pipeline import choose_grids
from metaq.model.checkpoint import StateDict
from metaq.model.opened import open_model


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Linear(24, 8)).eval()


INPUTS = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))


def never(_: StateDict) -> float:
    raise AssertionError("measured before the options were checked")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy": 3}, "accuracy: 3 is no function; give one"),
        ({"accuracy": "fast"}, "accuracy: 'fast' is no function"),
        ({"loss": 3, "batches": INPUTS}, "loss: 3 is no function"),
        ({"training_loss": 3, "batches": INPUTS}, "training_loss: 3 is no function"),
        ({"filter_fn": 3}, "filter_fn: 3 is no function"),
        ({"progress": 3}, "progress: 3 shows nothing; give an object with the methods stage and advance"),
        ({"module": 3, "batches": INPUTS}, "module: 3 is no module"),
        ({"include": 5}, "include: 5 is no list of name globs"),
        ({"exclude": [5]}, r"exclude: \[5\] is no list of name globs"),
        ({"include": None}, "include: None is no list of name globs"),
        ({"metadata": {1: 2}}, "metadata: the key 1 is no string"),
        ({"metadata": 5}, "metadata: 5 is no mapping"),
        ({"metadata": {"made": None}}, "metadata: made: None is not a string"),
        ({"base": 5}, "base: 5 is no model; give a module, a state dict, or the path of a file or folder"),
        ({"target_ratio": 1e9}, r"target_ratio: 1e\+09 leaves no byte for a file of this model"),
        ({"target_bits_per_weight": 1e-9}, "target_bits_per_weight: 1e-09 leaves no byte"),
        ({"target_ratio": 300.0}, r"target_ratio: no file of \d bytes can be made"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compress(network(), **{"accuracy": never, **options} if "target" not in message else options)


@pytest.mark.parametrize("source", [None, 5, [1, 2]], ids=str)
def test_what_is_no_model_is_refused(source: Any) -> None:
    for name, job in {
        "source": lambda: compress(source),
        "new": lambda: diff(network(), source),
        "base": lambda: diff(source, network()),
    }.items():
        with pytest.raises(ConfigError, match=rf"{name}: .* is no model; give a module, a state dict, or the path"):
            job()
    with pytest.raises(ConfigError, match=r"source: .* is no model"):
        choose_grids(source, count=3)


def test_metadata_of_an_update_of_a_packed_model_are_checked_too(tmp_path) -> None:
    path = tmp_path / "model.metaq"
    compress(network()).save(path)
    with pytest.raises(ConfigError, match="metadata: 5 is no mapping"):
        diff(path, path, metadata=5)


def test_a_file_is_refused_metadata_before_it_is_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match="metadata: the key 1"):
        compress_to_file(open_model(network()), tmp_path / "m.metaq", Goal(), metadata={1: 2})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"include": "0*"}, {"exclude": "0.weight"}], ids=str)
def test_a_single_glob_needs_no_list(options: dict[str, str]) -> None:
    listed = {name: [glob] for name, glob in options.items()}
    assert compress(network(), **options).data == compress(network(), **listed).data  # type: ignore[arg-type]
    assert choose_grids(network(), count=7, **options) == choose_grids(network(), count=7, **listed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (None, "accuracy: gives None, which is no number"),
        ("high", "accuracy: gives 'high', which is no number"),
        (math.nan, "accuracy: gives nan for the original weights"),
        (torch.tensor([1.0, 2.0]), "which is no number"),
    ],
)
@pytest.mark.parametrize("goal", [{"max_drop": 0.5}, {"target_value": 0.5}, {"target_ratio": 3.0}], ids=str)
def test_a_figure_that_is_none_is_refused_at_once(figure: Any, message: str, goal: dict[str, float]) -> None:
    calls: list[StateDict] = []

    def accuracy(weights: StateDict) -> Any:
        calls.append(weights)
        return figure

    with pytest.raises(ConfigError, match=message):
        compress(network(), accuracy=accuracy, **goal)  # type: ignore[arg-type]
    assert len(calls) == 1


def test_later_figures_have_to_be_numbers_and_may_be_infinite() -> None:
    original = network().state_dict()

    def perplexity(weights: StateDict) -> float:
        error = sum(float((weights[name] - original[name]).square().sum()) for name in ("0.weight", "3.weight"))
        return math.exp(error) if error < 1 else math.inf

    found = compress(network(), accuracy=perplexity, max_drop=0.1, larger_is_better=False)
    assert found.accuracy is not None
    assert found.accuracy <= 1.1
    figures = iter([1.0])
    with pytest.raises(ConfigError, match="accuracy: gives None"):
        compress(network(), accuracy=lambda _: next(figures, None), max_drop=0.1)  # type: ignore[arg-type, return-value]


def figure_of(model: nn.Module) -> float:
    with torch.no_grad():
        return -float((model(INPUTS) - network()(INPUTS)).square().mean())


def loads(model: nn.Module, weights: StateDict) -> None:
    model.load_state_dict(weights)


def assigns(model: nn.Module, weights: StateDict) -> None:
    model.load_state_dict(weights, assign=True)


def sets_data(model: nn.Module, weights: StateDict) -> None:
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = weights[name]


def copies(model: nn.Module, weights: StateDict) -> None:
    model.load_state_dict(copy.deepcopy(weights))
    # Statistics of normalisation change as in training.
    model.train()(INPUTS)
    model.eval()
    model.load_state_dict(weights)


@pytest.mark.parametrize("load", [loads, assigns, sets_data, copies])
@pytest.mark.parametrize("form", ["module", "state dict", "module beside"])
def test_an_accuracy_that_loads_weights_into_the_model_itself_does_no_harm(
    load: Callable[[nn.Module, StateDict], None], form: str
) -> None:
    def made(model: nn.Module, target: nn.Module) -> tuple[Any, StateDict]:
        def accuracy(weights: StateDict) -> float:
            load(target, weights)
            return figure_of(target)

        source = model if form == "module" else model.state_dict()
        beside = {"module": model, "batches": INPUTS} if form == "module beside" else {}
        found = compress(source, accuracy=accuracy, max_drop=1e-3, **beside)  # type: ignore[arg-type]
        # A state dict does not tell whose it is.
        return found, model.state_dict() if form != "state dict" else source  # type: ignore[return-value]

    model = network()
    (usual, before), (found, after) = made(network(), network()), made(model, model)
    assert found.data == usual.data
    assert found.accuracy == usual.accuracy
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_what_an_accuracy_that_fails_has_changed_is_put_back() -> None:
    model = network()
    model[0].weight.data[0] = math.nan

    def accuracy(weights: StateDict) -> float:
        assert weights
        model.half()
        model[3].weight.data.zero_()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compress(model, accuracy=accuracy)
    # Where and in which type they are is the user's own.
    assert model[3].weight.dtype == torch.float16
    assert torch.equal(model[3].weight, network()[3].weight.half())
    assert model[0].weight[0].isnan().all()
