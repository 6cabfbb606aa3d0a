"""Inputs for the models of the bank, made here: speech, tones, rendered text, pictures, crystals, time series.

Speech is by espeak-ng (Debian's package of that name), crystals by pymatgen, text by Pillow in Matplotlib's fonts.
"""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import get_window, resample_poly

Audio = NDArray[np.float32]

SAMPLE_RATE = 16000
WAV_HEADER_BYTES = 44

VOICES = tuple(
    f"{accent}+{variant}"
    for variant, accent in zip(
        ("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m5", "f5", "m6", "m7", "Alex", "Annie", "Mario", "Linda"),
        itertools.cycle(("en-us", "en-gb", "en-gb-scotland", "de", "fr", "es")),
        strict=False,
    )
)


class MissingToolError(Exception):
    """A program is missing; the message says which, and how to get it."""


def speech(sentence: str, voice: str, *, pitch: int, words_per_minute: int) -> Audio:
    """Somebody reads a sentence, 16 kHz, values -1 to 1."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise MissingToolError("espeak-ng is not installed; run: apt install espeak-ng")
    command = [program, "-v", voice, "-p", str(pitch), "-s", str(words_per_minute), "--stdout", sentence]
    stream = subprocess.run(command, capture_output=True, check=True).stdout
    rate = int.from_bytes(stream[24:28], "little")  # a WAV header, whose length is wrong as it was not known yet
    samples = np.frombuffer(stream, dtype="<i2", offset=WAV_HEADER_BYTES)
    return resample_poly(samples.astype(np.float32) / 2**15, SAMPLE_RATE, rate).astype(np.float32)


def spoken(sentences: Sequence[str], voices: Sequence[str], generator: np.random.Generator) -> Iterator[Audio]:
    """The sentences read in turn by the voices, each at a pitch and a speed of its own."""
    for sentence, voice in zip(sentences, itertools.cycle(voices), strict=False):
        pitch, speed = generator.integers(25, 75), generator.integers(130, 200)
        yield speech(sentence, voice, pitch=int(pitch), words_per_minute=int(speed))


def with_noise(audio: Audio, generator: np.random.Generator, *, decibels: float) -> Audio:
    """Coloured noise that is so many decibels below the speech."""
    white = np.fft.rfft(generator.standard_normal(len(audio)))
    tilt = np.maximum(np.arange(len(white)), 1.0) ** -generator.uniform(0, 0.5)
    noise = np.fft.irfft(white * tilt, len(audio))
    loudness = np.sqrt(np.mean(audio**2) / np.mean(noise**2)) * 10 ** (-decibels / 20)
    return (audio + loudness * noise).astype(np.float32)


def cut(audio: Audio, length: int, start: int = 0) -> Audio:
    """`length` samples, silent where the audio is over."""
    part = audio[start : start + length]
    return np.pad(part, (0, length - len(part)))


def with_pauses(audio: Audio, generator: np.random.Generator, length: int) -> Audio:
    """Speech in bursts with silence before, between and after, of `length` samples, and noise over all of it."""
    parts: list[Audio] = []
    for burst in np.array_split(audio, 3):
        silence = np.zeros(generator.integers(SAMPLE_RATE // 4, SAMPLE_RATE), dtype=np.float32)
        parts += [silence, burst * np.float32(generator.uniform(0.3, 1.0))]
    return with_noise(cut(np.concatenate(parts), length), generator, decibels=generator.uniform(5, 30))


def mel_spectrogram(audio: Audio) -> Audio:
    """Power in 40 bands of Slaney's mel scale every 10 ms, shape (frames, 40), as librosa gives it to Resemblyzer."""
    window, hop = 400, 160
    padded = np.pad(audio, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(frames * get_window("hann", window), axis=1)) ** 2
    return (power @ mel_filters(window, bands=40).T).astype(np.float32)


