"""From a run's folder, whose files may all be missing or damaged, or a file of weights to the subject of a report."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import TypeGuard

from metaq import container
from metaq.compression.compressed import Goal
from metaq.compression.restoring import origin_of
from metaq.config import require
from metaq.container.source import is_update
from metaq.errors import ConfigError, FormatError
from metaq.files import write_bytes
from metaq.lab import environment, runs
from metaq.lab.train import EpochRecord, checkpointing
from metaq.report import facts, inspection, page
from metaq.report.changes import Change
from metaq.report.first_layer import add_filters, latent_weights
from metaq.report.layers import add_layers
from metaq.report.model_file import add_file, add_histograms
from metaq.report.subject import Accuracy, Json, Subject

LARGEST_INTEGER = 1 << 63


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a number, an integer of any reasonable size."""
    return isinstance(value, float) or is_integer(value)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is an integer of 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_INTEGER


def object_in(folder: Path, name: str, subject: Subject, part: str) -> Json:
    """The JSON object in a file of the run; if there is none, nothing, and a sentence for the part it would give."""
    reason = "is damaged: it holds no JSON object"
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except FileNotFoundError:
        reason = "is missing from the run's folder"
    except (OSError, ValueError, RecursionError):
        reason = "is damaged"
    subject.missing[part] = f"{name} {reason}."
    return {}


