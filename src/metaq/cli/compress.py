"""``metaq compress``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaq.cli import output
from metaq.cli.options import (
    Calibrate,
    Coder,
    DataDir,
    Exclude,
    Force,
    Include,
    Json,
    Keep,
    Key,
    OwnNet,
    TargetBitsPerWeight,
    TargetBytes,
    TargetRatio,
    load_data,
)
from metaq.config import needed, needs, require
from metaq.errors import DataError
from metaq.files import is_stream

if TYPE_CHECKING:
    from torch import nn

    from metaq.compression.compressed import Compressed, Goal, Report
    from metaq.model.opened import OpenedModel
    from metaq.quantize.curvature import Batch


def compress(
    source: Annotated[
        Path,
        typer.Argument(
            help="Model: a checkpoint of PyTorch or Lightning, TorchScript, safetensors, ONNX, … or a folder."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .metaq file to write.")],
    key: Key = None,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Carry all else in a checkpoint too, such as the optimizer's state.")
    ] = False,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Keep every tensor, and all else in the file, bit for bit.")
    ] = False,
    target_bytes: TargetBytes = None,
    target_ratio: TargetRatio = None,
    target_bits_per_weight: TargetBitsPerWeight = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="Points of accuracy that may be lost; needs --data."),
    ] = None,
    keep: Keep = None,
    calibrate: Calibrate = None,
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
    from metaq.lab.registry import DATA_SETS
    from metaq.model.weights import ANY
    from metaq.report import facts

    begun = time.perf_counter()
    output.claim(out, force=force, sources=[source, *(() if calibrate is None else (calibrate,))])
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
    given = {
        **{f"--{name.replace('_', '-')}": value for name, value in goal.to_dict().items()},
        "--calibrate": None if calibrate is None else "INPUTS",
        "--data": data if data is None or data in DATA_SETS else "FOLDER",
        "--net": net,
        "--calibration": calibration,
        "--no-recover": not recover,
        "--recalibrate-norms": recalibrate_norms,
        "--lossless": lossless,
        "--keep-all": keep_all,
        "--key": key,
        "--coder": None if coder == "small" else coder,
        "--include": include,
        "--exclude": exclude,
    }
    known = {**facts.goal_fact(goal), **facts.command_fact("compress", given)}
    if lossless:
        require(calibrate is None and data is None, "--lossless: leaves nothing to calibrate; give no inputs.")
        options["lossless"] = True
    if data is None:
        require(max_drop is None, "--max-drop: accuracy is measured on images; name them by --data.")
        require(
            calibration is None and recover,
            "--calibration, --no-recover: say how to calibrate on labelled images; give --data.",
        )
    if data is None:
        require(
            calibrate is not None or not recalibrate_norms,
            "--recalibrate-norms: says how to calibrate; give --calibrate or --data.",
        )
        with output.stage_progress() as progress:
            progress.stage("reading", None)
            from metaq.model.opened import open_model

            model = open_model(source, key=key, keep_all=keep_all, lossless=lossless)
        output.claim(out, force=force, sources=_files_of(source, model))
        # Tensors may lie in other files beside it.
        source_bytes = sum(size for _, size, *_ in model.fingerprint or () if isinstance(size, int))
        sizes = {"float_bytes": model.float_bytes, "weights": model.weights}
        options["metadata"] = facts.beforehand(known, goal, **sizes)
        if calibrate is None:
            report = _without_data(model, out, goal, **options)
        else:
            options["recalibrates_norms"] = recalibrate_norms
            found = with_inputs(model, source, goal, calibrate, net, **options)
            score = {} if found.kept is None else facts.kept_fact(found.kept)
            report = _saved(found, out, goal, {**score, **known})
    else:
        require(key is None and not keep_all, "--key, --keep-all: do not go with --data yet; give --calibrate.")
        require(not source.is_dir(), "--data: has labels for networks of --net alone; give a folder --calibrate.")
        options |= {"recovers": recover, "recalibrates_norms": recalibrate_norms}
        if calibration is not None:
            options["calibration_count"] = calibration
        source_bytes = source.stat().st_size
        report = _with_data(source, out, goal, known, data, data_dir, net, **options)
    if source.is_file() and report.file_bytes >= source_bytes:
        output.note(f"note: {source} has {source_bytes:,} bytes; the file is no smaller than that.")
    if report.has_discarded:
        output.note(f"{work_path(out)} was of another model or other options; it was thrown away, and all done anew.")
    print_report(report, out, seconds=time.perf_counter() - begun, as_json=as_json, warns=not (lossless or keep_all))


def _without_data(model: OpenedModel, out: Path, goal: Goal, **options: Any) -> Report:
    from metaq.compression.compressing import compress_to_file
    from metaq.compression.work import work_path

    try:
        with output.stage_progress() as progress:
            return compress_to_file(model, out, goal, progress=progress, **options)
    except KeyboardInterrupt:
        if work_path(out).exists():
            output.note(f"What is done is kept in {work_path(out)}; the same command goes on from there.")
        raise


def with_inputs(
    model: OpenedModel, source: Path, goal: Goal, inputs: Path, net: str | None, **options: Any
) -> Compressed:
    """Compress a `model` read from `source`, calibrated on `inputs`; `options` are those of :func:`metaq.compress`."""
    with output.stage_progress() as progress:
        progress.stage("reading", None)
        import torch

        from metaq.compression.compressing import compress
        from metaq.quantize.curvature import call

        graph = _onnx_file(model, source) if net is None else None
        require(
            graph is None or not options.get("recalibrates_norms"),
            "--recalibrate-norms: changes statistics, which are constants of an ONNX file; leave it out.",
        )
        module, batches = _network(model, source, graph, inputs, net)
        try:
            with torch.no_grad():
                call(module, batches[0])
        except DataError as error:
            raise DataError(f"{inputs}: {error}") from error
        except Exception as error:
            raise DataError(
                f"{inputs}: the network cannot be run on it ({type(error).__name__}: {error}); give inputs of the "
                "shape and type that it takes."
            ) from error
        return compress(model, module=module, batches=batches, progress=progress, **goal.to_dict(), **options)


def _network(
    model: OpenedModel, source: Path, graph: Path | None, inputs: Path, net: str | None
) -> tuple[nn.Module, Sequence[Batch]]:
    """The network that computes with the weights of `model`, in evaluation mode, and batches for it; `graph` is its
    ONNX file, if it has one.
    """
    from metaq.compression.inputs import arrays

    network = None
    if graph is not None:
        needs("onnx")
        from metaq.onnx.inputs import batches_of
        from metaq.onnx.network import OnnxNetwork, inputs_of

        if inputs.suffix in (".npy", ".npz"):
            runs = batches_of(inputs, inputs_of(graph))
            return OnnxNetwork(graph, model, runs[0]).eval(), runs
        require(source.is_dir(), f"{inputs}: an ONNX file is calibrated on arrays; write them with numpy.savez.")
        network = OnnxNetwork(graph, model).eval()
    if source.is_dir() and net is None:
        from metaq import hf

        logging = needed("transformers.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        return hf.calibration(source, inputs, network)
    require(
        inputs.suffix == ".npy", f"{inputs}: a network of --net is calibrated on an array; write it with numpy.save."
    )
    from metaq.lab import nets
    from metaq.lab.runs import network_of

    batches = arrays(inputs)
    module = nets.create(network_of(source) if net is None else net).eval()
    nets.load_weights(module, model.state_dict())
    return module, batches


def _files_of(source: Path, model: OpenedModel) -> list[Path]:
    """What `model` was read from: files of the folder `source`, or those beside that file which belong to it."""
    from metaq.container import carried

    if source.is_dir():
        return [path for path in source.rglob("*") if path.suffix != ".metaq"]
    return [source.parent / carried.path_of(file.name) for file in model.rest.files]


def _onnx_file(model: OpenedModel, source: Path) -> Path | None:
    """The ONNX file that `model` was read from: `source` itself, or one in that folder; None if there is none."""
    from metaq.container import carried
    from metaq.model.formats import onnx_file
    from metaq.model.stored import FileRange

    if not source.is_dir():
        return source if onnx_file.recognises(source) else None

    def is_main(path: Path) -> bool:
        """Whether tensors have the names that they have in the file."""
        file = onnx_file.read(path)
        places = [model.tensor(tensor.name).place for tensor in file.tensors if tensor.name in model.holders]
        return any(isinstance(place, FileRange) and place.path in (path, *file.data_files) for place in places)

    framed = [carried.path_of(file.name) for file in model.rest.files if file.name.startswith(carried.FRAME)]
    paths = [source / name for name in framed]
    return next((path for path in paths if onnx_file.recognises(path) and is_main(path)), None)


def _with_data(
    source: Path,
    out: Path,
    goal: Goal,
    known: Mapping[str, str],
    data: str,
    data_dir: Path | None,
    net: str | None,
    **options: Any,
) -> Report:
    splits = load_data(data, data_dir)
    with output.stage_progress() as progress:
        progress.stage("reading", None)
        from metaq.compression import pipeline
        from metaq.lab.classifiers import compress_classifier
        from metaq.lab.registry import DATA_SETS
        from metaq.lab.runs import network_of
        from metaq.model import checkpoint
        from metaq.report import facts

        weights = checkpoint.read(source)
        net = network_of(source) if net is None else net
        sizes = pipeline.sizes(weights, file_bytes=1)
        held = {"float_bytes": int(sizes["float_bytes"]), "weights": int(sizes["weights"])}
        known = {"net": net, **({"data": data} if data in DATA_SETS else {}), **known}
        options["metadata"] = facts.beforehand(known, goal, **held)
        found = compress_classifier(weights, goal, net=net, splits=splits, progress=progress, **options)
    assert found.accuracy is not None
    return _saved(
        found, out, goal, {**facts.accuracy_fact(found.accuracy, facts.BOUND, before=found.float_accuracy), **known}
    )


def _saved(found: Compressed, out: Path, goal: Goal, known: Mapping[str, str]) -> Compressed:
    """Write the file with what is known of it, as far as it has room for that."""
    from metaq.report import facts

    limit = goal.limit_bytes(float_bytes=found.float_bytes, weights=found.weights)
    data = facts.added(found.data, known, limit_bytes=limit)
    found = replace(found, data=data, file_bytes=len(data))
    found.save(out)
    return found


def print_report(report: Report, out: Path, *, seconds: float, as_json: bool, warns: bool = True) -> None:
    """Print what became of a model, as a table or as JSON; it `warns` if little is quantised."""
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
            "relative_error": report.relative_error,
            "notes": list(report.notes),
            **files,
        }
        output.print_json({**told, **report.coverage.to_dict()})
    else:
        _print_table(report, out, sizes, accuracies)
    if warns:
        output.warn_of_left_out(report.coverage)


def _print_table(report: Report, out: Path, sizes: Mapping[str, float | int], accuracies: Mapping[str, float]) -> None:
    carried = f", {report.carried_bytes:,} of them for {output.counted(len(report.carried), 'file')} carried along"
    size = f"{sizes['bytes']:,} bytes{carried if report.carried else ''}"
    is_quantized = report.coverage.quantized_bytes > 0
    bits = f" of {sizes['bits_per_weight']:.3f} bits" if is_quantized else ""
    rows = [
        ("file", size),
        ("float tensors", f"{sizes['float_bytes']:,} bytes, {sizes['ratio']:.1f} x as many"),
        ("weights", f"{sizes['weights']:,}{bits}"),
        *(output.coverage_rows(report.coverage) if is_quantized else []),
        *output.left_out_rows(report.coverage),
        *((name.replace("_", " "), f"{value:.3f} %") for name, value in accuracies.items()),
    ]
    if report.kept is not None:
        rows.append(("expect of the outputs", output.score(report.kept, report.kept_error)))
    elif report.relative_error is not None and is_quantized:
        rows.append(("error of weights", f"about {report.relative_error:.1%} of their size"))
    output.print_table(str(out), ["", "value"], [*rows, ("load", _how_to_load(out))])
    for note in report.notes:
        output.note(f"note: {note}")
    output.note_names("left out", report.left_out)


def _how_to_load(out: Path) -> str:
    """What gives the model of a file back."""
    from metaq.compression.restoring import origin

    if is_stream(out):
        return "metaq.load"
    made_of = origin(out)
    if made_of is None:
        return f'metaq.load("{out}")'
    return f"metaq decompress {out} -o {'FOLDER' if made_of == 'a folder' else made_of}"