def mel_filters(window: int, *, bands: int) -> NDArray[np.float64]:
    """Triangles of equal area, shape (bands, window // 2 + 1)."""
    linear_step, knee, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    top = knee / linear_step + np.log(SAMPLE_RATE / 2 / knee) / log_step
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(
        mels < knee / linear_step, mels * linear_step, knee * np.exp(log_step * (mels - knee / linear_step))
    )
    bins = np.linspace(0, SAMPLE_RATE / 2, window // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def normalised_volume(audio: Audio, *, decibels: float = -30) -> Audio:
    """The audio at a volume relative to full scale."""
    return audio * np.float32(10 ** (decibels / 20) / np.sqrt(np.mean(audio**2)))


def voices_as_mels(
    sentences: Sequence[str], voices: Sequence[str], generator: np.random.Generator, *, frames: int = 160
) -> Audio:
    """One part of 1.6 s of every sentence, shape (sentences, frames, 40)."""
    found = []
    for audio in spoken(sentences, voices, generator):
        noisy = with_noise(audio, generator, decibels=generator.uniform(15, 40))
        mels = mel_spectrogram(normalised_volume(cut(noisy, 160 * (frames + 1), SAMPLE_RATE // 5)))
        found.append(mels[:frames])
    return np.stack(found)


def recordings(
    sentences: Sequence[str], voices: Sequence[str], generator: np.random.Generator, *, length: int
) -> Audio:
    """Speech with pauses and noise, shape (sentences, length)."""
    return np.stack([with_pauses(audio, generator, length) for audio in spoken(sentences, voices, generator)])


def pitched_frames(sentences: Sequence[str], voices: Sequence[str], generator: np.random.Generator) -> Audio:
    """Frames of 64 ms of speech and of tones with overtones, each of mean 0 and deviation 1, shape (frames, 1024)."""
    frames = []
    for audio in spoken(sentences, voices, generator):
        time = np.arange(1024) / SAMPLE_RATE
        tone = generator.uniform(60, 1000)
        overtones = generator.uniform(0, 1, 6) * 0.7 ** np.arange(6)
        waves = np.sin(2 * np.pi * tone * np.outer(np.arange(1, 7), time) + generator.uniform(0, 6, (6, 1)))
        frames.append(with_noise((overtones @ waves).astype(np.float32), generator, decibels=20))
        starts = generator.permutation(np.arange(0, len(audio) - 1024, 320))
        loud = [cut(audio, 1024, start) for start in starts if np.std(audio[start : start + 1024]) > 0.03]
        frames += loud[:7]
    stacked = np.stack(frames)
    return (stacked - stacked.mean(axis=1, keepdims=True)) / stacked.std(axis=1, keepdims=True)


def font(size: int, number: int) -> Any:
    """One of Matplotlib's own fonts."""
    import matplotlib
    from PIL import ImageFont

    names = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Italic", "STIXGeneral")
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{names[number % len(names)]}.ttf"), size)


def line_of_text(text: str, number: int, generator: np.random.Generator, *, width: int, height: int = 64) -> Audio:
    """A grey picture of a line of text, values 0 to 1, shape (height, width), a little noisy."""
    from PIL import Image, ImageDraw, ImageFilter

    ink, paper = (20, 235) if generator.random() < 0.7 else (225, 40)
    picture = Image.new("L", (width, height), paper)
    size = int(generator.integers(24, 40))
    ImageDraw.Draw(picture).text((6, (height - size) // 2 - 2), text, fill=ink, font=font(size, number))
    picture = picture.filter(ImageFilter.GaussianBlur(generator.uniform(0, 1.2)))
    return np.clip(np.asarray(picture) / 255 + generator.normal(0, 0.02, (height, width)), 0, 1).astype(np.float32)


def page_of_text(lines: Sequence[str], number: int, generator: np.random.Generator, *, side: int) -> Audio:
    """A colour picture with lines of text here and there, values 0 to 1, shape (side, side, 3)."""
    from PIL import Image, ImageDraw

    paper, ink = generator.integers(150, 255, 3), generator.integers(0, 110, 3)
    shade = np.linspace(0.7, 1.0, side)[:, None, None] * np.ones((side, side, 1)) * paper
    picture = Image.fromarray(shade.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    top = 10
    for text in lines:
        size = int(generator.integers(14, 34))
        draw.text(
            (int(generator.integers(4, side // 4)), top), text, fill=tuple(map(int, ink)), font=font(size, number)
        )
        top += size + int(generator.integers(10, 40))
    noisy = np.asarray(picture) / 255 + generator.normal(0, 0.02, (side, side, 3))
    return np.clip(noisy, 0, 1).astype(np.float32)


def small_pictures(path: Path, count: int, *, first: int = 0) -> Audio:
    """Photographs of CIFAR-10's test part, values 0 to 1, shape (count, 32, 32, 3), from `cifar10_jpeg.npz`."""
    from PIL import Image

    stored = np.load(path)
    pixels, offsets = stored["test_jpeg"], stored["test_offsets"]
    files = [pixels[offsets[n] : offsets[n + 1]].tobytes() for n in range(first, first + count)]
    return (
        np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]).astype(np.float32) / 255
    )


CRYSTALS: tuple[tuple[str, float | tuple[float, ...], list[str], list[list[float]]], ...] = (
    ("Fm-3m", 5.69, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ("Fd-3m", 5.47, ["Si"], [[0, 0, 0]]),
    ("Pnma", (10.44, 6.09, 4.75), ["Fe", "P", "Li", "O", "O", "O"], [
        [0.282, 0.25, 0.975], [0.095, 0.25, 0.418], [0, 0, 0],
        [0.097, 0.25, 0.743], [0.457, 0.25, 0.206], [0.166, 0.047, 0.285],
    ]),
    ("F-43m", 5.75, ["Ga", "As"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    ("Pm-3m", 3.95, ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    ("Fm-3m", 4.25, ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ("P4_2/mnm", (4.65, 4.65, 2.97), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    ("Im-3m", 2.84, ["Fe"], [[0, 0, 0]]),
    ("Fm-3m", 5.50, ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    ("Fm-3m", 3.62, ["Cu"], [[0, 0, 0]]),
    ("Pm-3m", 4.21, ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ("Fd-3m", 3.57, ["C"], [[0, 0, 0]]),
    ("Fm-3m", 4.04, ["Al"], [[0, 0, 0]]),
    ("F-43m", 5.45, ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    ("Fm-3m", 4.43, ["Mn", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ("Pm-3m", 4.02, ["Ba", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
)  # fmt: skip
"""Space group, edges of the cell in ångström, elements, their places as shares of the edges."""


def crystals(generator: np.random.Generator, which: Sequence[int]) -> list[Any]:
    """Some of ``CRYSTALS`` strained by up to 3 % and every atom moved by about 0.06 Å: structures of pymatgen."""
    from pymatgen.core import Lattice, Structure

    found = []
    for number in which:
        group, edges, elements, places = CRYSTALS[number]
        lattice = Lattice.cubic(edges) if isinstance(edges, float) else Lattice.orthorhombic(*edges)
        structure = Structure.from_spacegroup(group, lattice, elements, places)
        structure.apply_strain(generator.uniform(-0.03, 0.03, 3))
        moves = generator.normal(0, 0.06, (len(structure), 3))
        for place, move in enumerate(moves):
            structure.translate_sites([place], move, frac_coords=False)
        found.append(structure)
    return found


RESIDUES = "ACDEFGHIKLMNPQRSTVWY"

CHAINS = (
    "EVQLLESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAKDRGYSSGWYFDYWGQGTLVTVSS",
    "QVQLVQSGAEVKKPGSSVKVSCKASGGTFSSYAISWVRQAPGQGLEWMGGIIPIFGTANYAQKFQGRVTITADESTSTAYMELSSLRSEDTAVYYCARGGYGDYVFDYWGQGTLVTVSS",
    "QVQLQQWGAGLLKPSETLSLTCAVYGGSFSGYYWSWIRQPPGKGLEWIGEINHSGSTNYNPSLKSRVTISVDTSKNQFSLKLSSVTAADTAVYYCARDYYGSGSYFDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQSISSYLNWYQQKPGKAPKLLIYAASSLQSGVPSRFSGSGSGTDFTLTISSLQPEDFATYYCQQSYSTPLTFGQGTKVEIK",
)
"""Human antibodies: genes IGHV3-23, IGHV1-69, IGHV4-34 and IGKV1-39 with what usually follows them."""


def antibodies(generator: np.random.Generator, count: int) -> list[str]:
    """Variable domains, cut to the shortest, in which a tenth of the residues is replaced."""
    length = min(len(chain) for chain in CHAINS)
    found = []
    for number in range(count):
        residues = list(CHAINS[number % len(CHAINS)][:length])
        for place in generator.choice(length, length // 10, replace=False):
            residues[place] = RESIDUES[generator.integers(len(RESIDUES))]
        found.append("".join(residues))
    return found


def time_series(generator: np.random.Generator, count: int, *, length: int) -> Audio:
    """Sums of waves with trend and noise, and random walks, in turn; between 0 and 1, shape (count, length)."""
    found = []
    for number in range(count):
        time = np.arange(length)
        if number % 3 == 2:
            series = np.cumsum(generator.standard_normal(length))
        else:
            periods = generator.choice([7, 12, 24, 48, 96, 168, 365], size=1 + number % 3, replace=False)
            phases = generator.uniform(0, 2 * np.pi, len(periods))
            waves = [np.sin(2 * np.pi * time / period + phase) for period, phase in zip(periods, phases, strict=True)]
            series = generator.uniform(0.3, 1, len(periods)) @ np.stack(waves)
            series += generator.normal(0, generator.uniform(0.02, 0.4), length)
            series += generator.uniform(-2, 2) * time / length
        found.append((series - series.min()) / np.ptp(series))
    return np.stack(found).astype(np.float32)