def add_records(folder: Path, subject: Subject) -> None:
    """Metrics of the epochs up to the first damaged line."""
    try:
        lines = (folder / runs.METRICS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = "is missing from the run's folder" if isinstance(error, FileNotFoundError) else "cannot be read"
        subject.missing["curves"] = f"There are no curves: {runs.METRICS_FILE} {reason}."
        return
    records: list[EpochRecord] = []
    for number, line in enumerate(lines, start=1):
        record = _record_of(line)
        if record is None or (records and record.epoch <= records[-1].epoch):
            subject.notes["curves"] = f"Line {number} of {runs.METRICS_FILE} is damaged; the curves end before it."
            break
        records.append(record)
    if not records:
        subject.missing["curves"] = f"There are no curves: {runs.METRICS_FILE} holds no finished epoch."
    subject.records = records


def checkpoint_state(folder: Path, subject: Subject) -> Json:
    """State of the training, read without executing anything in it; nothing where it cannot be read."""
    try:
        return checkpointing.load(folder)[1]
    except FormatError:
        state = "is damaged" if (folder / checkpointing.FILE_NAME).exists() else "is missing"
        subject.missing["latent"] = f"{checkpointing.FILE_NAME} {state}, so that latent weights are not known."
        return {}


def add_accuracies(subject: Subject, summary: Mapping[str, object], data: object) -> None:
    """Accuracies of the file and of float weights, and what images of `data` they are of."""
    restored, kept, validation = (summary.get(key) for key in ("accuracy", "kept_epoch", "validation_accuracy"))
    sizes = subject.sizes
    if is_integer(kept):
        subject.kept_epoch = kept
    if sizes is not None and summary and summary.get("bytes") != sizes["bytes"]:
        subject.missing["accuracy"] = f"{runs.SUMMARY_FILE} speaks of a file of another size than {runs.MODEL_FILE}."
    elif is_number(restored):
        what = f"weights restored from the file, on {facts.images_told('test', data)}"
        subject.after = Accuracy(percent=restored, what=what)
        if is_number(validation) and is_integer(kept):
            subject.notes["accuracy"] = (
                f"{validation:.2f} % on the validation images, by which epoch {kept} was chosen."
            )
    else:
        subject.missing.setdefault("accuracy", f"{runs.SUMMARY_FILE} does not say how accurate the file is.")
    measured = summary.get("float_accuracy")
    floats = [record for record in subject.records if record.strength == 0]
    if is_number(measured):
        what = f"the same network trained as usual, on {facts.images_told('test', data)}"
        subject.before = Accuracy(percent=measured, what=what)
    elif floats:
        images = facts.images_told("validation", data)
        what = f"float weights in epoch {floats[-1].epoch}, before the entropy term set in, on {images}"
        subject.before = Accuracy(percent=floats[-1].float_accuracy, what=what)
    else:
        subject.missing["before"] = "The accuracy of float weights is not known: no epoch was without the entropy term."


def add_time(subject: Subject, summary: Mapping[str, object]) -> None:
    """How long the training took, by its summary or else by its epochs."""
    seconds = summary.get("seconds")
    if is_number(seconds):
        subject.seconds = seconds
    elif subject.records:
        subject.seconds = sum(record.seconds for record in subject.records)
        subject.notes["seconds"] = f"{len(subject.records)} epochs so far"
    else:
        subject.missing["seconds"] = "How long the training took is not known: there are no metrics."


def _record_of(line: str) -> EpochRecord | None:
    """A line of metrics; None if it is not what a training writes."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    numbers = {each.name: values.get(each.name) for each in fields(EpochRecord)}
    if not all(is_number(value) for value in numbers.values()):
        return None
    return EpochRecord(**numbers) if is_integer(numbers["epoch"]) else None  # type: ignore[arg-type]


def gather(source: str | os.PathLike[str], *, net: str | None = None, name: str | None = None) -> Subject:
    """Everything a report shows of a run's folder, complete or not, or of a file of weights.

    The network is by default the one that the file names, if it is a reference network; `name` says what to call the
    subject, by default as the folder or file. Raises :class:`ConfigError` if the folder holds no run, or `net` is
    unknown or not the network of these weights; and :class:`FormatError` if a file is missing, damaged or foreign. What
    is damaged in a run's folder leaves a sentence.
    """
    path = Path(source)
    if not path.is_dir():
        return _of_file(path, net, name or path.name)
    is_run = any((path / each).exists() for each in runs.RUN_FILES)
    require(is_run, f"{path}: holds no run of metaq train; give the folder of one, or a file of weights.")
    return _of_run(path, net, name or path.resolve().name)


def write(path: str | os.PathLike[str], subjects: Sequence[Subject], changes: Sequence[Change] | None = None) -> int:
    """Write the page of one subject, or one that compares two, atomically; returns its size in bytes."""
    # Names may hold halves of surrogate pairs, which UTF-8 has no bytes for.
    return write_bytes(path, page.render(subjects, changes).encode(errors="backslashreplace"))


def _of_file(path: Path, net: str | None, name: str) -> Subject:
    subject = Subject(name=name, title=name)
    metadata = _add_weights(subject, path, net, {}, None)
    named, data = net or metadata.get("net"), metadata.get("data")
    subject.title = _title(named, data, name)
    subject.after, subject.before = facts.accuracies_told(metadata)
    made_by = facts.command_told(metadata, name)
    if subject.after is None and subject.kept is None:
        subject.missing["accuracy"] = (
            f"How accurate it is, the file does not say; “{_evaluating(name, named, data)}” measures it."
        )
    parts = ["curves", "training time", "environment", *([] if made_by else ["command"])]
    folder = f"There are no {', '.join(parts[:-1])} and {parts[-1]}: these are in the folder of a run, not in its file."
    subject.missing |= dict.fromkeys(("curves", "seconds", "environment"), folder)
    subject.environment = {} if made_by is None else {"command": made_by}
    subject.commands = _commands(name, path, metadata, named, data)
    return subject


def _evaluating(name: str, net: object, data: object) -> str:
    """The command that measures the accuracy of a file."""
    return f"metaq evaluate {quote(name)} --net {quote(str(net or 'NET'))} --data {quote(str(data or 'DATA'))}"


def _commands(
    name: str, path: Path, metadata: Mapping[str, object], net: object, data: object
) -> list[tuple[str, str]]:
    """What can be done with a file called `name`, as lines to be pasted where it lies."""
    if not container.is_metaq(path) or is_update(path):
        return []
    made_of, stem = origin_of(metadata), f"{Path(name).stem}-restored"
    target = stem if made_of == "a folder" else f"{stem}.safetensors" if made_of is None else f"restored-{made_of}"
    found = [
        ("Weights in Python, by name", f"import metaq; weights = metaq.load({name!r})"),
        (
            "The model as it was" if made_of else "Weights for other programs",
            f"metaq decompress {quote(name)} -o {target}",
        ),
        ("Tensor by tensor", f"metaq inspect {quote(name)}"),
    ]
    if net and data:
        found.insert(1, ("How accurate it is", _evaluating(name, net, data)))
    return found


def _of_run(folder: Path, net: str | None, name: str) -> Subject:
    subject = Subject(name=name, title=name)
    config = object_in(folder, runs.CONFIG_FILE, subject, "config")
    made_with = object_in(folder, environment.FILE_NAME, subject, "environment")
    summary = object_in(folder, runs.SUMMARY_FILE, subject, "accuracy")
    subject.config = config or None
    subject.environment = {key: value for key, value in made_with.items() if isinstance(value, str | int)}
    add_records(folder, subject)
    state = checkpoint_state(folder, subject)
    metadata: Mapping[str, object] = {}
    try:
        metadata = _add_weights(subject, folder / runs.MODEL_FILE, net, state, config.get("data"))
    except FormatError as error:
        is_there = (folder / runs.MODEL_FILE).exists()
        advice = f"{runs.MODEL_FILE} is missing: the training has not ended; metaq train --resume goes on with it."
        reason = str(error).replace(f"{folder}{os.sep}", "") if is_there else advice
        subject.missing |= dict.fromkeys(("file", "bytes", "tensors", "weights", "filters"), reason)
    known = {**metadata, **config}
    named, data = net or known.get("net"), known.get("data")
    add_accuracies(subject, summary, data)
    add_time(subject, summary)
    subject.goal = subject.goal or _goal_of(config)
    subject.title = _title(named, data, name)
    if subject.sizes is not None:
        path = folder / runs.MODEL_FILE
        subject.commands = _commands(f"{name}/{runs.MODEL_FILE}", path, metadata, named, data)
    return subject


def _goal_of(config: Mapping[str, object]) -> str | None:
    """The goal among the settings of a run; None without one, or if it is damaged."""
    given = config.get("goal")
    known = {key: value for key, value in (given if isinstance(given, dict) else {}).items() if key in facts.GOALS}
    try:
        return facts.goal_told(facts.goal_fact(Goal(**known)))
    except (ConfigError, TypeError):
        return None


def _add_weights(
    subject: Subject, path: Path, net: str | None, state: Json, data: object
) -> dict[str, str | int | float]:
    """All that the file of weights tells, with the `data` that its run names; its metadata."""
    found = inspection.inspect(path, net=net)
    latent = latent_weights(state)
    add_file(subject, found)
    add_histograms(subject, found, latent)
    add_filters(subject, found, net, state, latent)
    add_layers(subject, found, net, data or found.metadata.get("data"))
    subject.goal, subject.kept = facts.goal_told(found.metadata), facts.kept_told(found.metadata)
    return found.metadata


def _title(net: object, data: object, name: str) -> str:
    return f"{net} on {data}" if net and data else str(net or name)
