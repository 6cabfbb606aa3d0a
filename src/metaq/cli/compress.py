"""``metaq compress``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from metaq import container
from metaq.cli import folders, output
from metaq.cli.options import (
    Center,
    DataDir,
    Exclude,
    Force,
    Grouping,
    Include,
    Json,
    Net,
    Radius,
    grids_for,
    load_data,
    network_of,
)
from metaq.compression import pipeline
from metaq.compression.budget import Budget
from metaq.compression.budget import compress as compress_to
from metaq.compression.compressor import Compressed
from metaq.config import require
from metaq.container import WriteReport
from metaq.lab.classifiers import compress_classifier
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.selection import select
from metaq.model.weights import ANY

DEFAULT_BUCKETS = 255
DEFAULT_CALIBRATION = 20_000


def compress(
    source: Annotated[
        Path, typer.Argument(help="Checkpoint: .pth, .pt, .safetensors or .metaq; or a folder of save_pretrained.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .metaq file to write.")],
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="Points of accuracy on the training images that may be lost.")
    ] = None,
    target_bytes: Annotated[int | None, typer.Option("--target-bytes", help="Largest size of the file.")] = None,
    target_ratio: Annotated[
        float | None, typer.Option("--target-ratio", help="Least ratio of the tensors' bytes to the file's.")
    ] = None,
    net: Net = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Calibrate a budget on the training images of: digits, mnist, or a folder."),
    ] = None,
    data_dir: DataDir = None,
    calibration: Annotated[
        int | None, typer.Option("--calibration", help="Training images that calibrate [default: 20000].")
    ] = None,
    recover: Annotated[
        bool, typer.Option("--recover/--no-recover", help="Let weights still free make up for the quantised ones.")
    ] = True,
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction", help="With --no-recover: let biases make up for mean errors.")
    ] = False,
    recalibrate_norms: Annotated[
        bool, typer.Option("--recalibrate-norms", help="Measure the statistics of batch normalisation anew.")
    ] = False,
    buckets: Annotated[
        int | None, typer.Option("--buckets", help="Without a budget: buckets C of every uniform grid [default: 255].")
    ] = None,
    center: Center = None,
    radius: Radius = None,
    grouping: Grouping = "tensor",
    coder: Annotated[str, typer.Option("--coder", help="small, fast, or another coder; auto tries all.")] = "small",
    include: Include = None,
    exclude: Exclude = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Quantise the weights of a checkpoint, to a budget or on uniform grids, and write them as one small file.

    A model folder is streamed tensor by tensor with its small files, to a budget or a fineness that suits most models;
    after an interruption the same command goes on.
    """
    begun = time.perf_counter()
    output.claim(out, force=force)
    if source.is_dir():
        calibrates = data is not None or max_drop is not None or calibration is not None or not recover
        require(
            not (calibrates or bias_correction or recalibrate_norms),
            "--data, --max-drop, …: folders are compressed without data; leave out all that says how to calibrate.",
        )
        require(
            buckets is None and center is None and radius is None and grouping == "tensor",
            "--buckets, --center, --radius, --grouping: grids of folders are chosen; give a budget or nothing.",
        )
        folders.compress(source, out, target_bytes, target_ratio, include, exclude, coder, as_json=as_json)
        return
    state_dict = checkpoint.read(source)
    accuracies: dict[str, float] = {}
    if max_drop is None and target_bytes is None and target_ratio is None:
        require(data is None, "--data: calibration serves a budget; give --max-drop, --target-bytes or --target-ratio.")
        _refuse_calibration_options(calibration, recover, bias_correction, recalibrate_norms)
        report = _on_uniform_grids(
            out, state_dict, buckets or DEFAULT_BUCKETS, center, radius, grouping, include, exclude, coder
        )
        coverage = report.coverage
    else:
        require(
            buckets is None and center is None and radius is None,
            "--buckets, --center, --radius: a budget chooses the grids; leave them out.",
        )
        budget = Budget(max_drop=max_drop, target_bytes=target_bytes, target_ratio=target_ratio)
        chosen, left_out = include or ANY, exclude or ()
        require(not (recover and bias_correction), "--bias-correction: recovery sees to biases; add --no-recover.")
        require(
            max_drop is None or data is not None, "--max-drop: accuracy is measured on images; name them by --data."
        )
        if data is None:
            _refuse_calibration_options(calibration, recover, bias_correction, recalibrate_norms)
            found = compress_to(state_dict, budget, include=chosen, exclude=left_out, coder=coder)
        else:
            found = compress_classifier(
                state_dict,
                budget,
                net=network_of(source, net),
                splits=load_data(data, data_dir),
                calibration_count=DEFAULT_CALIBRATION if calibration is None else calibration,
                recovers=recover,
                corrects_biases=bias_correction,
                recalibrates_norms=recalibrate_norms,
                include=chosen,
                exclude=left_out,
                coder=coder,
            )
        report = container.write(out, found.tensors, coder=coder)
        coverage = found.coverage
        accuracies = _accuracies(found)
    numbers = {**pipeline.sizes(state_dict, file_bytes=report.file_bytes), **accuracies}
    if as_json:
        seconds = time.perf_counter() - begun
        output.print_json({**numbers, "seconds": seconds, "file": str(out), **coverage.to_dict()})
        output.warn_of_left_out(coverage)
        return
    measured = [(name.replace("_", " "), f"{value:.3f} %") for name, value in accuracies.items()]
    rows = [*output.size_rows(numbers), *output.coverage_rows(coverage), *measured]
    output.print_table(str(out), ["", "value"], rows)
    output.print_left_out(coverage)


def _refuse_calibration_options(
    calibration: int | None, recover: bool, bias_correction: bool, recalibrate_norms: bool
) -> None:
    require(
        calibration is None and recover and not bias_correction and not recalibrate_norms,
        "--calibration, --no-recover, --bias-correction, --recalibrate-norms: say how to calibrate; give --data.",
    )


def _on_uniform_grids(
    out: Path,
    state_dict: StateDict,
    buckets: int,
    center: float | None,
    radius: float | None,
    grouping: str,
    include: list[str] | None,
    exclude: list[str] | None,
    coder: str,
) -> WriteReport:
    grids = grids_for(
        state_dict, buckets, center=center, radius=radius, grouping=grouping, include=include, exclude=exclude
    )
    report = pipeline.save(out, state_dict, grids=grids, coder=coder)
    selection = select(state_dict, include=include or ANY, exclude=exclude or ())
    return replace(report, coverage=report.coverage.explained(selection.reasons_without(grids)))


def _accuracies(found: Compressed) -> dict[str, float]:
    """Accuracies on the calibration data, where they were measured."""
    if found.accuracy is None or found.float_accuracy is None:
        return {}
    return {"float_calibration_accuracy": found.float_accuracy, "calibration_accuracy": found.accuracy}
