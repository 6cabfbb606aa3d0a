"""``metaq export``."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import Force, Json, Model, OwnNet
from metaq.config import near_match, needs, require
from metaq.container.carried import FRAME, is_carried, is_folder, tensor_name
from metaq.errors import ConfigError, FormatError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from metaq.model.checkpoint import StateDict
    from metaq.model.structure import Folded
    from metaq.tensors.quantized import Tensor

ONNX_SUFFIX = ".onnx"
MOST_BYTES = 1 << 31
"""Of an ONNX file without others beside it."""

EXAMPLES = 2

FLOATS, INTEGERS = ("float32", "float16", "bfloat16", "float64"), ("int64", "int32", "bool")
"""Types of inputs."""

Input = tuple[tuple[int, ...], str]
"""Shape, without the batch, and type of an input."""

ZERO_EVERY = 8
"""Of integers, which may be words, kinds or a mask, one among so many is 0 and the others are 1."""

OWN_NET = "give --net package.module:factory, a function or class that returns it."

CONFIG = "config.json"
"""What a folder of Transformers has."""


def export(
    source: Model,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="The .onnx, .safetensors, .pth or .pt file to write; with --c, the folder."),
    ],
    fold: Annotated[
        bool,
        typer.Option("--fold", help="Take out units that are constant or unread: smaller layers, the same outputs."),
    ] = False,
    net: OwnNet = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input-shape",
            help="For .onnx, --c and your own network: shape of an input without the batch, as in 3,32,32, or with its "
            "type as in 128:int64; once an input.",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="For .onnx: keep all values, with 16 bits where eight are too few."),
    ] = False,
    as_c: Annotated[
        bool,
        typer.Option(
            "--c", help="Write a folder of C that runs the network, with the file in it, on a microcontroller."
        ),
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a model as an ONNX network with small integers, as dense weights, folded or as it is; or as C."""
    if as_c:
        require(not exact, "--exact: only .onnx files are ever rounded.")
        inputs = [_input(text) for text in input_shape or ()]
        _write_c(source, out, net, inputs, fold=fold, force=force, as_json=as_json)
        return
    to_onnx = out.suffix == ONNX_SUFFIX
    require(to_onnx or fold or net is None, f"--net {net}: only .onnx files and --fold need the network.")
    require(to_onnx or not input_shape, "--input-shape: only .onnx files need it.")
    require(to_onnx or not exact, "--exact: only .onnx files are ever rounded.")
    inputs = [_input(text) for text in input_shape or ()]
    output.claim(out, force=force, sources=[source])
    if to_onnx and _holds_graph(source):
        require(
            net is None and not fold and not inputs,
            f"{source}: was made of an ONNX file; leave out --net, --fold and --input-shape.",
        )
        _write_graph(source, out, exact=exact, as_json=as_json)
        return
    if to_onnx:
        needs("onnx", "onnxscript")
    from metaq.lab import runs
    from metaq.model import checkpoint, structure

    file = container.read(source) if container.is_metaq(source) else None
    held = () if file is None else [each for each in file.tensors if not is_carried(each.name, file.metadata)]
    state_dict = checkpoint.read(source) if file is None else checkpoint.weights_of(file)
    if not (fold or to_onnx):
        _write_weights(source, out, state_dict, None, as_json=as_json)
        return
    known = None if net is None and _is_of_transformers(file) else net or runs.network_of(source)
    if to_onnx and known is None:
        # Before the model is restored, which may take a while.
        _require_shapes(str(source), inputs)
    is_named = net is not None or (file is not None and "net" in file.metadata)
    model = _of_transformers(source) if known is None else _built(source, known, state_dict, is_named=is_named)
    folded = structure.fold(model) if fold else None
    if to_onnx:
        examples = _examples(inputs, known)
        there = {*dict(model.named_parameters(remove_duplicate=False)), *dict(model.named_buffers())}
        tensors = [each for each in held if known is not None or each.name in there]
        _write_onnx(source, out, model, folded, examples, tensors, exact=exact, as_json=as_json)
    else:
        _write_weights(source, out, state_dict, folded, as_json=as_json)


