"""Models of Transformers into one ``.metaq`` file."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from torch import nn

from metaq.compression.compressed import Goal, Report
from metaq.compression.compressing import compress_to_file
from metaq.config import needed
from metaq.container import DEFAULT_CODER
from metaq.errors import ConfigError, OutputError
from metaq.files import PREFIX, output_error
from metaq.model.opened import open_model
from metaq.model.weights import ANY
from metaq.progress import Progress
from metaq.tensors.grid import BucketGrid, TrainedGrids


class Tokenizer(Protocol):
    """Anything that saves itself as tokenizers and processors of Transformers do."""

    def save_pretrained(self, save_directory: str, /) -> object:
        """Write its files into a folder."""


def save_pretrained(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer | None = None,
    target_bytes: int | None = None,
    target_ratio: float | None = None,
    target_bits_per_weight: float | None = None,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    grids: Mapping[str, BucketGrid] | None = None,
    coder: str = DEFAULT_CODER,
    progress: Progress | None = None,
) -> Report:
    """Write a Transformers model with all it needs as one ``.metaq`` file, atomically.

    The model is first saved in full beside the file, so that there must be room for it.

    Parameters
    ----------
    model
        A ``transformers.PreTrainedModel``; or a ``peft.PeftModel``, of which the adapters alone are saved.
    path
        The file; an older one is replaced.
    tokenizer
        Saved too if given: a tokenizer or a processor.
    grids
        Bucket grids by name of the parameter, such as ``EntropyRegularizer.grids()``, for a model that was trained to
        them; tensors without one are kept exactly.
    target_bytes, target_ratio, target_bits_per_weight, include, exclude, coder, progress
        See :func:`metaq.compress`.

    Raises
    ------
    ConfigError
        If the model is none of Transformers', an option does not fit, or no file is small enough.
    OutputError
        If the file cannot be written.
    """
    goal = Goal(target_bytes=target_bytes, target_ratio=target_ratio, target_bits_per_weight=target_bits_per_weight)
    transformers = needed("transformers")
    # Who has an adapter has imported its library.
    peft: Any = sys.modules.get("peft")
    kinds = (transformers.PreTrainedModel,) if peft is None else (transformers.PreTrainedModel, peft.PeftModel)
    if not isinstance(model, kinds):
        raise ConfigError(f"model: {type(model).__name__} is no model of Transformers; use metaq.compress for others.")
    out = Path(path)
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first.")
    with _written_by(model, tokenizer, out) as place:
        folder = open_model(place)
        names = {tensor.name for tensor in folder.tensors}
        return compress_to_file(
            folder,
            out,
            goal,
            include=include,
            exclude=exclude,
            grids=None if grids is None else _saved_grids(model, grids, names),
            coder=coder,
            progress=progress,
            is_resumable=False,
        )


@contextmanager
def _written_by(model: Any, tokenizer: Tokenizer | None, out: Path) -> Iterator[str]:
    """A folder beside `out` that Transformers has written, until the end of the block."""
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=out.parent, ignore_cleanup_errors=True) as place:
            model.save_pretrained(place)
            if tokenizer is not None:
                tokenizer.save_pretrained(place)
            yield place
    except OSError as error:
        raise output_error(out, error) from error
    except SafetensorError as error:
        raise OutputError(
            f"{out}: its weights cannot be written beside it as they are, before they are compressed ({error}); free "
            "some space or choose another place."
        ) from error


def _saved_grids(model: nn.Module, grids: Mapping[str, BucketGrid], saved: set[str]) -> Mapping[str, BucketGrid]:
    """`grids` by the names that were saved: of tied parameters only one is."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {parameters[name].data_ptr(): name for name in sorted(saved & parameters.keys())}
    found: dict[str, BucketGrid] = {}
    for name, grid in grids.items():
        is_saved = name in saved or name not in parameters
        found[name if is_saved else names.get(parameters[name].data_ptr(), name)] = grid
    return TrainedGrids(found) if isinstance(grids, TrainedGrids) else found
