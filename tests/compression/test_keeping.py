"""How much of the outputs is kept: the measure, the search for it, and modules with other names than the file's."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter, OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from metaq import compress
from metaq.compression.compressed import Compressed
from metaq.compression.compressing import WEIGHING_BATCHES
from metaq.compression.quality import Kept, kept, parted
from metaq.compression.search import KEEPING_TRIES, smallest_keeping
from metaq.errors import ConfigError
from metaq.model.norms import holding
from metaq.quantize.curvature import random_projection_loss
from metaq.quantize.outputs import floating_tensors


class Encoder(nn.Module):
    """Gives embeddings of length one."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, 64))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.inner(data), dim=1)


class Wrapped(nn.Module):
    """What `answer` makes of the output of a network."""

    def __init__(self, network: nn.Module, answer: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.network = network
        self.answer = answer

    def forward(self, data: torch.Tensor) -> object:
        return self.answer(self.network(data))


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    count: int


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


def inputs(count: int = 240, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def moved(model: nn.Module, by: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: tensor + by * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.state_dict().items()
    }


def score(model: nn.Module, found: Compressed, data: torch.Tensor) -> Kept:
    return kept(model, found.state_dict(), [data])


def test_the_score_of_embeddings_is_their_mean_cosine() -> None:
    model, data = encoder(), torch.cat([inputs(), -inputs()])
    with torch.no_grad():
        for layer in (model.inner[0], model.inner[2]):
            layer.bias.zero_()
    weights = moved(model, 0.03)
    other = copy.deepcopy(model)
    other.load_state_dict(weights)
    with torch.no_grad():
        cosine = nn.functional.cosine_similarity(model(data), other(data), dim=1)
    told = kept(model, weights, data.split(60))
    assert told.score == pytest.approx(float(cosine.mean()), abs=1e-6)
    assert told.error == pytest.approx(float(cosine.std()) / math.sqrt(len(data)), rel=0.02)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = encoder().train()
    before = copy.deepcopy(model.state_dict())
    assert kept(model, moved(model, 0.1), [inputs()]).score < 1
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert kept(model, before, [inputs()]) == Kept(score=1.0, error=0.0, samples=240)


class Signed(nn.Module):
    """Turns the output over where a hidden unit is below zero, which no gradient tells."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 1, bias=False)
        self.output = nn.Linear(16, 64)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.output(data) * torch.sign(self.gate(data))


def test_with_few_samples_those_that_calibrate_are_kept_too() -> None:
    torch.manual_seed(0)
    model = Signed().eval()
    across = model.gate.weight.detach()[0] / model.gate.weight.detach().norm()
    data = inputs(120)
    data -= (data @ across)[:, None] * across
    near = torch.arange(120) % 40 < 3
    data += torch.where(near, 0.2, 3.0)[:, None] * across
    batches = list(data.split(10))
    assert not near[30:40].any()
    assert not near[70:80].any()
    assert not near[110:].any()
    found = compress(model, batches=batches, keep=0.99)
    assert found.kept is not None
    assert 0.99 <= found.kept <= score(model, found, data).score + 1e-6


def test_a_number_common_to_all_samples_tells_nothing() -> None:
    model, data = nn.Linear(16, 1), inputs()
    weights = {**model.state_dict(), "weight": 1.1 * model.weight.detach()}
    near = kept(model, weights, [data])
    with torch.no_grad():
        model.bias += 1000
    far = kept(model, {**weights, "bias": model.bias.detach()}, [data])
    assert near.score == pytest.approx(1 - 0.1**2 / 2, rel=0.02)
    assert far.score == pytest.approx(near.score, abs=1e-5)


@pytest.mark.parametrize(
    "answer",
    [
        lambda found: {"logits": found, "ids": torch.arange(3), "cache": object()},
        lambda found: (None, [found, "text"]),
        lambda found: OrderedDict(logits=found),
        lambda found: Answer(logits=found, count=3),
        lambda found: found.index_fill(1, torch.tensor([5]), -torch.inf),
    ],
)
def test_outputs_of_every_kind_are_compared(answer: Callable[[torch.Tensor], object]) -> None:
    model = Wrapped(encoder(), answer)
    plain = kept(encoder(), moved(encoder(), 0.03), [inputs()])
    assert kept(model, moved(model, 0.03), [inputs()]).score == pytest.approx(plain.score, abs=0.01)
    found = compress(model, keep=0.95, batches=inputs().split(30))
    assert found.kept is not None
    assert 0.95 <= found.kept < 0.98


def test_sequences_of_all_lengths_and_single_numbers_are_compared() -> None:
    torch.manual_seed(0)
    model = nn.GRU(4, 8, batch_first=True)
    batches = [torch.randn(count, length, 4) for count, length in ((3, 5), (1, 9), (4, 2))]
    assert 0.5 < kept(model, moved(model, 0.02), batches).score < 1
    one = nn.Sequential(nn.Linear(16, 8), nn.Flatten(0))
    assert 0.5 < kept(one, moved(one, 0.01), [inputs(1)]).score < 1
    total = Wrapped(encoder(), torch.sum)
    assert 0 <= kept(total, moved(total, 0.01), [inputs(9)]).score < 1


def test_outputs_that_are_not_finite_are_bad() -> None:
    model = encoder()
    weights = {**model.state_dict(), "inner.2.bias": torch.full((64,), torch.nan)}
    assert kept(model, weights, [inputs()]).score == 0.0
    counted = Wrapped(encoder(), lambda found: found[found > 0])
    assert kept(counted, moved(counted, 0.5), [inputs()]).score == 0.0
    with pytest.raises(ConfigError, match="no floating tensor"):
        kept(Wrapped(encoder(), str), moved(encoder(), 0.1), [inputs()])
    assert floating_tensors({"ids": torch.arange(3), "empty": torch.zeros(0)}) == []


@pytest.mark.parametrize(("count", "numbers"), [(9, [3, 7]), (4, [3]), (3, [2]), (2, [1])])
def test_every_fourth_batch_is_held_out(count: int, numbers: list[int]) -> None:
    batches = list(inputs(2 * count).split(2))
    calibrating, held_out = parted(batches)
    assert [id(batch) for batch in held_out] == [id(batches[number]) for number in numbers]
    others = [number for number in range(count) if number not in numbers]
    assert [id(batch) for batch in calibrating] == [id(batches[number]) for number in others]


def test_a_single_batch_is_cut_by_samples() -> None:
    data, ids = inputs(10), torch.arange(10)
    calibrating, (held_out,) = parted([{"data": data, "ids": ids, "scale": torch.ones(3)}])
    assert held_out["ids"].tolist() == [3, 7]
    assert sorted(torch.cat([batch["ids"] for batch in calibrating]).tolist()) == [0, 1, 2, 4, 5, 6, 8, 9]
    assert torch.equal(held_out["data"], data[[3, 7]])
    assert all(len(batch["scale"]) == 3 for batch in (*calibrating, held_out))
    assert [len(batch[0]) for batch in parted([(data[:2], ids[:2])])[1]] == [1]
    assert parted([data[:1]])[1] == []


@pytest.mark.parametrize("keep", [0.9, 0.99, 0.9995])
def test_a_quality_is_reached_and_not_stood_off_from(keep: float) -> None:
    model = encoder()
    # Uniform weights, as they are before training, suit some steps and not those between.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=float(parameter.detach().std()))
    found = compress(model, keep=keep, batches=inputs(400).split(20))
    assert found.kept is not None
    assert keep <= found.kept <= 1 - 0.85 * (1 - keep)
    assert found.kept_error is not None
    assert 0 < found.kept_error < 0.2 * (1 - keep)
    assert score(model, found, inputs(4000, seed=7)).score == pytest.approx(keep, abs=0.3 * (1 - keep))


def test_what_is_kept_is_told_for_files_of_a_size_too() -> None:
    data = inputs()
    found = compress(encoder(), target_ratio=6, batches=[data])
    held_out = torch.zeros(len(data), dtype=torch.bool)
    held_out[3::4] = True
    assert found.kept == pytest.approx(score(encoder(), found, data[held_out]).score)
    assert compress(encoder(), target_ratio=6).kept is None
    assert compress(encoder(), max_drop=1.0, batches=[data], accuracy=lambda _: 1.0).kept is None


class Twins(nn.Module):
    """Two layers that do the same job, each for an output of its own; gradients of one of them are too large."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(16, 64, bias=False)
        self.right = nn.Linear(16, 64, bias=False)

    def forward(self, data: torch.Tensor) -> dict[str, torch.Tensor]:
        right = self.right(data)
        return {"left": self.left(data), "right": 4 * right - 3 * right.detach()}


class Tables(nn.Module):
    """Two tables that do the same job."""

    def __init__(self) -> None:
        super().__init__()
        self.often = nn.Embedding(9000, 64)
        self.rarely = nn.Embedding(9000, 64)

    def forward(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"often": self.often(numbers[:, 0]), "rarely": self.rarely(numbers[:, 1])}


def test_tensors_count_as_much_as_their_errors_do_by_trial() -> None:
    torch.manual_seed(0)
    model, data = Twins().eval(), inputs()
    found = compress(model, target_ratio=6, batches=data.split(40)).state_dict()
    errors = [float((data @ (found[name] - tensor).T).square().sum()) for name, tensor in model.state_dict().items()]
    assert max(errors) < 3 * min(errors)


def test_trials_tell_the_same_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, data = Twins().eval(), inputs()
    at_once = compress(model, target_ratio=6, batches=data.split(40))
    monkeypatch.setattr("metaq.compression.calibrated.WEIGHED_AT_ONCE", 1)
    assert compress(model, target_ratio=6, batches=data.split(40)).data == at_once.data


def test_weights_are_compared_in_their_place_and_put_back_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    held, before = model[0].weight, model[0].weight.detach().clone()
    values = {name: torch.zeros(4, 4) for name in ("0.weight", "1.weight")}

    def fail() -> None:
        with holding(model, values):
            assert not model[0].weight.any()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert model[0].weight is model[1].weight is held
    assert torch.equal(held, before)
    assert not any(tensor.any() for tensor in values.values())


def test_a_loss_of_ones_own_is_not_overruled_by_errors_of_outputs() -> None:
    torch.manual_seed(0)
    model, data = Twins().eval(), inputs()

    def loss(output: object, generator: torch.Generator) -> tuple[torch.Tensor, int]:
        return random_projection_loss(output, generator)

    found = compress(model, target_ratio=6, batches=data.split(40), loss=loss).state_dict()
    left, right = (float((found[name] - tensor).square().sum()) for name, tensor in model.state_dict().items())
    assert left > 5 * right


def test_tables_of_which_few_rows_were_read_are_not_spoilt_by_trial() -> None:
    torch.manual_seed(0)
    model = Tables().eval()
    generator = torch.Generator().manual_seed(1)
    often, rarely = (torch.randint(0, size, (36000,), generator=generator) for size in (9000, 300))
    numbers = torch.stack([often, 30 * rarely], dim=1)
    found = compress(model, target_ratio=6, batches=numbers.split(2000)).state_dict()
    read = 30 * torch.arange(300)
    often_error, rarely_error = (
        float((found[name] - tensor)[read].square().mean()) for name, tensor in model.state_dict().items()
    )
    assert rarely_error < 0.5 * often_error


def test_tensors_are_weighed_on_batches_of_every_kind() -> None:
    told: list[int] = []

    def recorded(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        told.append(len(arguments[0]))

    model = encoder()
    batches = [inputs(count, seed=count) for count in range(4, 36)]
    model.register_forward_pre_hook(recorded)
    compress(model, target_ratio=6, batches=batches)
    calibrating = [len(batch) for batch in parted(batches)[0]]
    counts = Counter(told)
    weighing = [size for size in calibrating if counts[size] > 1]
    assert len(weighing) <= WEIGHING_BATCHES
    assert min(weighing) <= calibrating[3]
    assert max(weighing) >= calibrating[-4]


def test_calibration_does_not_see_what_is_held_out() -> None:
    batches = list(inputs().split(60))
    others = [*batches[:3], 100 * inputs(60, seed=8)]
    one, other = (compress(encoder(), target_ratio=6, batches=some) for some in (batches, others))
    assert one.data == other.data
    assert one.kept != other.kept


@dataclasses.dataclass(frozen=True)
class Line:
    """A model whose loss is a power of λ, with noise."""

    multiplier: float
    slope: float
    noise: float = 0.0

    @property
    def file_bytes(self) -> int:
        return int(1e6 - 1e4 * math.log(self.multiplier))

    @property
    def loss(self) -> float:
        shift = self.noise * math.sin(1e3 * math.log(self.multiplier))
        return min(0.01 * self.multiplier**self.slope * math.exp(shift), 1.0)


@pytest.mark.parametrize("slope", [0.6, 1.0, 1.6])
@pytest.mark.parametrize("allowed", [1e-7, 1e-4, 0.009, 0.2])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_loss_is_reached_in_a_few_tries(slope: float, allowed: float, noise: float) -> None:
    tried: list[Line] = []

    def at(multiplier: float) -> Line:
        tried.append(Line(multiplier, slope, noise))
        return tried[-1]

    found = smallest_keeping(at, lambda line: line.loss, allowed, 1.0)
    assert found is not None
    assert 0.9 * allowed < found.loss <= allowed
    assert len(tried) <= (5 if noise == 0 else KEEPING_TRIES)
    assert found.file_bytes == min(line.file_bytes for line in tried if line.loss <= allowed)


def test_a_loss_that_no_weights_reach() -> None:
    assert smallest_keeping(lambda multiplier: Line(multiplier, 1.0), lambda _: 0.5, 0.1, 1.0) is None


class Named(nn.Module):
    """The encoder by other names, with a layer that no file holds."""

    def __init__(self, model: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(model.inner)
        self.head = nn.Linear(64, 2)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.encoder(data), dim=1)


def test_a_module_of_other_names_calibrates_a_state_dict() -> None:
    batches = inputs().split(40)
    state = {**encoder().state_dict(), "steps": torch.arange(5)}
    found = compress(state, keep=0.99, batches=batches, module=Named(encoder()))
    restored = found.state_dict()
    assert restored.keys() == state.keys()
    assert torch.equal(restored["steps"], state["steps"])
    assert {part.name: part.reason for part in found.coverage.left_out} == {"steps": "integer"}
    own = {name: restored[name] for name in encoder().state_dict()}
    assert kept(encoder(), own, batches[3:4]).score == found.kept
    plain = compress(encoder(), keep=0.99, batches=batches)
    assert own.keys() == plain.state_dict().keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in plain.state_dict().items())
    assert found.float_bytes == plain.float_bytes + 5 * 8


def test_tensors_that_no_output_depends_on_are_not_spoilt() -> None:
    generator = torch.Generator().manual_seed(3)
    state = {**encoder().state_dict(), "other": torch.randn(64, 64, generator=generator)}
    found = compress(state, keep=0.99, batches=inputs().split(40), module=encoder())
    unused = Named(encoder())
    by_module = compress(unused, keep=0.99, batches=inputs().split(40))
    for before, after in (
        (state["other"], found.state_dict()["other"]),
        (unused.head.weight.detach(), by_module.state_dict()["head.weight"]),
    ):
        error = (after - before).norm() / before.norm()
        assert 0.02 < error < 0.35
    assert found.coverage.left_out == ()


def test_types_of_the_file_and_names_that_the_rules_choose_are_kept() -> None:
    state = {name: tensor.bfloat16() for name, tensor in encoder().state_dict().items()}
    module = encoder()
    module.load_state_dict(state)
    found = compress(state, target_ratio=2.5, batches=[inputs()], module=module, exclude=["*.0.*"])
    restored = found.state_dict()
    assert {tensor.dtype for tensor in restored.values()} == {torch.bfloat16}
    assert torch.equal(restored["inner.0.weight"], state["inner.0.weight"])
    assert not torch.equal(restored["inner.2.weight"], state["inner.2.weight"])
    assert found.file_bytes <= found.float_bytes / 2.5


def test_tensors_that_the_module_holds_once_are_stored_once() -> None:
    state = encoder().state_dict()
    found = compress(
        {**state, "copy": state["inner.0.weight"].clone()}, keep=0.99, batches=[inputs()], module=encoder()
    )
    restored = found.state_dict()
    assert torch.equal(restored["copy"], restored["inner.0.weight"])
    assert found.file_bytes < compress(encoder(), keep=0.99, batches=[inputs()]).file_bytes + 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.9}, "keep: outputs are compared on inputs; give batches"),
        ({"keep": 1.0, "batches": [inputs()]}, "must be below 1"),
        ({"keep": -0.1, "batches": [inputs()]}, "must be positive"),
        ({"keep": 0.9, "target_ratio": 3.0, "batches": [inputs()]}, "give one of them"),
        ({"keep": 0.9, "batches": [inputs(1)]}, "give two samples"),
        ({"keep": 0.9, "batches": [inputs()], "training_loss": lambda output, _: output.sum()}, "takes no labels"),
        ({"module": encoder()}, "only calibration needs it"),
        ({"module": encoder(), "batches": [inputs()]}, "the model is a module itself"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compress(encoder(), **options)  # type: ignore[arg-type]


def test_a_module_must_hold_the_weights() -> None:
    with pytest.raises(ConfigError, match="give it as module"):
        compress(encoder().state_dict(), keep=0.9, batches=[inputs()])
    torch.manual_seed(9)
    with pytest.raises(ConfigError, match="load them first"):
        compress(encoder().state_dict(), keep=0.9, batches=[inputs()], module=Encoder())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_cannot_be_compared_are_not_taken_for_kept(bad: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 40).eval()
    data = [torch.randn(16, 16) for _ in range(8)]
    data[3].fill_(bad)
    for goal in ({"keep": 0.99}, {"target_ratio": 6.0}):
        with pytest.raises(ConfigError, match="NaN or infinite; leave it out"):
            compress(model, batches=data, **goal)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("kind", [tuple, dict])
def test_outputs_that_no_weight_changes_hide_nothing(scale: float, kind: type) -> None:
    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = encoder()

        def forward(self, data: torch.Tensor) -> object:
            found = {"given": scale * data, "sum": data.sum(), "found": self.inner(data)}
            return found if kind is dict else tuple(found.values())

    model = Passing().eval()
    weights = moved(model, 0.02)
    alone = {name.removeprefix("inner."): tensor for name, tensor in weights.items()}
    found = kept(model, weights, inputs().split(24))
    assert found.score == pytest.approx(kept(model.inner, alone, inputs().split(24)).score, abs=1e-9)
    assert 0.5 < found.score < 0.99
    assert kept(model, model.state_dict(), [inputs()]).score == 1
    compressed = compress(model, batches=list(inputs().split(24)), keep=0.99)
    assert kept(model, compressed.state_dict(), [inputs(seed=5)]).score > 0.97


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda found: found.detach(), "switches gradients off"),
        (lambda found: found.argmax(1), "no floating tensor"),
        (lambda _: None, "no floating tensor"),
        (lambda found: _Broken.apply(found), "cannot be differentiated, which calibration needs .*broken"),
    ],
)
def test_networks_without_gradients_are_told(answer: Callable[[torch.Tensor], object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        compress(Wrapped(encoder(), answer).eval(), batches=list(inputs().split(24)), target_ratio=6)


class _Broken(torch.autograd.Function):
    @staticmethod
    def forward(_: object, found: torch.Tensor) -> torch.Tensor:
        return found.clone()

    @staticmethod
    def backward(_: object, gradient: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("broken")