def _write_c(
    source: Path, out: Path, net: str | None, inputs: Sequence[Input], *, fold: bool, force: bool, as_json: bool
) -> None:
    """Write a folder of C."""
    from metaq import firmware
    from metaq.lab import nets, runs
    from metaq.model import checkpoint, structure

    firmware.require_place(out, force=force)
    require(container.is_metaq(source), f"{source}: is no .metaq file; compress it first, by metaq compress.")
    known = net or runs.network_of(source)
    own_shape = nets.input_shape(known)
    if own_shape is None:
        _require_shapes(f"--net {known}", inputs)
    require(len(inputs) <= 1, "--input-shape: C is written for networks with one input.")
    shape, kind = inputs[0] if inputs else (own_shape or (), FLOATS[0])
    require(kind == FLOATS[0], f"--input-shape: {kind} is nothing that C is written for; its inputs are float32.")
    data = source.read_bytes()
    file = container.decode(data, source=str(source))
    tensors = [each for each in file.tensors if not is_carried(each.name, file.metadata)]
    is_named = net is not None or "net" in file.metadata
    model = _built(source, known, checkpoint.restore(tensors), is_named=is_named)
    folded = structure.fold(model) if fold else None
    if folded is not None:
        model = folded.model
        data = container.encode(_folded(model, tensors), metadata=file.metadata)
    # Registered networks are for pictures.
    takes_bytes = own_shape is not None
    made = firmware.export(out, model, shape, data, takes_bytes=takes_bytes, force=force)
    if as_json:
        units = folded.units if folded else None
        output.print_json({"units": units, **dataclasses.asdict(made), "file": str(out)})
        return
    rows = [
        *(output.folded_rows(folded.units) if folded else []),
        ("file", f"{made.model_bytes:,} bytes{', coded anew' if made.is_coded_anew else ''}"),
        ("memory of the decoder", f"{made.block_bytes:,} bytes"),
        ("memory of activations", f"{made.activations_bytes:,} bytes"),
        ("memory of biases and norms", f"{made.held_bytes:,} bytes"),
        ("passes over the file a run", f"{made.passes:,}"),
    ]
    output.print_table(f"{source} as {out}", ["", "value"], rows)


