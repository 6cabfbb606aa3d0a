"""``metaq compress``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaq.cli import output
from metaq.cli.options import (
    Coder,
    DataDir,
    Exclude,
    Force,
    Include,
    Json,
    OwnNet,
    TargetBitsPerWeight,
    TargetBytes,
    TargetRatio,
    load_data,
)
from metaq.config import needed, require
from metaq.errors import DataError

if TYPE_CHECKING:
    from torch import nn

    from metaq.compression.compressed import Goal, Report
    from metaq.quantize.curvature import Batch


def compress(
    source: Annotated[
        Path, typer.Argument(help="Checkpoint: .pth, .pt, .safetensors or .metaq; or a folder of save_pretrained.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .metaq file to write.")],
    target_bytes: TargetBytes = None,
    target_ratio: TargetRatio = None,
    target_bits_per_weight: TargetBitsPerWeight = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="Points of accuracy that may be lost; needs --data."),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option("--keep", help="How much of the outputs to keep, such as 0.999; needs --calibrate."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            help="Calibrate on inputs without labels: a file of texts, one a line; .npy; or a folder of pictures.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Calibrate on the training images of: digits, mnist, cifar10, or a folder."),
    ] = None,
    data_dir: DataDir = None,
    net: OwnNet = None,
    calibration: Annotated[
        int | None, typer.Option("--calibration", help="Training images that calibrate [default: 20000].")
    ] = None,
    recover: Annotated[
        bool, typer.Option("--recover/--no-recover", help="Let weights still free make up for the quantised ones.")
    ] = True,
    recalibrate_norms: Annotated[
        bool, typer.Option("--recalibrate-norms", help="Measure the statistics of batch normalisation anew.")
    ] = False,
    coder: Coder = "small",
    include: Include = None,
    exclude: Exclude = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Quantise the weights of a checkpoint or of a model folder and write them as one small file.

    Without a goal, errors are small enough for most models. Without inputs, tensors are streamed one after the other;
    after an interruption the same command goes on. With --calibrate, a folder is run by Transformers, a checkpoint by
    the network that --net names.
    """
    from metaq.compression.compressed import Goal
    from metaq.compression.work import work_path
    from metaq.model.weights import ANY

    begun = time.perf_counter()
    output.claim(out, force=force)
    goal = Goal(
        target_bytes=target_bytes,
        target_ratio=target_ratio,
        target_bits_per_weight=target_bits_per_weight,
        max_drop=max_drop,
        keep=keep,
    )
    require(data is None or calibrate is None, "--calibrate, --data: give one of them.")
    require(keep is None or calibrate is not None, "--keep: outputs are compared on inputs; give some by --calibrate.")
    options: dict[str, Any] = {"include": include or ANY, "exclude": exclude or (), "coder": coder}
    if data is None:
        require(max_drop is None, "--max-drop: accuracy is measured on images; name them by --data.")
        require(
            calibration is None and recover,
            "--calibration, --no-recover: say how to calibrate on labelled images; give --data.",
        )
    if calibrate is not None:
        report = _with_inputs(source, out, goal, calibrate, net, recalibrates_norms=recalibrate_norms, **options)
    elif data is None:
        require(not recalibrate_norms, "--recalibrate-norms: says how to calibrate; give --calibrate or --data.")
        report = _without_data(source, out, goal, **options)
    else:
        require(not source.is_dir(), "--data: has labels for networks of --net alone; give a folder --calibrate.")
        options |= {"recovers": recover, "recalibrates_norms": recalibrate_norms}
        if calibration is not None:
            options["calibration_count"] = calibration
        report = _with_data(source, out, goal, data, data_dir, net, **options)
    if report.has_discarded:
        output.note(f"{work_path(out)} was of another model or other options; it was thrown away, and all done anew.")
    print_report(report, out, seconds=time.perf_counter() - begun, as_json=as_json)


