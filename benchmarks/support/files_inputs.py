"""Inputs for the files of packages that the bank has no model of: pictures, lines of text, sounds, bytes, proteins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly
from torch.nn import functional

from support import bank_inputs
from support.bank_inputs import Audio

PADDING_TOKEN = 256
"""What magika takes for bytes that a file does not have."""

MAGIKA_BYTES, MAGIKA_BLOCK = 1024, 4096
PITCH_RATE, PITCH_SAMPLES = 22050, 43844
"""Of basic-pitch, whose inputs are about two seconds."""


def pictures(path: Path, count: int, side: int) -> Audio:
    """Photographs of CIFAR-10 enlarged, values 0 to 1, shape (count, 3, side, side)."""
    small = torch.from_numpy(bank_inputs.small_pictures(path, count)).permute(0, 3, 1, 2)
    return functional.interpolate(small, size=side, mode="bicubic").clamp(0, 1).numpy()


def channels_last(images: Audio) -> Audio:
    """Pictures as TensorFlow has them."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def pages(texts: Sequence[str], generator: np.random.Generator, *, side: int = 256) -> Audio:
    """Pages of six lines, normalised as for ImageNet, shape (pages, 3, side, side)."""
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    found = [
        bank_inputs.page_of_text([text[:30] for text in texts[n : n + 6]], n // 6, generator, side=side)
        for n in range(0, len(texts), 6)
    ]
    return np.ascontiguousarray(((np.stack(found) - mean) / deviation).transpose(0, 3, 1, 2))


def text_lines(
    texts: Sequence[str], generator: np.random.Generator, *, width: int, characters: int, turned: bool = False
) -> Audio:
    """Lines of text 48 pixels high, values -1 to 1, shape (lines, 3, 48, width); every second `turned` upside down."""
    found = []
    for number, text in enumerate(texts):
        line = bank_inputs.line_of_text(text[:characters], number, generator, width=width, height=48)
        found.append(line[::-1, ::-1] if turned and number % 2 else line)
    return np.ascontiguousarray(np.repeat(2 * np.stack(found)[:, None] - 1, 3, axis=1))


def sounds(texts: Sequence[str], generator: np.random.Generator) -> Audio:
    """Speech, and chords of decaying tones with overtones, in turn, shape (sounds, samples, 1)."""
    found = []
    for number, audio in enumerate(bank_inputs.spoken(texts, bank_inputs.VOICES, generator)):
        fine = resample_poly(audio, PITCH_RATE // 50, 16000 // 50).astype(np.float32)
        time = np.arange(PITCH_SAMPLES) / PITCH_RATE
        notes = 440 * 2 ** (generator.integers(-24, 24, 3) / 12)
        chord = sum(
            np.sin(2 * np.pi * note * part * time) * 0.5**part * np.exp(-2 * (time % 0.5))
            for note in notes
            for part in range(1, 5)
        )
        found.append(np.float32(0.3) * np.asarray(chord, dtype=np.float32) if number % 2 else fine)
    return np.stack([bank_inputs.cut(audio, PITCH_SAMPLES) for audio in found])[..., None]


def beginnings_and_ends(paths: Sequence[Path]) -> np.ndarray:
    """The bytes of files that magika looks at, int32 of shape (files, 2048)."""
    rows = []
    for path in paths:
        content = path.read_bytes()
        first = content[:MAGIKA_BLOCK].lstrip()[:MAGIKA_BYTES]
        last = content[-MAGIKA_BLOCK:].rstrip()[-MAGIKA_BYTES:]
        missing = [[PADDING_TOKEN] * (MAGIKA_BYTES - len(part)) for part in (first, last)]
        rows.append([*first, *missing[0], *missing[1], *last])
    return np.array(rows, dtype=np.int32)


def proteins(feat: Any, network: Any, generator: np.random.Generator, count: int, *, residues: int = 60) -> list[Any]:
    """Graphs of balls of residues that follow each other at the usual distance, by pocketnet's own featurisation."""
    found = []
    for _ in range(count):
        place = np.zeros(3)
        atoms: list[np.ndarray] = []
        names: list[tuple[str, str]] = []
        for name in generator.choice(feat.AA, residues):
            step = generator.standard_normal(3) - place / 12  # towards the middle, so that the chain stays together
            place = place + 3.8 * step / np.linalg.norm(step)
            for number, atom in enumerate(feat.ATOMS[name].split()):
                atoms.append(place + generator.normal(0, 0.8 + 0.3 * number, 3))
                names.append((name, atom))
        types, elements = feat.atom_types([name for name, _ in names], [atom for _, atom in names])
        places, kinds = torch.tensor(np.stack(atoms), dtype=torch.float32), torch.from_numpy(elements)
        points, normals = feat.sas_points(places, kinds)
        points, normals = points[::8], normals[::8]
        features = feat.point_feats(points, normals, places, kinds)
        found.append(network.graph(torch.from_numpy(types), places, points, features))
    return found
