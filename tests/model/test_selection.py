"""Which tensors take part, by globs, by a function, and by what pays; tied ones once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from metaq import (
    BucketGrid,
    ConfigError,
    EntropyRegularizer,
    RegularizerConfig,
    choose_grids,
    compress,
    container,
    load,
)
from metaq.model import checkpoint
from metaq.model.opened import AnyModel, open_model
from metaq.model.selection import Selection
from metaq.model.selection import select as select_opened
from metaq.model.weights import alias_of, select_parameters


def select(source: AnyModel, **options: object) -> Selection:
    return select_opened(open_model(source), **options)  # type: ignore[arg-type]


class Tied(nn.Module):
    """Embedding and decoder with the same weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(30, 8)
        self.hidden = nn.Linear(8, 8)
        self.decoder = nn.Linear(8, 30)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("scale", torch.rand(40))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.tanh(self.hidden(self.encoder(tokens)))) * self.scale[:30]


def tied_model() -> Tied:
    torch.manual_seed(0)
    return Tied()


NAMES = ["encoder.weight", "hidden.weight", "hidden.bias", "decoder.bias"]


def test_tied_parameters_and_buffers_are_told_apart() -> None:
    selection = select(tied_model())
    assert list(selection.names) == NAMES
    assert open_model(tied_model()).first("decoder.weight") == "encoder.weight"
    assert selection.reasons == {"scale": "buffer"}
    assert list(select_parameters(tied_model())) == NAMES


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ("decoder*",)}, ["encoder.weight", "decoder.bias"]),
        ({"include": ("encoder*",)}, ["encoder.weight"]),
        ({"exclude": ("decoder*",)}, ["hidden.weight", "hidden.bias"]),
        ({"exclude": ("scale",)}, NAMES),
        ({"include": ("*.weight",), "exclude": ("encoder*",)}, ["hidden.weight"]),
        ({"filter_fn": lambda _, parameter: parameter.ndim > 1}, ["encoder.weight", "hidden.weight"]),
        ({"exclude": ("hidden*",), "filter_fn": lambda name, _: name.endswith("bias")}, ["decoder.bias"]),
    ],
)
def test_tensors_are_chosen_by_any_of_their_names(options: dict[str, object], expected: list[str]) -> None:
    assert list(select(tied_model(), **options).names) == expected
    without_buffer = {"include": ("*",), **options, "exclude": ("scale", *options.get("exclude", ()))}
    assert list(select(tied_model().state_dict(), **without_buffer).names) == expected
    assert list(choose_grids(tied_model(), count=255, **options)) == expected
    if "scale" not in options.get("exclude", ()):
        assert list(select_parameters(tied_model(), **options)) == expected


def test_a_filter_is_asked_once_for_what_the_globs_leave() -> None:
    model, asked = tied_model(), []

    def filter_fn(name: str, parameter: torch.Tensor) -> bool:
        asked.append((name, parameter))
        return "bias" not in name

    regularizer = EntropyRegularizer(
        model, RegularizerConfig(strength=1e-5, exclude=("hidden.bias",)), total_steps=3, filter_fn=filter_fn
    )
    assert list(regularizer.grids()) == ["encoder.weight", "hidden.weight"]
    assert [name for name, _ in asked] == ["encoder.weight", "hidden.weight", "decoder.bias"]
    assert asked[0][1] is model.encoder.weight
    asked.clear()
    compress(model, exclude=("hidden.bias",), filter_fn=filter_fn)
    assert [name for name, _ in asked] == ["encoder.weight", "hidden.weight", "decoder.bias"]


def test_reasons_are_given_for_all_that_is_left_out() -> None:
    model = tied_model()
    selection = select(model, include=("encoder*", "hidden*"), exclude=("hidden.bias",), filter_fn=lambda *_: 1)
    assert selection.reasons == {
        "hidden.bias": "excluded by hidden.bias",
        "decoder.bias": "not included",
        "scale": "buffer",
    }
    chosen = select(model, filter_fn=lambda name, _: name == "encoder.weight")
    assert chosen.reasons["hidden.weight"] == "left out by filter_fn"
    tied = select(model, exclude=("decoder*",)).reasons
    assert tied["encoder.weight"] == tied["decoder.weight"] == "excluded by decoder*"
    state = {
        "w": torch.ones(3),
        "n": torch.tensor(3),
        "mask": torch.tensor([True]),
        "z": torch.ones(2, dtype=torch.complex64),
        "q": torch.ones(9).to(torch.float8_e4m3fn),
        "none": torch.zeros(0),
        "bn.running_var": torch.ones(3),
        "a.parametrizations.weight.0._u": torch.ones(3),
        "old.weight_orig": torch.ones(3),
        "old.weight_v": torch.ones(3),
    }
    assert select(state).reasons == {
        "n": "integer",
        "mask": "boolean",
        "z": "complex",
        "none": "empty",
        "bn.running_var": "running statistics of batch normalisation",
        "a.parametrizations.weight.0._u": "vectors of spectral normalisation",
        "old.weight_v": "vectors of spectral normalisation",
    }
    assert select(state).names == ("w", "q", "old.weight_orig")