def _folded(model: nn.Module, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of a folded model: those that are still on their grids, and others exactly."""
    from metaq.compression import pipeline
    from metaq.model import checkpoint
    from metaq.tensors.quantized import QuantizedTensor

    state = model.state_dict()
    grids = {each.name: each.grid for each in tensors if isinstance(each, QuantizedTensor) and each.name in state}
    restored = checkpoint.restore(pipeline.to_tensors({name: state[name] for name in grids}, grids=grids))
    kept = {name: grid for name, grid in grids.items() if bool((restored[name] == state[name]).all())}
    return pipeline.to_tensors(model, grids=kept)


def _holds_graph(source: Path) -> bool:
    """Whether a file is a ``.metaq`` file with an ONNX file in it, around its tensors."""
    if not container.is_metaq(source):
        return False
    contents = container.describe(source)
    names = [entry.name for entry in contents.entries if is_carried(entry.name, contents.metadata)]
    return any(name.startswith(FRAME) and name.endswith(ONNX_SUFFIX) for name in names)


def _write_graph(source: Path, out: Path, *, exact: bool, as_json: bool) -> None:
    """Write the ONNX file that a ``.metaq`` file was made of, with integers for its weights."""
    needs("onnx")
    import onnx

    from metaq.compression.restoring import restore_folder
    from metaq.files import write_bytes
    from metaq.onnx import with_integers

    file = container.read(source)
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:
        restore_folder(source, Path(place) / "model")
        found = sorted((Path(place) / "model").rglob(f"*{ONNX_SUFFIX}"))
        require(len(found) == 1, f"{source}: holds several ONNX files; restore them by metaq decompress.")
        # With what lies beside it.
        model = onnx.load(found[0])
        require(
            model.ByteSize() < MOST_BYTES,
            f"{source}: its ONNX file is larger than 2 GiB; restore it by metaq decompress.",
        )
        data = model.SerializeToString()
    made = with_integers(data, [each for each in file.tensors if not is_carried(each.name, file.metadata)], exact=exact)
    write_bytes(out, made)
    sizes = {"file_bytes": len(made), "float_bytes": len(data)}
    if as_json:
        output.print_json({**sizes, "file": str(out)})
        return
    rows = [("file", f"{len(made):,} bytes"), ("the same with floats", f"{len(data):,} bytes")]
    output.print_table(f"{source} as {out}", ["", "value"], rows)


def _write_weights(source: Path, out: Path, state_dict: StateDict, folded: Folded | None, *, as_json: bool) -> None:
    from metaq.model import checkpoint

    written = state_dict if folded is None else _as_typed(folded.model.state_dict(), state_dict)
    checkpoint.write(out, written)
    weights = sum(tensor.numel() for tensor in written.values())
    if as_json:
        output.print_json({"units": folded.units if folded else None, "weights": weights, "file": str(out)})
        return
    rows = output.folded_rows(folded.units) if folded else []
    output.print_table(f"{source} as {out}", ["", "value"], [*rows, ("weights", f"{weights:,}")])


def _write_onnx(
    source: Path,
    out: Path,
    model: nn.Module,
    folded: Folded | None,
    examples: tuple[torch.Tensor, ...],
    tensors: Sequence[Tensor],
    *,
    exact: bool,
    as_json: bool,
) -> None:
    import torch

    from metaq import onnx

    network = model if folded is None else folded.model
    if any(each.dtype == torch.bfloat16 for each in (*network.parameters(), *network.buffers())):
        # onnxruntime has no bfloat16 on a CPU.
        network.float()
        examples = tuple(each.float() if each.dtype == torch.bfloat16 else each for each in examples)
        output.note("weights are bfloat16; the file computes in float32 with their values.")
    made = onnx.export(out, network, examples, tensors=tensors, exact=exact)
    if made.output_difference is None:
        output.note("outputs were not compared with PyTorch's: onnxruntime is not installed.")
    for name, axes in made.fixed.items():
        sizes = ", ".join(f"dimension {axis} is {made.inputs[name][axis]}" for axis in axes)
        output.note(f"input {name}: {sizes} in the file, although the network takes other sizes too.")
    weights = sum(parameter.numel() for parameter in network.parameters())
    if as_json:
        units = folded.units if folded else None
        told = {**dataclasses.asdict(made), "is_batch_free": made.is_batch_free}
        output.print_json({"units": units, "weights": weights, "file": str(out), **told})
        return
    rows = [
        *(output.folded_rows(folded.units) if folded else []),
        ("weights", f"{weights:,}"),
        ("file", f"{made.file_bytes:,} bytes"),
        ("the same with floats", f"{made.float_bytes:,} bytes"),
        *((f"tensors as {kind}", f"{number:,}") for kind, number in Counter(made.integers.values()).items()),
        *((f"tensors as floats: {why}", f"{number:,}") for why, number in Counter(made.floats.values()).items()),
        ("largest difference of a weight", f"{made.weight_difference:.2g}"),
        *((f"input {name}", " × ".join(map(str, shape))) for name, shape in made.inputs.items()),
    ]
    if made.rounded:
        rows.append(("tensors rounded to int8", f"{len(made.rounded):,}"))
        rows.append(("difference that rounding makes to an output over the largest", f"{made.rounding_difference:.2g}"))
    if made.output_difference is not None:
        rows.append(("largest difference of an output over the largest", f"{made.output_difference:.2g}"))
    output.print_table(f"{source} as {out}", ["", "value"], rows)


def _is_of_transformers(file: container.File | None) -> bool:
    return file is not None and is_folder(file.metadata) and tensor_name(CONFIG) in {each.name for each in file.tensors}


def _of_transformers(source: Path) -> nn.Module:
    from metaq import hf

    try:
        model: nn.Module = hf.from_pretrained(source)
    except FormatError as error:
        reason = f"is of no network that Transformers can make ({CONFIG} says which)"
        raise ConfigError(f"{source}: {reason}; {OWN_NET}") from error
    return model


def _built(source: Path, net: str, state_dict: StateDict, *, is_named: bool) -> nn.Module:
    from metaq.lab import runs

    try:
        return runs.build(net, state_dict)
    except ConfigError as error:
        if is_named:
            raise
        raise ConfigError(f"{source}: names no network, and does not fit {net}; {OWN_NET}") from error


def _input(text: str) -> Input:
    """Shape and type of an input."""
    shape, _, kind = text.partition(":")
    sizes = shape.split(",")
    require(
        all(size.strip().isdecimal() and int(size) > 0 for size in sizes),
        f"--input-shape {text}: write the sizes with commas between them, as in 3,32,32 or 128:int64.",
    )
    known = (*FLOATS, *INTEGERS)
    require(kind in known or ":" not in text, f"--input-shape {text}: {kind!r} is no type; {near_match(kind, known)}")
    return tuple(int(size) for size in sizes), kind or FLOATS[0]


def _require_shapes(named: str, inputs: Sequence[Input]) -> None:
    require(
        bool(inputs),
        f"{named}: give the shape of its input, as in --input-shape 3,32,32, or 128:int64 for words by number.",
    )


def _examples(inputs: Sequence[Input], net: str | None) -> tuple[torch.Tensor, ...]:
    """A few inputs: floating ones with elements drawn uniformly from [0, 1), as pixels are; others of 1 and 0."""
    import torch

    from metaq.lab import nets

    known = None if net is None else nets.input_shape(net)
    if known is None:
        _require_shapes(f"--net {net}", inputs)
    generator = torch.Generator().manual_seed(0)

    def example(shape: tuple[int, ...], kind: str) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, kind)
        if kind in FLOATS:
            return torch.rand(EXAMPLES, *shape, generator=generator).to(dtype)
        places = torch.arange(EXAMPLES * math.prod(shape)).reshape(EXAMPLES, *shape)
        return (places % ZERO_EVERY != ZERO_EVERY - 1).to(dtype)

    return tuple(example(*each) for each in inputs or [((), FLOATS[0]) if known is None else (known, FLOATS[0])])


def _as_typed(state_dict: StateDict, source: StateDict) -> StateDict:
    """The tensors in the dtypes of those they came from."""
    return {name: tensor.to(source[name].dtype) for name, tensor in state_dict.items()}
