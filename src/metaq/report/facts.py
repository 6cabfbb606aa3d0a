"""What a file says of how it was made and how good it is, in its metadata.

All are short texts, as every byte of a small file counts: the accuracy in percent and that of the float weights by the
name of the images, ``"test": "98.12/98.30"``; ``"goal": "20x"``; ``"kept": "0.9988"`` of the outputs; and ``"command":
"compress --target-ratio 20"``, which names no file. They take 10 to 16 bytes each, a command more, but never more than
:data:`LARGEST_SHARE` of a file in all, nor do they make it larger than its goal: a file of a kilobyte has none of them.
"""

import math
import re
import shlex
from collections.abc import Mapping, Sequence

from metaq import container
from metaq.compression.compressed import Goal
from metaq.container.metadata import rewritten
from metaq.report.subject import Accuracy

GOAL, KEPT, COMMAND = "goal", "kept", "command"

LARGEST_SHARE = 1 / 256
"""Of a file, what all of these may take."""

USUAL_RATIO = 64
"""A file of unknown size is taken for so many times smaller than its tensors, which few are."""

GOALS = {
    "target_bytes": ("{} B", "at most {} bytes"),
    "target_ratio": ("{}x", "at least {} times smaller"),
    "target_bits_per_weight": ("{} bit", "at most {} bits per weight"),
    "max_drop": ("-{}", "at most {} points of accuracy lost"),
    "target_value": ("{}%", "an accuracy of at least {} %"),
    "keep": ("keep {}", "at least {} of the outputs kept"),
}
"""Of every goal, how a file says it, and what that means."""

BOUND = "bound"
"""Instead of the images: a lower bound of the accuracy on a test set, from other images."""

IMAGES = {
    "test": "the test images",
    "validation": "the validation images",
    "train": "the training images",
    BOUND: "a test set",
}
"""By their names in metadata, most telling first."""

NUMBER = r"\d{1,15}(?:\.\d{1,9})?"
PERCENT = r"(100\.00|\d{1,2}\.\d\d)"
ACCURACY_FORM = re.compile(rf"{PERCENT}(?:/{PERCENT})?")
KEPT_FORM = re.compile(r"[01]\.\d{1,9}")

MAKERS = {"compress": "compress MODEL -o {}", "quantize": "quantize MODEL -o {}", "train": "train --out RUN"}
"""Commands that make files, with the names that a file does not say."""


def goal_fact(goal: Goal) -> dict[str, str]:
    """The goal as a file says it; nothing without one.

    Examples
    --------
    >>> goal_fact(Goal(target_ratio=20.0))
    {'goal': '20x'}
    """
    given = ((short, getattr(goal, name)) for name, (short, _) in GOALS.items())
    told = [short.format(f"{value:.10g}") for short, value in given if value is not None]
    return {GOAL: told[0]} if told else {}


def accuracy_fact(percent: float, images: str, *, before: float | None = None) -> dict[str, str]:
    """An accuracy in percent on the :data:`IMAGES` of that name, and that of the float weights `before`.

    Examples
    --------
    >>> accuracy_fact(98.123, "test", before=98.3)
    {'test': '98.12/98.30'}
    """
    return {images: f"{percent:.2f}" + ("" if before is None else f"/{before:.2f}")}


def kept_fact(score: float) -> dict[str, str]:
    """How much of the outputs is kept, with as many places as tell it from 1.

    Examples
    --------
    >>> kept_fact(0.99987654)
    {'kept': '0.99988'}
    """
    places = max(3, 1 - math.floor(math.log10(max(1 - score, 1e-9))))
    return {KEPT: f"{max(score, 0.0):.{places}f}"}