def test_choices_that_leave_nothing_say_why() -> None:
    model = tied_model()
    with pytest.raises(ConfigError, match=r"no floating tensor is left .*4 left out by filter_fn\)"):
        select(model, filter_fn=lambda *_: False)
    with pytest.raises(ConfigError, match=r"include/exclude: .*\(4 excluded by \*\)"):
        select_parameters(model, exclude=("*",))
    with pytest.raises(ConfigError, match=r"encoder\.wieght: matches no tensor; did you mean 'encoder\.weight'"):
        select(model, exclude=("encoder.wieght",))
    with pytest.raises(ConfigError, match=r"scale: matches only tensors that are not quantised \(1 buffer\)"):
        select(model, include=("scale",))
    nothing = {"a": torch.ones(3, dtype=torch.int8), "b": torch.tensor(1), "c": torch.tensor(True)}
    assert select(nothing).names == ()
    with pytest.raises(ConfigError, match=r"there is no tensor to quantise: 2 integer, 1 boolean"):
        select(nothing, include=("a",))
    with pytest.raises(ConfigError, match="the model is empty"):
        EntropyRegularizer(nn.ReLU(), RegularizerConfig(strength=1e-5), total_steps=1)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="4 frozen"):
        EntropyRegularizer(model, RegularizerConfig(strength=1e-5), total_steps=1)


def test_frozen_parameters_do_not_take_part_in_training() -> None:
    model = tied_model()
    model.encoder.weight.requires_grad_(False)
    assert list(select_parameters(model)) == NAMES[1:]
    with pytest.raises(ConfigError, match=r"encoder\*: matches only tensors that are not quantised \(.* frozen\)"):
        select_parameters(model, include=("encoder*",))


@pytest.mark.parametrize("source", ["module", "state dict"])
def test_parameters_without_values_are_refused_by_name(source: str) -> None:
    lazy, meta = nn.Sequential(nn.LazyLinear(3)), nn.Linear(3, 3, device="meta")
    for model, message in ((lazy, r"0\.weight: has no shape yet; send one batch"), (meta, "weight: is on the meta")):
        given = model if source == "module" else model.state_dict()
        with pytest.raises(ConfigError, match=message):
            choose_grids(given, count=3)
        with pytest.raises(ConfigError, match=message):
            compress(given, target_ratio=2)
    with pytest.raises(ConfigError, match="has no shape yet"):
        EntropyRegularizer(lazy, RegularizerConfig(strength=1e-5), total_steps=1)
    with pytest.raises(ConfigError, match="is on the meta device"):
        EntropyRegularizer(meta, RegularizerConfig(strength=1e-5), total_steps=1)
    with pytest.raises(ConfigError, match="_extra_state: is not a tensor but dict"):
        choose_grids({"w": torch.ones(3), "_extra_state": {}}, count=3)


def test_only_what_pays_is_quantised_by_default() -> None:
    state = {
        "weight": torch.linspace(-1, 1, 100).sin().flip(0).roll(3),
        "scalar": torch.tensor(0.3),
        "one": torch.tensor([1.0]),
        "two": torch.tensor([0.1, 0.7]),
        "ones": torch.ones(64),
    }
    assert list(choose_grids(state, count=255)) == ["weight", "ones"]
    assert list(choose_grids(state, count=255, exclude=("weight",))) == ["ones"]
    assert list(choose_grids(state, count=255, include=("scalar", "t*"))) == ["scalar", "two"]
    assert list(choose_grids(state, count=255, filter_fn=lambda name, _: name == "one")) == ["one"]
    assert list(choose_grids(state, count=255, grouping="global")) == ["weight", "ones"]
    assert choose_grids({"scalar": torch.tensor(0.3)}, count=255) == {}


