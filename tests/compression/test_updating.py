"""Updates of models of every kind: what they cost, what they give, what is refused."""

from __future__ import annotations

import io
import zlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import metaq
from metaq import container, decode
from metaq.container.applying import MAX_LINKS
from metaq.errors import ConfigError, FormatError
from metaq.model.applying import applied, model_of

State = dict[str, torch.Tensor]


@pytest.fixture
def base() -> State:
    torch.manual_seed(0)
    shapes = {"0.weight": (60, 40), "0.bias": (60,), "2.weight": (10, 60), "2.bias": (10,)}
    return {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}


def changed(base: State, *, share: float = 1.0, scale: float = 0.01, seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)

    def other(tensor: torch.Tensor) -> torch.Tensor:
        chosen = torch.rand(tensor.shape, generator=generator) < share
        return tensor + chosen * scale * torch.randn(tensor.shape, generator=generator)

    return {name: other(tensor) for name, tensor in base.items()}


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def error_of_change(base: State, wanted: State, found: State) -> float:
    squares = sum(float((wanted[name] - base[name]).square().sum()) for name in base)
    return (sum(float((wanted[name] - found[name]).square().sum()) for name in base) / squares) ** 0.5


def test_a_change_is_told_as_well_as_is_asked_for(base):
    wanted = changed(base)
    update = metaq.diff(base, wanted)
    found = metaq.load(update.data, base=base)
    assert error_of_change(base, wanted, found) == pytest.approx(update.relative_error, rel=1e-3)
    assert 0 < update.relative_error < 0.5
    assert update.file_bytes == len(update.data) < 2500
    assert same(found, update.state_dict())
    larger = metaq.diff(base, wanted, target_bytes=2 * update.file_bytes)
    assert update.file_bytes < larger.file_bytes <= 2 * update.file_bytes
    assert larger.relative_error < 0.6 * update.relative_error


def test_what_is_the_same_costs_nothing(base):
    few = metaq.diff(base, base)
    assert few.file_bytes < 40
    assert (few.changed, few.unchanged) == ((), 4)
    assert same(metaq.load(few.data, base=base), base)
    wanted = {**base, "2.bias": base["2.bias"] + 1}
    one = metaq.diff(base, wanted, lossless=True)
    assert (one.changed, one.unchanged) == (("2.bias",), 3)
    assert one.file_bytes < 100
    assert same(metaq.load(one.data, base=base), wanted)


def test_without_loss_every_bit_comes_back(base):
    wanted = changed(base, share=0.05)
    wanted["0.bias"][:3] = torch.tensor([torch.nan, torch.inf, -0.0])
    update = metaq.diff(base, wanted, lossless=True)
    found = metaq.load(update.data, base=base)
    assert all(found[name].numpy().tobytes() == wanted[name].numpy().tobytes() for name in wanted)
    assert update.file_bytes < 0.3 * metaq.compress(wanted, lossless=True).file_bytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("lossless", [False, True])
def test_other_types_of_numbers(base, dtype, lossless):
    old = {name: tensor.to(dtype) for name, tensor in base.items()}
    wanted = {name: tensor.to(dtype) for name, tensor in changed(base, scale=0.05).items()}
    update = metaq.diff(old, wanted, lossless=lossless)
    found = metaq.load(update.data, base=old)
    assert all(tensor.dtype == dtype for tensor in found.values())
    if lossless:
        assert same(found, wanted)
    else:
        assert error_of_change(old, wanted, found) < 0.5


def test_models_that_are_compressed_come_back_bit_for_bit(tmp_path, base):
    paths = [tmp_path / name for name in ("one.metaq", "two.metaq")]
    grids = metaq.choose_grids(base, count=63, center=0.0, radius=0.5)
    for path, weights in zip(paths, (base, changed(base, share=0.02)), strict=True):
        metaq.compress(weights, grids=grids).save(path)
    update = metaq.diff(*paths)
    assert same(metaq.load(update.data, base=paths[0]), metaq.load(paths[1]))
    again = applied(paths[0], [update.data]).encode()
    assert len(again) == pytest.approx(paths[1].stat().st_size, rel=0.05)
    assert same(metaq.load(again), metaq.load(paths[1]))
    assert update.file_bytes < 0.3 * paths[1].stat().st_size
    with pytest.raises(ConfigError, match="compressed already"):
        metaq.diff(*paths, target_bytes=100)


