"""A folder of C that is there in full, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from metaq import container
from metaq.config import require
from metaq.errors import ConfigError
from metaq.files import PREFIX, SUFFIX, output_error, umask
from metaq.firmware.block import needs_of
from metaq.firmware.network import network_of
from metaq.firmware.reading import activations_of, held_of, order_of, require_readable
from metaq.firmware.source import model_files, network_files

FILES = Path(__file__).with_name("files")
CHECKOUT = Path(__file__).parents[3] / "c"
"""Where the decoder lies in a clone; what is installed has it among the other files."""

DECODER = ("metaq.c", "metaq.h")
COPIED = ("layers.c", "layers.h", "main.c", "board.c", "board.h", "board.ld")
MAKEFILE = "Makefile"
WRITTEN = frozenset({*DECODER, *COPIED, MAKEFILE, "model.c", "model.h", "network.c", "network.h"})
BUILT = frozenset({"network", "network.elf"})
"""What make leaves in the folder."""

SMALL_MEMORY = "METAQ_SMALL_MEMORY"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What :func:`export` wrote.

    Attributes
    ----------
    model_bytes
        Size of the file in it.
    is_coded_anew
        Whether that is another file than the one given: the same tensors by the coder small.
    block_bytes
        Memory of the decoder on machines of 32 bits.
    slots
        Adaptive probabilities of the decoder that are in use, of 8 bytes each.
    activations_bytes, held_bytes
        Memory of activations and of small tensors.
    passes
        How often a run goes over the same part of the file at most.
    back
        Weights to which it has to go back.
    left_out
        Parts of the decoder that the file does not need.
    """

    model_bytes: int
    is_coded_anew: bool
    block_bytes: int
    slots: int
    activations_bytes: int
    held_bytes: int
    passes: int
    back: tuple[str, ...]
    left_out: tuple[str, ...]


def export(
    folder: str | os.PathLike[str],
    model: nn.Module,
    input_shape: Sequence[int],
    data: bytes,
    *,
    takes_bytes: bool = False,
    force: bool = False,
) -> Written:
    """Write a folder of C99 that computes `model` with the weights of a ``.metaq`` file.

    Parameters
    ----------
    folder
        The folder to make; with `force`, one that is there is replaced if it holds nothing but such files.
    model
        The network. What it computes is taken from it, but none of its weights.
    input_shape
        Shape of its input, without the batch.
    data
        The bytes of the file, which names the tensors as `model` does. If symbols in it are coded by ``fast``, which
        needs memory for all of them, they are coded anew.
    takes_bytes
        Whether the program reads inputs as bytes of 0 to 255 that stand for 0 to 1.
    force
        See `folder`.

    Raises
    ------
    ConfigError
        If the network has a layer that C is not written for, the file lacks a tensor or has what the decoder for small
        memory leaves out, or the folder must not be replaced.
    FormatError
        If the file is damaged.
    OutputError
        If the folder cannot be written.
    """
    out = Path(folder)
    require_place(out, force=force)
    network = network_of(model, input_shape)
    file = container.decode(data)
    is_coded_anew = any(chunk.coder == "fast" for chunk in file.chunks)
    if is_coded_anew:
        data = container.encode(file.tensors, metadata=file.metadata, coder="small")
        file = container.decode(data)
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(model).items()}
    require_readable(network, file, shapes)
    needs = needs_of(data, file)
    order = order_of(network, file, needs.packed)
    texts = {
        **model_files(data),
        **network_files(network, file, order, needs, input_shape=input_shape, takes_bytes=takes_bytes),
        MAKEFILE: _template(MAKEFILE).replace("@DECODER@", _macros(needs.left_out)),
        **{name: _template(name) for name in COPIED},
        **{name: decoder_file(name).read_text(encoding="utf-8") for name in DECODER},
    }
    _write(out, texts)
    return Written(
        model_bytes=len(data),
        is_coded_anew=is_coded_anew,
        block_bytes=needs.block_bytes[4],
        slots=needs.slots,
        activations_bytes=4 * activations_of(network)[1],
        held_bytes=4 * held_of(order, len(network.steps))[1],
        passes=order.passes,
        back=order.back,
        left_out=needs.left_out,
    )


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers under all of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def require_place(out: Path, *, force: bool) -> None:
    """Refuse a folder that must not be replaced, before any work is done."""
    if not (out.exists() or out.is_symlink()):
        require(out.parent.is_dir(), f"{out}: its folder is missing; make it first or choose another place.")
        return
    require(force, f"{out}: exists already; give --force to replace it, or another output.")
    require(out.is_dir() and not out.is_symlink(), f"{out}: is no folder; choose another output.")
    others = sorted(path.name for path in out.iterdir() if path.name not in WRITTEN | BUILT or path.is_dir())
    if others:
        raise ConfigError(f"{out}: holds {others[0]}, which would be lost; take it away or choose another output.")


def decoder_file(name: str) -> Path:
    """Where a file of the decoder lies."""
    installed = FILES / name
    return installed if installed.exists() else CHECKOUT / name


def _template(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def _macros(left_out: Collection[str]) -> str:
    return " ".join(f"-D{name}" for name in (SMALL_MEMORY, *left_out))


def _write(out: Path, texts: Mapping[str, str]) -> None:
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=out.parent))
        made, old = temporary / "made", temporary / "old"
        made.mkdir()
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8", newline="\n")
        made.chmod(0o777 & ~umask())
        if out.exists():
            out.rename(old)
        try:
            made.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise output_error(out, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