def test_scalars_are_stored_exactly_by_a_budget_unless_they_are_named() -> None:
    torch.manual_seed(0)
    state = {"weight": torch.randn(40, 40), "scale": torch.tensor(0.3)}
    found = compress(state, target_ratio=8)
    assert torch.equal(found.state_dict()["scale"], state["scale"])
    assert found.coverage.left_out[0].reason == "too small to pay"
    named = compress(state, target_ratio=8, include=("scale", "weight"))
    assert named.coverage.share == 1.0
    alone = compress({"scale": torch.tensor(0.3)})
    assert torch.equal(alone.state_dict()["scale"], torch.tensor(0.3))


def test_tied_tensors_are_stored_once_and_restored_as_one(tmp_path: Path) -> None:
    model = tied_model()
    compress(model, grids=choose_grids(model, count=15)).save(tmp_path / "tied.metaq")
    loaded = load(tmp_path / "tied.metaq")
    assert loaded["encoder.weight"] is loaded["decoder.weight"]
    contents = container.describe(tmp_path / "tied.metaq")
    assert [entry.name for entry in contents.entries if entry.tied_to is not None] == ["encoder.weight"]
    other = tied_model()
    other.load_state_dict(loaded)
    assert other.decoder.weight is other.encoder.weight
    assert torch.equal(other.encoder.weight, loaded["decoder.weight"])
    checkpoint.write(tmp_path / "back.safetensors", loaded)
    checkpoint.write(tmp_path / "back.pth", loaded)
    for name in ("back.safetensors", "back.pth"):
        back = checkpoint.read(tmp_path / name)
        assert all(torch.equal(back[key], tensor) for key, tensor in loaded.items())
    assert back["encoder.weight"].data_ptr() == back["decoder.weight"].data_ptr()


def test_budgets_count_tied_tensors_once_and_keep_them_tied(tmp_path: Path) -> None:
    torch.save(tied_model().state_dict(), tmp_path / "tied.pth")
    state = checkpoint.read(tmp_path / "tied.pth")
    float_bytes = open_model(state).float_bytes
    assert float_bytes == 4 * (30 * 8 + 8 * 8 + 8 + 30 + 40)
    found = compress(state, target_ratio=3.0, exclude=("scale",))
    restored = found.state_dict()
    assert restored["encoder.weight"] is restored["decoder.weight"]
    assert set(restored) == set(state)
    assert found.file_bytes <= float_bytes / 3
    excluded = compress(state, exclude=("decoder.weight",)).state_dict()
    assert torch.equal(excluded["encoder.weight"], state["encoder.weight"])
    assert excluded["encoder.weight"] is excluded["decoder.weight"]


def test_exact_tensors_are_tied_too(tmp_path: Path) -> None:
    table = torch.arange(300)
    state = {"a": table, "b": table, "c": table.clone(), "w": torch.randn(50), "view": table[:100]}
    compress(state, grids=choose_grids(state, count=9)).save(tmp_path / "m.metaq")
    entries = container.describe(tmp_path / "m.metaq").entries
    assert [entry.name for entry in entries if entry.tied_to is not None] == ["b"]
    assert all(torch.equal(load(tmp_path / "m.metaq")[name], state[name]) for name in "abc")


def test_what_merely_shares_memory_is_not_tied() -> None:
    plain = torch.randn(4, 4)
    complex_ = torch.randn(4, dtype=torch.complex64)
    different = {
        "plain": plain,
        "transposed": plain.t(),
        "part": plain[:2],
        "later": plain[1:3],
        "bits": plain.view(torch.int32),
        "z": complex_,
        "conjugate": complex_.conj(),
        "empty": torch.zeros(0),
        "empty too": torch.zeros(0),
    }
    assert alias_of(different, different) == {name: name for name in different}


def test_grids_of_tied_tensors_must_agree(tmp_path: Path) -> None:
    grid, other = (BucketGrid(center=0.0, radius=radius, count=5) for radius in (1.0, 2.0))
    model = tied_model()
    compress(model, grids={"encoder.weight": grid, "decoder.weight": grid}).save(tmp_path / "m.metaq")
    compress(model, grids={"decoder.weight": grid}).save(tmp_path / "n.metaq")
    assert (tmp_path / "m.metaq").read_bytes() == (tmp_path / "n.metaq").read_bytes()
    with pytest.raises(ConfigError, match=r"decoder\.weight: has another grid than encoder\.weight"):
        compress(model, grids={"encoder.weight": grid, "decoder.weight": other}).save(tmp_path / "m.metaq")


def test_a_name_with_brackets_names_its_tensor() -> None:
    weights = {"blocks[0].weight": torch.rand(30, 30), "blocks[1].weight": torch.rand(30, 30)}
    assert select(weights, exclude=("blocks[0].weight",)).names == ("blocks[1].weight",)
    assert select(weights, include=("blocks[0].weight",)).names == ("blocks[0].weight",)
