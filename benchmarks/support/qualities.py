"""How well the outputs of a compressed model agree with those of the model itself, in the terms of its users.

Every function takes the outputs of both, a row for every input. The "score" of what it returns is 1 for equal outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from support.sentences import agreement

Quality = dict[str, float]

PITCH_STEP_CENTS = 20

CHARACTERS = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Of the recogniser english_g2, whose class 0 is the blank."""


def by_cosine(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Cosine of every row."""
    cosines = functional.cosine_similarity(reference.flatten(1).double(), found.flatten(1).double(), dim=1)
    return {"score": float(cosines.mean()), "least_cosine": float(cosines.min())}


def by_decisions(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Mean difference of probabilities, and the percentage of them on the same side of 0.5."""
    kept = ((reference > 0.5) == (found > 0.5)).double().mean()
    return {"score": 1 - float((reference - found).abs().double().mean()), "decisions_kept_percent": 100 * float(kept)}


def by_classes(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Overlap of the probabilities of classes, the mean divergence in bits, and the percentage of equal classes."""
    before, after = (logits.double().flatten(0, -2).log_softmax(dim=1) for logits in (reference, found))
    divergence = (before.exp() * (before - after)).sum(dim=1).mean() / np.log(2)
    same = (before.argmax(dim=1) == after.argmax(dim=1)).double().mean()
    overlap = torch.minimum(before.exp(), after.exp()).sum(dim=1).mean()
    return {"score": float(overlap), "divergence_bits": float(divergence), "top1_kept_percent": 100 * float(same)}


def by_characters(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """The same for every column of a text line, and the percentage of lines that are read alike."""
    alike = [before == after for before, after in zip(read(reference), read(found), strict=True)]
    return {**by_classes(reference, found), "lines_kept_percent": 100 * float(np.mean(alike))}


def read(logits: torch.Tensor) -> list[str]:
    """Text of lines whose logits have the shape (lines, columns, classes): repetitions are one, blanks nothing."""
    texts = []
    for classes in logits.argmax(dim=2).tolist():
        kept = [now for before, now in zip([0, *classes], classes, strict=False) if now not in (before, 0)]
        texts.append("".join(CHARACTERS[number - 1] for number in kept))
    return texts


def by_pitch(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Cosine of activations, and how far the highest ones are apart."""
    apart = PITCH_STEP_CENTS * (reference.argmax(dim=1) - found.argmax(dim=1)).abs().double()
    near = (apart <= 50).double().mean()
    return {
        **by_cosine(reference, found),
        "mean_cents": float(apart.mean()),
        "within_50_cents_percent": 100 * float(near),
    }


def by_forces(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Errors of energies (first column, eV per atom) and of forces (the others, eV/Å, zero where there is no atom)."""
    energy, forces = (part.double() for part in (reference - found).abs().split([1, reference.shape[1] - 1], dim=1))
    force = forces[reference[:, 1:] != 0].mean()
    return {
        "score": 1 - float(energy.mean() + force) / 2,
        "energy_mev_per_atom": 1000 * float(energy.mean()),
        "largest_mev_per_atom": 1000 * float(energy.max()),
        "force_mev_per_angstrom": 1000 * float(force),
    }


def by_deviation(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Mean difference of forecasts, in deviations of their series."""
    error = float((reference - found).abs().double().mean())
    return {"score": 1 - error, "error_percent_of_deviation": 100 * error}


def by_perplexity(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Perplexity from losses of tokens in nats; the score is the perplexity before over it."""
    before, after = (float(losses.double().mean()) for losses in (reference, found))
    return {"score": float(np.exp(before - after)), "perplexity": float(np.exp(after))}


def by_sentences(reference: torch.Tensor, found: torch.Tensor) -> Quality:
    """Cosine of embeddings, and rank correlation of all similarities."""
    figures = agreement(reference, found)
    return {"score": figures.pop("mean_cosine"), **figures}
