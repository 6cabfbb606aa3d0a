"""Models of Hugging Face Transformers as one ``.metaq`` file: weights, configuration and tokenizer.

Needs ``pip install 'metaq-torch[transformers]'``. Nothing in a file is executed: the class is one of Transformers' own,
found by the configuration.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from metaq.compression.compressed import Goal, Report
from metaq.compression.compressing import compress_to_file
from metaq.compression.restoring import restore_folder
from metaq.config import needed
from metaq.container import DEFAULT_CODER
from metaq.errors import ConfigError, FormatError
from metaq.model.opened import open_model
from metaq.model.weights import ANY
from metaq.progress import Progress
from metaq.tensors.grid import BucketGrid

CONFIG = "config.json"
LOADING_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError)
"""What Transformers raises for files that it does not understand."""


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
        A ``transformers.PreTrainedModel``.
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
    if not isinstance(model, transformers.PreTrainedModel):
        raise ConfigError(f"model: {type(model).__name__} is no model of Transformers; use metaq.compress for others.")
    out = Path(path)
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first.")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        model.save_pretrained(place)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
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


def from_pretrained(path: str | os.PathLike[str], **options: Any) -> Any:
    """The model of a ``.metaq`` file made of a folder or by :func:`save_pretrained`, in evaluation mode.

    Its class is the first of the configuration's ``architectures`` that Transformers has, else the one that
    ``AutoModel`` chooses. Weights have the types of the file.

    Parameters
    ----------
    path
        The file.
    options
        Passed on to ``from_pretrained`` of the class, such as ``dtype`` or ``device_map``.

    Raises
    ------
    ConfigError
        If `options` ask for code of others to be trusted.
    FormatError
        If the file is damaged, foreign, was not made of a folder, or has no configuration that Transformers knows.
    """
    transformers = needed("transformers")
    with _restored(path, options) as folder:
        model_class = _class_of(transformers, Path(path), folder / CONFIG)
        try:
            model = model_class.from_pretrained(folder, **{"dtype": "auto", "local_files_only": True, **options})
        except LOADING_ERRORS as error:
            raise FormatError(f"{path}: Transformers cannot make a {model_class.__name__} of it ({error}).") from error
    return model.eval()


def load_tokenizer(path: str | os.PathLike[str], **options: Any) -> Any:
    """The tokenizer that a ``.metaq`` file carries; `options` are passed on to ``AutoTokenizer.from_pretrained``.

    Raises
    ------
    ConfigError
        If `options` ask for code of others to be trusted.
    FormatError
        If the file is damaged or foreign, was not made of a folder, or carries no tokenizer.
    """
    transformers = needed("transformers")
    with _restored(path, options, only_files=True) as folder:
        try:
            return transformers.AutoTokenizer.from_pretrained(folder, **{"local_files_only": True, **options})
        except LOADING_ERRORS as error:
            raise FormatError(f"{path}: carries no tokenizer that Transformers knows ({error}).") from error


@contextmanager
def _restored(path: str | os.PathLike[str], options: Mapping[str, Any], *, only_files: bool = False) -> Iterator[Path]:
    """The folder that a file was made of."""
    if options.get("trust_remote_code"):
        raise ConfigError("trust_remote_code: code that a file brings along is never run; restore the folder instead.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / "model"
        restore_folder(Path(path), folder, only_files=only_files)
        yield folder


def _class_of(transformers: ModuleType, path: Path, config: Path) -> Any:
    """A class of Transformers, whatever the configuration says."""
    try:
        described = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: carries no readable {CONFIG}, so that its class is not known.") from error
    names = described.get("architectures") if isinstance(described, dict) else None
    for name in names if isinstance(names, list) else []:
        found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return transformers.AutoModel


def _saved_grids(model: nn.Module, grids: Mapping[str, BucketGrid], saved: set[str]) -> dict[str, BucketGrid]:
    """`grids` by the names that were saved: of tied parameters only one is."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {parameters[name].data_ptr(): name for name in sorted(saved & parameters.keys())}
    found: dict[str, BucketGrid] = {}
    for name, grid in grids.items():
        is_saved = name in saved or name not in parameters
        found[name if is_saved else names.get(parameters[name].data_ptr(), name)] = grid
    return found