def command_fact(command: str, options: Mapping[str, object]) -> dict[str, str]:
    """A command with those of its options that were given; what is None, False or empty was not.

    Examples
    --------
    >>> command_fact("compress", {"--target-ratio": 20.0, "--recover": None, "--lossless": True, "--exclude": ["a*"]})
    {'command': "compress --target-ratio 20 --lossless --exclude 'a*'"}
    """
    words = [command]
    for option, value in options.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None and each is not False:
                text = f"{each:.10g}" if isinstance(each, float) else str(each)
                words += [option] if each is True else [option, text]
    return {COMMAND: shlex.join(words)}


def beforehand(facts: Mapping[str, str], goal: Goal, *, float_bytes: int, weights: int) -> dict[str, str]:
    """Of facts, the first ones that a file may hold which is yet to be made of tensors of that size."""
    limit = goal.limit_bytes(float_bytes=float_bytes, weights=weights)
    left = (float_bytes // USUAL_RATIO if limit is None else limit) * LARGEST_SHARE
    found = {}
    for key, value in facts.items():
        left -= len(key.encode()) + len(value.encode()) + 3
        if left >= 0:
            found[key] = value
    return found


def added(data: bytes, facts: Mapping[str, str], *, limit_bytes: int | None = None) -> bytes:
    """A file with those of the facts, in their order, that it may hold, and no others of these names."""
    known = {key: value for key, value in container.describe(data).metadata.items() if key not in facts}
    found = plain = rewritten(data, known)
    largest = len(plain) * (1 + LARGEST_SHARE)
    for key, value in facts.items():
        tried = rewritten(data, {**known, key: value})
        if len(tried) <= largest and (limit_bytes is None or len(tried) <= limit_bytes):
            found, known = tried, {**known, key: value}
    return found


def goal_told(metadata: Mapping[str, object]) -> str | None:
    """What the goal of a file means; None where it says none.

    Examples
    --------
    >>> goal_told({"goal": "9000 B"})
    'at most 9,000 bytes'
    """
    text = str(metadata.get(GOAL, ""))
    for short, meaning in GOALS.values():
        form = re.fullmatch(re.escape(short).replace(r"\{\}", f"({NUMBER})"), text)
        if form is not None:
            return meaning.format(f"{int(form[1]):,}" if form[1].isdecimal() else form[1])
    return None


def accuracies_told(metadata: Mapping[str, object]) -> tuple[Accuracy | None, Accuracy | None]:
    """The accuracy of a file and that of the float weights, as far as it says them."""
    for images in IMAGES:
        form = ACCURACY_FORM.fullmatch(str(metadata.get(images, "")))
        if form is not None:
            where = images_told(images, metadata.get("data"))
            first, then = "weights restored from the file", where
            if images == BOUND:
                first, then = "a lower bound for these weights", "images that did not calibrate"
            before = None if form[2] is None else Accuracy(percent=float(form[2]), what=f"float weights, on {then}")
            return Accuracy(percent=float(form[1]), what=f"{first}, on {where}"), before
    return None, None


def images_told(images: str, data: object = None) -> str:
    """Images in words.

    Examples
    --------
    >>> images_told("test", "mnist")
    'the test images of mnist'
    """
    return f"{IMAGES[images]} of {data}" if data else IMAGES[images]


def kept_told(metadata: Mapping[str, object]) -> str | None:
    """How much of the outputs a file says are kept."""
    text = str(metadata.get(KEPT, ""))
    return text if KEPT_FORM.fullmatch(text) else None


def command_told(metadata: Mapping[str, object], name: str) -> str | None:
    """The line for a shell that a file called `name` says it was made by, every word quoted; None where it says none.

    Examples
    --------
    >>> command_told({"command": "compress --exclude 'a*'; ls"}, "my model.metaq")
    "metaq compress MODEL -o 'my model.metaq' --exclude 'a*;' ls"
    """
    words = _words(str(metadata.get(COMMAND, "")))
    if not words or words[0] not in MAKERS:
        return None
    first = MAKERS[words[0]].format(shlex.quote(name))
    return " ".join(["metaq", first, *map(shlex.quote, words[1:])])


def _words(text: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return ()