def _without_data(source: Path, out: Path, goal: Goal, **options: Any) -> Report:
    from metaq.compression.compressing import compress_to_file
    from metaq.compression.work import work_path
    from metaq.model.opened import open_model

    try:
        with output.stage_progress() as progress:
            progress.stage("reading", None)
            return compress_to_file(open_model(source), out, goal, progress=progress, **options)
    except KeyboardInterrupt:
        if work_path(out).exists():
            output.note(f"What is done is kept in {work_path(out)}; the same command goes on from there.")
        raise


def _with_inputs(source: Path, out: Path, goal: Goal, inputs: Path, net: str | None, **options: Any) -> Report:
    with output.stage_progress() as progress:
        progress.stage("reading", None)
        from metaq.compression.compressing import compress
        from metaq.quantize.curvature import call

        module, batches = _network(source, inputs, net)
        try:
            call(module, batches[0])
        except Exception as error:
            raise DataError(
                f"{inputs}: the network cannot be run on it ({type(error).__name__}: {error}); give inputs of the "
                "shape and type that it takes."
            ) from error
        found = compress(source, module=module, batches=batches, progress=progress, **goal.to_dict(), **options)
    found.save(out)
    return found


def _network(source: Path, inputs: Path, net: str | None) -> tuple[nn.Module, Sequence[Batch]]:
    """The network that computes with the weights of `source`, in evaluation mode, and batches for it."""
    from metaq.compression.inputs import arrays

    if source.is_dir() and net is None:
        from metaq import hf

        logging = needed("transformers.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        return hf.calibration(source, inputs)
    require(
        inputs.suffix == ".npy", f"{inputs}: a network of --net is calibrated on an array; write it with numpy.save."
    )
    from metaq.lab import nets
    from metaq.lab.runs import network_of
    from metaq.model.opened import open_model

    batches = arrays(inputs)
    module = nets.create(network_of(source) if net is None else net).eval()
    nets.load_weights(module, open_model(source).state_dict())
    return module, batches


def _with_data(
    source: Path, out: Path, goal: Goal, data: str, data_dir: Path | None, net: str | None, **options: Any
) -> Report:
    splits = load_data(data, data_dir)
    with output.stage_progress() as progress:
        progress.stage("reading", None)
        from metaq.lab.classifiers import compress_classifier
        from metaq.lab.runs import network_of
        from metaq.model import checkpoint

        weights = checkpoint.read(source)
        found = compress_classifier(
            weights,
            goal,
            net=network_of(source) if net is None else net,
            splits=splits,
            progress=progress,
            **options,
        )
    found.save(out)
    return found


def print_report(report: Report, out: Path, *, seconds: float, as_json: bool) -> None:
    """Print what became of a model, as a table or as JSON."""
    from metaq import container

    sizes = container.sizes(report.file_bytes, report.float_bytes, report.weights)
    known = {"float_calibration_accuracy": report.float_accuracy, "calibration_accuracy": report.accuracy}
    accuracies = {name: value for name, value in known.items() if value is not None}
    if as_json:
        files = {"carried_bytes": report.carried_bytes, "carried": list(report.carried), "left_out": report.left_out}
        kept = {} if report.kept is None else {"kept": report.kept, "kept_error": report.kept_error}
        told = {
            **sizes,
            **accuracies,
            **kept,
            "seconds": seconds,
            "file": str(out),
            "multiplier": report.multiplier,
            **files,
        }
        output.print_json({**told, **report.coverage.to_dict()})
        output.warn_of_left_out(report.coverage)
        return
    first, *rest = output.size_rows(sizes)
    carried = [("of that, carried files", f"{report.carried_bytes:,} bytes")] if report.carried else []
    measured = [(name.replace("_", " "), f"{value:.3f} %") for name, value in accuracies.items()]
    expected = [] if report.kept is None else [("expect of the outputs", output.score(report.kept, report.kept_error))]
    rows = [first, *carried, *rest, *output.coverage_rows(report.coverage), *measured, *expected]
    output.print_table(str(out), ["", "value"], rows)
    output.note_names("carried along", dict.fromkeys(report.carried, ""))
    output.note_names("left out", report.left_out)
    output.print_left_out(report.coverage)
