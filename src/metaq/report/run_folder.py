"""What the small files of a run's folder say; every one of them may be missing, cut off or of an older version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from metaq.errors import FormatError
from metaq.lab import runs
from metaq.lab.train import EpochRecord, checkpointing
from metaq.report.draft import Draft, Json, is_integer, is_number
from metaq.report.subject import Accuracy


def object_in(folder: Path, name: str, draft: Draft, part: str) -> Json:
    """The JSON object in a file of the run; if there is none, nothing, and a sentence for the part it would give."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        draft.missing[part] = f"{name} is missing from the run's folder."
        return {}
    except (OSError, ValueError, RecursionError):
        draft.missing[part] = f"{name} is damaged."
        return {}
    if not isinstance(found, dict):
        draft.missing[part] = f"{name} is damaged: it holds no JSON object."
        return {}
    return found


def add_records(folder: Path, draft: Draft) -> list[EpochRecord]:
    """Metrics of the epochs up to the first damaged line."""
    records: list[EpochRecord] = []
    try:
        lines = (folder / runs.METRICS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        draft.missing["curves"] = f"There are no curves: {runs.METRICS_FILE} is missing from the run's folder."
        return records
    except (OSError, ValueError):
        draft.missing["curves"] = f"There are no curves: {runs.METRICS_FILE} cannot be read."
        return records
    for number, line in enumerate(lines, start=1):
        record = _record_of(line)
        if record is None or (records and record.epoch <= records[-1].epoch):
            draft.notes["curves"] = f"Line {number} of {runs.METRICS_FILE} is damaged; the curves end before it."
            break
        records.append(record)
    if not records:
        draft.missing["curves"] = f"There are no curves: {runs.METRICS_FILE} holds no finished epoch."
    draft.parts["records"] = records
    return records


def checkpoint_state(folder: Path, draft: Draft) -> Json:
    """State of the training, read without executing anything in it; nothing where it cannot be read."""
    try:
        return checkpointing.load(folder)[1]
    except FormatError:
        state = "is damaged" if (folder / checkpointing.FILE_NAME).exists() else "is missing"
        draft.missing["latent"] = f"{checkpointing.FILE_NAME} {state}, so that latent weights are not known."
        return {}


def add_accuracies(draft: Draft, summary: Mapping[str, object], records: Sequence[EpochRecord]) -> None:
    """Accuracies of the file and of float weights, and what images they are of."""
    restored, kept, validation = (summary.get(key) for key in ("accuracy", "kept_epoch", "validation_accuracy"))
    sizes = draft.parts.get("sizes")
    if is_integer(kept):
        draft.parts["kept_epoch"] = kept
    if sizes is not None and summary and summary.get("bytes") != sizes["bytes"]:
        draft.missing["accuracy"] = f"{runs.SUMMARY_FILE} speaks of a file of another size than {runs.MODEL_FILE}."
    elif is_number(restored):
        what = "weights restored from the file, on the test images"
        draft.parts["after"] = Accuracy(percent=restored, what=what)  # type: ignore[arg-type]
        if is_number(validation) and is_integer(kept):
            draft.notes["accuracy"] = f"{validation:.2f} % on the validation images, by which epoch {kept} was chosen."
    else:
        draft.missing.setdefault("accuracy", f"{runs.SUMMARY_FILE} does not say how accurate the file is.")
    before = _accuracy_before(summary, records)
    if before is not None:
        draft.parts["before"] = before
    else:
        draft.missing["before"] = "The accuracy of float weights is not known: no epoch was without the entropy term."


def add_time(draft: Draft, summary: Mapping[str, object], records: Sequence[EpochRecord]) -> None:
    """How long the training took, by its summary or else by its epochs."""
    if is_number(summary.get("seconds")):
        draft.parts["seconds"] = summary["seconds"]
    elif records:
        draft.parts["seconds"] = sum(record.seconds for record in records)
        draft.notes["seconds"] = f"{len(records)} epochs so far"
    else:
        draft.missing["seconds"] = "How long the training took is not known: there are no metrics."


def _accuracy_before(summary: Mapping[str, object], records: Sequence[EpochRecord]) -> Accuracy | None:
    """Of the same network trained as usual, if the run measured it, else of the last float weights of the run."""
    measured = summary.get("float_accuracy")
    if is_number(measured):
        what = "the same network trained as usual, on the test images"
        return Accuracy(percent=measured, what=what)  # type: ignore[arg-type]
    floats = [record for record in records if record.strength == 0]
    if not floats:
        return None
    last = floats[-1]
    what = f"float weights in epoch {last.epoch}, before the entropy term set in, on the validation images"
    return Accuracy(percent=last.float_accuracy, what=what)


def _record_of(line: str) -> EpochRecord | None:
    """A line of metrics; None if it is not what a training writes."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    numbers = {each.name: values.get(each.name) for each in fields(EpochRecord)}
    optional = {"file_bytes"} if numbers["file_bytes"] is None else set()
    if not all(is_number(value) for name, value in numbers.items() if name not in optional):
        return None
    return EpochRecord(**numbers) if is_integer(numbers["epoch"]) else None  # type: ignore[arg-type]