def test_models_with_nothing_in_common_cost_hardly_more_than_the_file(tmp_path, base):
    torch.manual_seed(5)
    other = {name: 0.1 * torch.randn_like(tensor) for name, tensor in base.items()}
    paths = [tmp_path / name for name in ("one.metaq", "two.metaq")]
    for path, weights in zip(paths, (base, other), strict=True):
        metaq.compress(weights).save(path)
    assert metaq.diff(*paths).file_bytes <= 1.02 * paths[1].stat().st_size


def test_new_removed_renamed_reshaped_and_tied_tensors(base):
    wanted = dict(base)
    wanted["3.weight"] = wanted.pop("2.weight")
    wanted["4.weight"] = wanted["3.weight"]
    wanted["0.weight"] = torch.zeros(3, 3)
    del wanted["2.bias"]
    wanted["count"] = torch.tensor(7)
    for lossless in (False, True):
        update = metaq.diff(base, wanted, lossless=lossless)
        found = metaq.load(update.data, base=base)
        assert list(found) == sorted(wanted)
        assert update.removed == ("2.bias", "2.weight")
        assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in wanted.items()}
        assert found["count"] == 7
        assert torch.equal(found["3.weight"], found["4.weight"])
        assert same(found, wanted) or not lossless


def test_a_base_with_tied_tensors_of_which_one_changes(base):
    tied = {**base, "0.more": base["0.weight"]}
    wanted = {**tied, "0.more": base["0.weight"] + 0.5}
    update = metaq.diff(tied, wanted, lossless=True)
    assert update.changed == ("0.more",)
    assert same(metaq.load(update.data, base=tied), wanted)


def test_inputs_make_the_error_count_where_it_matters(base):
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 10))
    wanted = changed(base, scale=0.05)
    module.load_state_dict(wanted)
    inputs = torch.randn(400, 40) * torch.linspace(0.01, 2, 40)
    with_data = metaq.diff(base, module, batches=list(inputs[:300].split(50)), target_bytes=700)
    without = metaq.diff(base, wanted, target_bytes=700)
    outputs = module(inputs[300:]).detach()

    @torch.no_grad()
    def error(update: metaq.Compressed) -> float:
        module.load_state_dict(update.state_dict())
        return float((module(inputs[300:]) - outputs).square().mean())

    assert with_data.kept is not None
    assert with_data.file_bytes <= 700
    assert error(with_data) < 0.8 * error(without)


RANK = 4


