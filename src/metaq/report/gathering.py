"""From a run's folder or a file of weights to the subject of a report, and from there to the page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from metaq.config import require
from metaq.errors import FormatError
from metaq.files import write_bytes
from metaq.lab import environment, runs
from metaq.report import inspection, page
from metaq.report.first_layer import add_filters, latent_weights
from metaq.report.model_file import add_file, add_histograms
from metaq.report.run_folder import add_accuracies, add_records, add_time, checkpoint_state, object_in
from metaq.report.subject import Json, Subject


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


def write(path: str | os.PathLike[str], subjects: Sequence[Subject]) -> int:
    """Write the page of one subject, or one that compares two, atomically; returns its size in bytes."""
    # Names may hold halves of surrogate pairs, which UTF-8 has no bytes for.
    return write_bytes(path, page.render(subjects).encode(errors="backslashreplace"))


def _of_file(path: Path, net: str | None, name: str) -> Subject:
    subject = Subject(name=name, title=name)
    metadata = _add_weights(subject, path, net, {})
    named, data = net or metadata.get("net"), metadata.get("data")
    command = f"metaq evaluate {path.name} --net {named or 'NET'} --data {data or 'DATA'}"
    subject.missing |= {
        "accuracy": f"A file does not say how accurate it is; “{command}” measures it.",
        "seconds": "A file does not say how long its training took; the report on a run's folder does.",
        "curves": "There are no curves: a file has no metrics of its training. Give the run's folder.",
        "environment": "A file does not say by which command it was made. Give the run's folder.",
    }
    subject.title = _title(named, data, name)
    return subject


def _of_run(folder: Path, net: str | None, name: str) -> Subject:
    subject = Subject(name=name, title=name)
    config = object_in(folder, runs.CONFIG_FILE, subject, "config")
    made_with = object_in(folder, environment.FILE_NAME, subject, "environment")
    summary = object_in(folder, runs.SUMMARY_FILE, subject, "accuracy")
    subject.config = config or None
    subject.environment = {key: value for key, value in made_with.items() if isinstance(value, str | int)}
    records = add_records(folder, subject)
    state = checkpoint_state(folder, subject)
    metadata: Mapping[str, object] = {}
    try:
        metadata = _add_weights(subject, folder / runs.MODEL_FILE, net, state)
    except FormatError as error:
        is_there = (folder / runs.MODEL_FILE).exists()
        advice = f"{runs.MODEL_FILE} is missing: the training has not ended; metaq train --resume goes on with it."
        reason = str(error).replace(f"{folder}{os.sep}", "") if is_there else advice
        subject.missing |= dict.fromkeys(("file", "bytes", "tensors", "weights", "filters"), reason)
    add_accuracies(subject, summary, records)
    add_time(subject, summary, records)
    facts = {**metadata, **config}
    subject.title = _title(net or facts.get("net"), facts.get("data"), name)
    return subject


def _add_weights(subject: Subject, path: Path, net: str | None, state: Json) -> dict[str, str | int | float]:
    """All that the file of weights tells; its metadata."""
    found = inspection.inspect(path, net=net)
    latent = latent_weights(state)
    add_file(subject, found)
    add_histograms(subject, found, latent)
    add_filters(subject, found, net, state, latent)
    return found.metadata


def _title(net: object, data: object, name: str) -> str:
    return f"{net} on {data}" if net and data else str(net or name)
