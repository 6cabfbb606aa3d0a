"""The parts of benchmarks/frontier.py that need no package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support import bank, bank_inputs, networks, peers, qualities
from support.equal_quality import Curve, on_front

PEERS = {peer.name: peer for peer in peers.peers()}


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(3)
    return {
        "weight": torch.randn(24, 3, 40, generator=generator).sign() * torch.rand(24, 3, 40, generator=generator) ** 3,
        "thin": torch.randn(130, 9, generator=generator),
        "zeros": torch.zeros(40, 64),
        "bias": torch.randn(50, generator=generator),
        "wide": torch.tensor([1e6, -2.0]),
        "steps": torch.tensor(7),
    }


def squared_error(state, restored):
    return sum(float(((state[name] - restored[name]) ** 2).sum()) for name in ("weight", "thin"))


@pytest.mark.parametrize("name", PEERS)
def test_a_way_restores_every_tensor_in_its_shape(name, state):
    restored, size = peers.applied(PEERS[name], state)
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in restored.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in state.items()
    }
    assert 0 < size < sum(tensor.numel() * tensor.element_size() for tensor in state.values())


@pytest.mark.parametrize("name", PEERS)
def test_what_a_way_does_not_quantise_stays_within_half_precision(name, state):
    restored, _ = peers.applied(PEERS[name], state)
    assert torch.equal(restored["bias"], state["bias"].half().float())
    assert torch.equal(restored["wide"], state["wide"])
    assert torch.equal(restored["steps"], state["steps"])
    assert not restored["zeros"].any()


def test_channels_err_by_half_a_step_at_most(state):
    restored, _ = peers.applied(PEERS["int8 per channel"], state)
    steps = state["thin"].abs().amax(dim=1, keepdim=True) / 127
    assert ((restored["thin"] - state["thin"]).abs() <= 0.5001 * steps).all()


@pytest.mark.parametrize(("better", "worse"), [("q4_K", "blocks of 32 with minima at 4 bits"), ("q3_K", "q2_K")])
def test_a_searched_grid_errs_less(better, worse, state):
    first, second = (peers.applied(PEERS[name], state)[0] for name in (better, worse))
    assert squared_error(state, first) < squared_error(state, second)


def test_more_bits_err_less_and_take_more_bytes(state):
    found = [peers.applied(PEERS[f"blocks of 32 at {bits} bits"], state) for bits in (2, 3, 4, 5, 6)]
    errors = [squared_error(state, restored) for restored, _ in found]
    assert errors == sorted(errors, reverse=True)
    assert [size for _, size in found] == sorted(size for _, size in found)


def test_blocks_of_32_are_those_of_gguf(state):
    gguf = pytest.importorskip("gguf")
    blocks = state["weight"].numpy().reshape(-1, 32)
    data = gguf.quants.quantize(blocks, gguf.GGMLQuantizationType.Q4_0)
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q4_0)
    found = peers.symmetric_blocks(4)(blocks, peers.Streams())
    assert np.abs(found - expected).max() <= np.abs(blocks).max() / 8
    assert np.mean((found - blocks) ** 2) == pytest.approx(np.mean((expected - blocks) ** 2), rel=0.05)


def test_packed_integers_have_no_gaps():
    assert peers.packed(np.array([1, 2, 3, 4], dtype=np.uint8), 4) == bytes([0x21, 0x43])
    assert len(peers.packed(np.zeros(80, dtype=np.uint8), 3)) == 30


def curve(limit=100):
    """Files whose score rises with their size in steps of 7 bytes, none under `limit`."""
    asked = []

    def measure(size):
        asked.append(size)
        if size < limit:
            return None
        got = size - size % 7
        return {"bytes": got, "score": 1 - 1000 / got**2}

    return Curve(measure), asked


def test_a_search_ends_near_the_smallest_good_file():
    found, asked = curve()
    found.search(0.999, 2000, probes=20)
    assert 1000 <= found.smallest(0.999)["bytes"] <= 1030
    assert len(asked) < 15


def test_a_search_uses_the_files_there_are():
    found, asked = curve()
    found.search(0.999, 2000, probes=20)
    before = len(asked)
    found.search(0.999, 2000, probes=20)
    assert len(asked) == before


def test_a_search_ends_where_no_file_is_smaller():
    found, asked = curve(limit=500)
    found.search(0.9, 2000, probes=30)
    assert 500 - 7 <= found.smallest(0.9)["bytes"] <= 520
    assert len(asked) < 30


def test_the_front_leaves_out_what_another_beats():
    rows = [{"bytes": size, "score": score} for size, score in ((10, 0.9), (12, 0.8), (20, 0.95), (20, 0.9))]
    assert on_front(rows) == [rows[0], rows[2]]


@pytest.mark.parametrize(
    "quality", [qualities.by_cosine, qualities.by_pitch, qualities.by_forces, qualities.by_deviation]
)
def test_equal_outputs_score_one(quality):
    outputs = torch.rand(6, 13, generator=torch.Generator().manual_seed(1))
    assert quality(outputs, outputs)["score"] == pytest.approx(1)
    assert quality(outputs, outputs.flip(1))["score"] < 1


@pytest.mark.parametrize("quality", [qualities.by_characters, qualities.by_classes])
def test_equal_logits_score_one(quality):
    logits = torch.randn(4, 20, 97, generator=torch.Generator().manual_seed(1))
    assert quality(logits, logits)["score"] == pytest.approx(1)
    assert quality(logits, logits)["top1_kept_percent"] == 100
    assert quality(logits, -logits)["score"] < 1


def test_decisions_are_kept_on_the_same_side_of_a_half():
    found = qualities.by_decisions(torch.tensor([0.1, 0.6, 0.9, 0.4]), torch.tensor([0.3, 0.4, 0.8, 0.4]))
    assert found["decisions_kept_percent"] == 75
    assert found["score"] == pytest.approx(1 - 0.5 / 4)


def test_forces_count_where_there_are_atoms():
    reference = torch.tensor([[-1.0, 1, 2, 3, 0, 0, 0]])
    found = qualities.by_forces(reference, torch.tensor([[-1.5, 1, 2, 3.3, 0, 0, 0]]))
    assert found["energy_mev_per_atom"] == pytest.approx(500)
    assert found["force_mev_per_angstrom"] == pytest.approx(100)


def test_text_is_read_without_blanks_and_repetitions():
    classes = [
        0,
        1 + qualities.CHARACTERS.index("a"),
        1 + qualities.CHARACTERS.index("a"),
        0,
        1 + qualities.CHARACTERS.index("a"),
    ]
    logits = torch.nn.functional.one_hot(torch.tensor([classes]), len(qualities.CHARACTERS) + 1).float()
    assert qualities.read(logits) == ["aa"]


def test_a_judged_model_keeps_its_weights():
    case = bank.stand_in(0)
    noisy = {name: tensor + 0.1 for name, tensor in case.state.items()}
    assert case.judged(noisy)["score"] < 0.999
    assert all(torch.equal(tensor, case.state[name]) for name, tensor in case.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shape", "found"),
    [
        (networks.VoiceEncoder(), (2, 20, 40), (2, 256)),
        (networks.VoiceActivity(), (2, 2048), (2, 4)),
        (networks.VoiceActivityOfRate(chunk=256), (2, 1024), (2, 4)),
        (networks.TextRecognizer(97), (1, 1, 64, 100), (1, 24, 97)),
        (networks.TextDetector(), (1, 3, 64, 96), (1, 2, 32, 48)),
        (networks.PitchTracker(), (3, 1024), (3, 360)),
        (networks.EfficientNetLite0(), (1, 3, 65, 64), (1, 1000)),
    ],
)
def test_a_network_has_the_outputs_that_it_says(network, shape, found):
    with torch.no_grad():
        assert network.eval()(torch.rand(shape)).shape == found


def test_perplexity_is_the_exponential_of_mean_loss():
    found = qualities.by_perplexity(torch.full((2, 5), np.log(20.0)), torch.full((2, 5), np.log(25.0)))
    assert found["perplexity"] == pytest.approx(25)
    assert found["score"] == pytest.approx(0.8)


def test_antibodies_differ_and_are_of_one_length():
    sequences = bank_inputs.antibodies(np.random.default_rng(0), 12)
    assert len(set(sequences)) == 12
    assert {len(sequence) for sequence in sequences} == {107}
    assert set("".join(sequences)) <= set(bank_inputs.RESIDUES)


def test_a_tone_lies_in_its_mel_band():
    time = np.arange(16000) / 16000
    bands = [
        int(bank_inputs.mel_spectrogram(np.sin(2 * np.pi * tone * time).astype(np.float32)).mean(axis=0).argmax())
        for tone in (200, 1000, 4000)
    ]
    edges = np.array([(filters > 0).nonzero()[0][[0, -1]] * 40 for filters in bank_inputs.mel_filters(400, bands=40)])
    assert all(edges[band, 0] <= tone <= edges[band, 1] for band, tone in zip(bands, (200, 1000, 4000), strict=True))


def test_noise_is_as_much_quieter_as_asked():
    generator = np.random.default_rng(0)
    audio = generator.standard_normal(8000).astype(np.float32)
    noise = bank_inputs.with_noise(audio, generator, decibels=20) - audio
    assert np.std(noise) / np.std(audio) == pytest.approx(0.1, rel=0.02)


def test_series_lie_between_0_and_1_and_differ():
    series = bank_inputs.time_series(np.random.default_rng(0), 6, length=512)
    assert series.shape == (6, 512)
    assert series.min(axis=1) == pytest.approx(0)
    assert series.max(axis=1) == pytest.approx(1)
    assert np.abs(np.diff(series, axis=0)).mean(axis=1).min() > 0.01


def test_a_missing_package_says_what_to_do(tmp_path):
    sources = bank.Sources(packages=tmp_path, sentences=None, pictures=None)
    with pytest.raises(bank.CannotRunError, match="unpack the package there"):
        bank.resemblyzer(sources)