def with_low_rank(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> tuple[State, State]:
    """Matrices, and the same with what an adapter of rank 4 adds to them."""
    base, wanted = {}, {}
    for name, shape in (("0.weight", (128, 96)), ("1.weight", (64, 128)), ("2.weight", (256, 64))):
        base[name] = (0.05 * torch.randn(shape, generator=generator)).to(dtype)
        left, right = (torch.randn(size, generator=generator) for size in ((shape[0], RANK), (RANK, shape[1])))
        wanted[name] = (base[name].float() + 0.002 * left @ right).to(dtype)
    return base, wanted


FACTORS = RANK * sum(map(sum, ((128, 96), (64, 128), (256, 64))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_adapters_cost_what_their_factors_do(dtype):
    base, wanted = with_low_rank(torch.Generator().manual_seed(1), dtype)
    update = metaq.diff(base, wanted)
    assert update.file_bytes < FACTORS
    assert update.relative_error < 0.1
    assert same(metaq.load(update.data, base=base), update.state_dict())
    small = metaq.diff(base, wanted, target_bytes=FACTORS // 2)
    assert small.file_bytes <= FACTORS // 2
    assert small.relative_error < 0.3


def test_a_tall_change_of_low_rank_costs_what_a_wide_one_does():
    generator = torch.Generator().manual_seed(4)
    base = 0.05 * torch.randn(1024, 64, generator=generator)
    change = 0.005 * torch.randn(1024, 1, generator=generator) @ torch.randn(1, 64, generator=generator)
    tall = metaq.diff({"w": base}, {"w": base + change})
    wide = metaq.diff({"w": base.T.contiguous()}, {"w": (base + change).T.contiguous()})
    assert tall.file_bytes < 1.2 * wide.file_bytes


@pytest.mark.parametrize("shape", [(64, 64), (32, 16), (1000,)])
@pytest.mark.parametrize("constant", [0.01, 0.5])
def test_a_change_by_a_constant_costs_hardly_a_byte(shape, constant):
    base = {"w": 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(5))}
    wanted = {"w": base["w"] + constant}
    update = metaq.diff(base, wanted)
    assert update.file_bytes < 150
    assert error_of_change(base, wanted, update.state_dict()) < 0.01


@pytest.mark.parametrize("is_tied_before", [True, False])
@pytest.mark.parametrize("options", [{}, {"target_bytes": 2000}, {"coder": "fast"}])
def test_tied_weights_change_together(is_tied_before, options):
    generator = torch.Generator().manual_seed(6)
    old = 0.05 * torch.randn(64, 64, generator=generator)
    new = old + 0.001 * torch.randn(64, 64, generator=generator)
    for names in (("a", "b"), ("b", "a")):
        base = {names[0]: old, names[1]: old if is_tied_before else old.clone(), "c": old[:3]}
        wanted = {names[0]: new, names[1]: new, "c": new[:3]}
        update = metaq.diff(base, wanted, **options)
        found = metaq.load(update.data, base=base)
        assert same(found, update.state_dict())
        assert torch.equal(found["a"], found["b"])
        assert error_of_change(base, wanted, found) < 0.3
        assert update.file_bytes < 2000


def test_changes_of_the_last_bit_are_told_exactly():
    old = {"w": (0.05 * torch.randn(64, 64, generator=torch.Generator().manual_seed(7))).half()}
    wanted = {"w": torch.nextafter(old["w"], torch.tensor(10.0, dtype=torch.float16))}
    update = metaq.diff(old, wanted)
    assert update.file_bytes <= metaq.diff(old, wanted, lossless=True).file_bytes
    assert same(update.state_dict(), wanted)
    assert update.relative_error == 0


def test_merged_adapters_cost_no_more_with_inputs():
    base, wanted = with_low_rank(torch.Generator().manual_seed(2))
    module = nn.Sequential(*(nn.Linear(*wanted[f"{i}.weight"].shape[::-1], bias=False) for i in range(3)))
    module.load_state_dict(wanted)
    inputs = torch.randn(256, 96, generator=torch.Generator().manual_seed(3))
    update = metaq.diff(base, module, batches=list(inputs.split(32)), target_bytes=FACTORS // 2)
    assert update.file_bytes <= FACTORS // 2
    assert error_of_change(base, wanted, update.state_dict()) < 0.35


def test_a_chain_of_updates_becomes_one_model(base):
    models = [base]
    for seed in range(3):
        models.append(changed(models[-1], share=0.1, seed=seed))
    updates = [metaq.diff(old, new, lossless=True).data for old, new in pairwise(models)]
    assert same(applied(base, updates).state_dict(), models[-1])
    with pytest.raises(FormatError, match="an update between them may be missing"):
        applied(base, [updates[0], updates[2]])
    with pytest.raises(FormatError, match="has been applied already"):
        applied(base, [updates[0], updates[0]])
    with pytest.raises(FormatError, match="is an update of the model"):
        applied(models[2], updates)
    back = metaq.diff(models[1], base, lossless=True).data
    assert same(applied(base, [updates[0], back, updates[0]]).state_dict(), models[1])
    with pytest.raises(ConfigError, match=f"at most {MAX_LINKS}"):
        applied(base, [updates[0]] * 10_000)


def test_updates_are_restored_with_numpy_alone(tmp_path, base):
    path = tmp_path / "base.metaq"
    metaq.compress(base).save(path)
    models = [metaq.load(path)]
    updates = []
    for seed in range(2):
        made = metaq.diff(models[-1], changed(models[-1], seed=seed))
        updates.append(made.data)
        models.append(made.state_dict())
    for given, update, wanted in ((path, updates[0], models[1]), ([path, updates[0]], updates[1], models[2])):
        found = decode.load(update, base=given)
        assert list(found) == sorted(base)
        assert all(np.array_equal(found[name], tensor.numpy()) for name, tensor in wanted.items())
    assert list(decode.load(updates[0], base=path, names=["2.bias"])) == ["2.bias"]
    with pytest.raises(ConfigError, match=r"there is no tensor '2.bia'"):
        decode.load(updates[0], base=path, names=["2.bia"])
    with pytest.raises(ConfigError, match="empty list"):
        decode.load(updates[0], base=[])
    with pytest.raises(FormatError, match="is an update of the model"):
        decode.load(updates[1], base=path)
    with pytest.raises(FormatError, match="is no update"):
        decode.load(path, base=path)


def test_the_base_may_be_a_module_a_file_or_bytes(tmp_path, base):
    module = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 10))
    module.load_state_dict(base)
    torch.save({"state_dict": base, "epoch": 3}, tmp_path / "base.pth")
    packed = metaq.compress(base, lossless=True).data
    wanted = changed(base)
    update = metaq.diff(module, wanted).data
    for other in (base, tmp_path / "base.pth", packed):
        assert same(metaq.load(io.BytesIO(update), base=other), metaq.load(update, base=module))
    assert model_of(module).identity == model_of(packed).identity


def test_another_base_is_refused_with_both_names(base):
    update = metaq.diff(base, changed(base))
    other = {**base, "2.bias": base["2.bias"] + 1}
    known, found = (model_of(each).identity.hex() for each in (base, other))
    with pytest.raises(FormatError, match=f"{known}.*{found}"):
        metaq.load(update.data, base=other)
    with pytest.raises(FormatError, match="is an update"):
        metaq.load(update.data)
    with pytest.raises(FormatError, match="is no update"):
        metaq.load(metaq.compress(base).data, base=base)
    wider = {name: tensor.double() for name, tensor in base.items()}
    with pytest.raises(FormatError, match="is an update of the model"):
        metaq.load(update.data, base=wider)


def test_a_result_that_is_another_than_it_says_is_refused(base):
    update = bytearray(metaq.diff(base, changed(base)).data)
    facts = container.describe(bytes(update)).update
    assert facts is not None
    place = bytes(update).index(facts.result)
    update[place] ^= 1
    body = bytes(update[:-4])
    with pytest.raises(FormatError, match=r"another model than it says|damaged"):
        metaq.load(body + np.uint32(zlib.crc32(body)).tobytes(), base=base)


def test_options_that_do_not_go_together(base):
    wanted = changed(base)
    with pytest.raises(ConfigError, match="lossless"):
        metaq.diff(base, wanted, lossless=True, target_bytes=100)
    with pytest.raises(ConfigError, match="give one of them"):
        metaq.diff(base, wanted, target_bytes=100, target_ratio=3)
    with pytest.raises(ConfigError):
        metaq.diff(base, wanted, target_bytes=10)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_kept_exactly(base, value):
    wanted = changed(base)
    wanted["0.weight"][0, 0] = value
    found = metaq.load(metaq.diff(base, wanted).data, base=base)
    assert np.array_equal(found["0.weight"].numpy(), wanted["0.weight"].numpy(), equal_nan=True)
    old = {**base, "0.weight": wanted["0.weight"]}
    found = metaq.load(metaq.diff(old, changed(base)).data, base=old)
    assert torch.isfinite(found["0.weight"]).all()


@pytest.mark.parametrize("lossless", [False, True])
def test_tensors_that_are_tied_in_the_new_model_alone(base, lossless):
    old = {**base, "1.weight": base["0.weight"] + 0.2, "z.weight": base["0.weight"].clone()}
    shared = base["0.weight"] + 0.003 * torch.randn(60, 40)
    wanted = {**base, "1.weight": shared, "z.weight": shared, "0.weight": shared}
    found = metaq.load(metaq.diff(old, wanted, lossless=lossless).data, base=old)
    for name in ("0.weight", "1.weight", "z.weight"):
        assert float((found[name] - shared).norm()) <= (0 if lossless else 0.06 * float(shared.norm()))


def test_tied_tensors_of_files_are_told_by_the_first_of_their_names(base):
    grids = metaq.choose_grids({"a": base["0.weight"]}, count=63, center=0.0, radius=0.5)["a"]
    apart = {"a": base["0.weight"], "b": 0.5 * base["0.weight"].flip(0)}
    one = metaq.compress(apart, grids=dict.fromkeys(apart, grids)).data
    shared = changed(base, share=0.02)["0.weight"]
    two = metaq.compress({"a": shared, "b": shared}, grids={"a": grids}).data
    assert same(metaq.load(metaq.diff(one, two).data, base=one), metaq.load(two))


def test_no_part_of_an_update_is_given_without_its_base(tmp_path, base):
    metaq.diff(base, changed(base)).save(tmp_path / "update.metaq")
    with pytest.raises(FormatError, match="is an update of the model"):
        metaq.open(tmp_path / "update.metaq").get_slice("0.weight")[:3]


@pytest.mark.parametrize("scale", [1e-6, 1e-3])
def test_new_tensors_are_told_as_well_as_in_a_file_of_their_own(scale):
    generator = torch.Generator().manual_seed(0)
    base = {"big": 10 * torch.randn(200, 200, generator=generator), "other": torch.randn(60, 60, generator=generator)}
    new = {
        "big": base["big"] + 0.3 * torch.randn(200, 200, generator=generator),
        "other": scale * torch.randn(60, 60, generator=generator),
        "new": scale * torch.randn(24, 8, generator=generator),
    }
    found, alone = metaq.diff(base, new).state_dict(), metaq.compress(new).state_dict()
    for name in ("new", "other"):
        assert (found[name] - new[name]).norm() <= 1.1 * (alone[name] - new[name]).norm() + 0.01 * new[name].norm()


def test_types_without_sums_of_their_own_are_updated_beside_batch_normalisation(base: State) -> None:
    float8 = torch.float8_e5m2
    norm = {"bn.running_mean": base["0.bias"], "bn.running_var": base["0.bias"].abs()}
    old, new = ({"w": (scale * base["0.weight"]).to(float8), **norm} for scale in (1.0, 1.3))
    found = metaq.diff(old, new)
    restored = metaq.load(found.data, base=old)["w"]
    assert restored.dtype == float8
    error = (restored.float() - new["w"].float()).norm() / (old["w"].float() - new["w"].float()).norm()
    assert error < 0.5


def test_numbers_that_squares_cannot_tell_from_zero_are_kept(base: State) -> None:
    for scale in (1e-170, 1e-160):
        old, new = {"w": scale * base["0.weight"].double()}, {"w": 5 * scale * base["0.weight"].double()}
        assert same(metaq.compress(old).state_dict(), old)
        assert same(metaq.load(metaq.diff(old, new).data, base=old), new)


@pytest.mark.parametrize("kind", [io.BytesIO, bytearray, memoryview])
def test_a_base_may_be_bytes_of_any_kind(base: State, kind: type) -> None:
    new = changed(base)
    update, packed = metaq.diff(base, new, lossless=True).data, metaq.compress(base, lossless=True).data
    assert same(metaq.load(update, base=kind(packed)), new)


def test_options_of_another_kind_are_sentences(tmp_path, monkeypatch, base: State) -> None:
    monkeypatch.chdir(tmp_path)
    packed, update = metaq.compress(base, lossless=True).data, metaq.diff(base, changed(base)).data
    asked = {
        "3 is no model": lambda: metaq.load(update, base=3),
        r"\[\] is no model": lambda: metaq.load(update, base=[]),
        "is empty": lambda: metaq.load(update, base=""),
        "path of a model is empty": lambda: metaq.compress(""),
        "names: 3 is no string": lambda: metaq.load(update, base=base, names=[3]),
        "names: 3 is no": lambda: decode.load(update, base=packed, names=[3]),
        "names: give a list": lambda: decode.load(packed, names="w"),
        "names: 3 is none": lambda: metaq.load(packed, names=3),
        "coder: there is no coder": lambda: metaq.compress(base, coder=["small"]),
        "choose small or fast": lambda: metaq.diff(base, packed, coder="constant"),
        "metadata: files say": lambda: metaq.diff(base, packed, metadata={"files": 3}),
    }
    for told, ask in asked.items():
        with pytest.raises(ConfigError, match=told):
            ask()
