"""The language model of the bank, the ways that calibrate, and what a way costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import language_model
from support import bank, cost, gptq, language, peers
from support.case import case_of
from support.qualities import by_cosine


@pytest.fixture
def model():
    torch.manual_seed(0)
    return language.LanguageModel(language_model.TINY).eval()


@pytest.fixture
def tokens():
    return torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(1))


def test_what_comes_later_changes_nothing_before(model, tokens):
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 64
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-6)
    assert not torch.allclose(before[:, 9], after[:, 9])


def test_order_matters_to_what_follows(model, tokens):
    turned = torch.cat([tokens[:, :8].flip(1), tokens[:, 8:]], dim=1)
    assert not torch.allclose(model(tokens)[:, -1], model(turned)[:, -1], atol=1e-5)


def test_losses_are_those_of_the_logits(model, tokens):
    expected = -model(tokens).log_softmax(dim=2).gather(2, tokens[..., None])[..., 0]
    assert torch.allclose(model(tokens, tokens), expected, atol=1e-5)


def test_a_folder_gives_the_model_back(model, tokens, tmp_path):
    language.write(tmp_path, model)
    assert torch.equal(language.read(tmp_path)(tokens), model(tokens))


def test_transformers_reads_the_folder(model, tokens, tmp_path):
    transformers = pytest.importorskip("transformers")
    language.write(tmp_path, model)
    other = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(other(tokens).logits, model(tokens), atol=1e-5)


def test_windows_share_one_token():
    found = language.windows(torch.arange(11), 4)
    assert found.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert language.windows(torch.arange(101), 4, 5)[:, 0].tolist() == [0, 24, 48, 72, 96]


def test_stretches_have_no_text_in_common():
    text = "".join(f"{number:07}\n" for number in range(200 * 4096 // 8))
    parts = [set(part.split()) for part in language_model.stretches(text)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 200 * 512
    assert [len(part) // 512 for part in parts] == [190, 5, 5]


def test_a_trained_model_knows_what_follows():
    training, held_out = language_model.stand_in(language_model.TINY, 0)
    found = [
        language_model.perplexity(
            language_model.trained(training, language_model.TINY, steps=steps, rate=3e-3, seed=0), held_out
        )
        for steps in (1, 60)
    ]
    assert found[0] > 60
    assert found[1] < 30


def test_the_rate_rises_and_falls():
    rates = [language_model.rate_at(step, 100) for step in range(100)]
    assert rates[:5] == sorted(rates[:5])
    assert max(rates) == rates[4] == 1
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(language_model.LEAST_RATE, abs=1e-3)


@pytest.fixture
def weights():
    return torch.randn(12, 96, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def moment():
    inputs = torch.randn(400, 96, generator=torch.Generator().manual_seed(3))
    inputs = inputs @ torch.randn(96, 96, generator=torch.Generator().manual_seed(4)) / 5
    return inputs.T @ inputs / 400


def error(found, weights, moment):
    apart = found.restored - weights
    return float(((apart @ moment) * apart).sum())


@pytest.mark.parametrize("setting", [gptq.Setting(bits=3, group=32), gptq.Setting(bits=3, group=32, by_size=True)])
def test_columns_to_come_make_up_for_rounding(setting, weights, moment):
    nearest = gptq.rounded(weights, torch.eye(96), setting)
    found = gptq.rounded(weights, moment, setting)
    assert error(found, weights, moment) < 0.6 * error(nearest, weights, moment)


def test_inputs_without_correlation_leave_the_nearest(weights):
    setting = gptq.Setting(bits=4, group=32)
    found = gptq.rounded(weights, torch.diag(torch.linspace(1, 5, 96)), setting)
    for number, grid in enumerate(found.grids):
        part = slice(32 * number, 32 * number + 32)
        assert torch.equal(found.integers[:, part], grid.integers(weights[:, part]))


@pytest.mark.parametrize("by_size", [False, True])
def test_integers_and_grids_restore_the_weights(by_size, weights, moment):
    found = gptq.rounded(weights, moment, gptq.Setting(bits=2, group=40, by_size=by_size))
    groups = found.integers.split(40, dim=1)
    restored = torch.cat([grid.restored(part) for grid, part in zip(found.grids, groups, strict=True)], dim=1)
    assert torch.equal(restored, found.restored)
    assert set(found.integers.unique().tolist()) <= {0, 1, 2, 3}
    assert all(torch.equal(grid.steps, grid.steps.half().float()) for grid in found.grids)


def test_columns_that_no_input_reaches_are_zero(weights, moment):
    moment[7], moment[:, 7] = 0, 0
    found = gptq.rounded(weights, moment, gptq.Setting(bits=4, group=32))
    assert not found.restored[:, 7].any()
    assert torch.isfinite(found.restored).all()


def correlated():
    generator = torch.Generator().manual_seed(5)
    model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(64, 64) for _ in range(3))})
    model.forward = lambda inputs: model.layers[2](model.layers[1](model.layers[0](inputs).relu()).relu())
    inputs = torch.randn(4, 64, 64, generator=generator) @ torch.randn(64, 64, generator=generator) / 8
    state = {name: torch.randn(tensor.shape, generator=generator) / 8 for name, tensor in model.state_dict().items()}
    return case_of(
        "correlated", model, state, calibration=list(inputs[:2]), held_out=list(inputs[2:]), quality=by_cosine
    )


def test_calibrated_rounding_beats_that_without_data():
    case = correlated()
    restored, size = gptq.applied(case, gptq.Setting(bits=3, group=32))
    plain, plain_size = peers.applied(peers.named("blocks of 32 with minima at 3 bits"), case.state)
    assert 1 - case.judged(restored)["score"] < 0.7 * (1 - case.judged(plain)["score"])
    assert size < plain_size
    assert all(torch.equal(tensor, case.state[name]) for name, tensor in case.model.state_dict().items())
    assert {name: tensor.shape for name, tensor in restored.items()} == {
        name: tensor.shape for name, tensor in case.state.items()
    }


def test_inputs_of_a_stage_are_counted_over_all_batches():
    case = correlated()
    layers = gptq.layers_of(case)
    first, *later = layers
    found = gptq.moments(case, {first: layers[first]}, [layers[name] for name in later])
    inputs = torch.cat(case.calibration)
    assert torch.allclose(found[first], inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "stage"),
    [("model.layers.3.mlp.up_proj.weight", "model.layers.3"), ("lm_head.weight", "lm_head.weight"), ("0.weight", "0")],
)
def test_layers_of_a_block_are_one_stage(name, stage):
    assert gptq.stage_of(name) == stage


def test_memory_is_that_which_the_call_takes_at_most():
    number, found = cost.measured(lambda: sum(bytearray(b"1" * (64 << 20))[-2:]))
    assert number == 2 * ord("1")
    if "peak_mib" in found:
        assert 120 < found["peak_mib"] < 136


def test_the_language_model_needs_its_folder(tmp_path):
    sources = bank.Sources(packages=tmp_path, sentences=None, pictures=None)
    with pytest.raises(bank.CannotRunError, match=r"language_model\.py"):
        bank.language(sources)
    with pytest.raises(bank.CannotRunError, match="make it by"):
        language.read(tmp_path)
