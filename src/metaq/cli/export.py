"""``metaq export``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import Force, Json, Model, OwnNet
from metaq.config import needs, require

if TYPE_CHECKING:
    import torch
    from torch import nn

    from metaq.model.checkpoint import StateDict
    from metaq.model.structure import Folded
    from metaq.tensors.quantized import Tensor

ONNX_SUFFIX = ".onnx"
EXAMPLES = 2


def export(
    source: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="The .onnx, .safetensors, .pth or .pt file to write.")],
    fold: Annotated[
        bool,
        typer.Option("--fold", help="Take out units that are constant or unread: smaller layers, the same outputs."),
    ] = False,
    net: OwnNet = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input-shape",
            help="For .onnx and your own network: shape of an input without the batch, as in 3,32,32; once an input.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a model as an ONNX network with small integers, or as dense weights; folded or as it is."""
    to_onnx = out.suffix == ONNX_SUFFIX
    require(to_onnx or fold or net is None, f"--net {net}: only .onnx files and --fold need the network.")
    require(to_onnx or not input_shape, "--input-shape: only .onnx files need it.")
    shapes = [_shape(text) for text in input_shape or ()]
    output.claim(out, force=force)
    if to_onnx:
        needs("onnx", "onnxscript")
    from metaq.lab import runs
    from metaq.model import checkpoint, structure

    file = container.read(source) if container.is_metaq(source) else None
    tensors = () if file is None else file.tensors
    state_dict = checkpoint.read(source) if file is None else checkpoint.restore(list(tensors))
    if not (fold or to_onnx):
        _write_weights(source, out, state_dict, None, as_json=as_json)
        return
    net = net or runs.network_of(source)
    model = runs.build(net, state_dict)
    folded = structure.fold(model) if fold else None
    if to_onnx:
        _write_onnx(source, out, model, folded, _examples(net, shapes), tensors, as_json=as_json)
    else:
        _write_weights(source, out, state_dict, folded, as_json=as_json)


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
    as_json: bool,
) -> None:
    from metaq import onnx

    network = model if folded is None else folded.model
    made = onnx.export(out, network, examples, tensors=tensors)
    if made.output_difference is None:
        output.note("outputs were not compared with PyTorch's: onnxruntime is not installed.")
    weights = sum(parameter.numel() for parameter in network.parameters())
    if as_json:
        units = folded.units if folded else None
        output.print_json({"units": units, "weights": weights, "file": str(out), **dataclasses.asdict(made)})
        return
    rows = [
        *(output.folded_rows(folded.units) if folded else []),
        ("weights", f"{weights:,}"),
        ("file", f"{made.file_bytes:,} bytes"),
        ("the same with floats", f"{made.float_bytes:,} bytes"),
        *((f"tensors as {kind}", f"{number:,}") for kind, number in Counter(made.integers.values()).items()),
        *((f"tensors as floats: {why}", f"{number:,}") for why, number in Counter(made.floats.values()).items()),
        ("largest difference of a weight", f"{made.weight_difference:.2g}"),
        ("batch", "of any size" if made.is_batch_free else f"of {EXAMPLES}"),
    ]
    if made.output_difference is not None:
        rows.append(("largest difference of an output over the largest", f"{made.output_difference:.2g}"))
    output.print_table(f"{source} as {out}", ["", "value"], rows)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    require(
        all(size.strip().isdecimal() and int(size) > 0 for size in sizes),
        f"--input-shape {text}: write the sizes with commas between them, as in 3,32,32.",
    )
    return tuple(int(size) for size in sizes)


def _examples(net: str, shapes: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, ...]:
    """A few inputs with elements drawn uniformly from [0, 1), as pixels are."""
    import torch

    from metaq.lab import nets

    known = nets.input_shape(net)
    require(
        bool(shapes) or known is not None, f"--net {net}: give the shape of its input, as in --input-shape 3,32,32."
    )
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.rand(EXAMPLES, *shape, generator=generator) for shape in shapes or [() if known is None else known]
    )


def _as_typed(state_dict: StateDict, source: StateDict) -> StateDict:
    """The tensors in the dtypes of those they came from."""
    return {name: tensor.to(source[name].dtype) for name, tensor in state_dict.items()}
