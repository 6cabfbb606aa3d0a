"""Models of Hugging Face Transformers as one ``.metaq`` file: weights, configuration and tokenizer.

Needs ``pip install 'metaq-torch[transformers]'``. Nothing in a file is executed: the class is one of Transformers' own,
found by the configuration.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from metaq.compression.compressed import Goal, Report
from metaq.compression.compressing import compress_to_file
from metaq.compression.inputs import arrays, batch_size, pictures, texts
from metaq.compression.restoring import restore_folder
from metaq.config import needed
from metaq.container import DEFAULT_CODER
from metaq.errors import ConfigError, FormatError
from metaq.model.opened import open_model
from metaq.model.weights import ANY
from metaq.progress import Progress
from metaq.quantize.curvature import Batch
from metaq.quantize.outputs import floating_tensors
from metaq.tensors.grid import BucketGrid, TrainedGrids

CONFIG = "config.json"
MODULES, POOLING = "modules.json", "1_Pooling/config.json"
"""What Sentence Transformers make of the outputs."""

CLASSIFIERS = re.compile(r"For(CausalLM|MaskedLM|\w*Classification)|LMHeadModel")
"""Parts of the names of classes whose logits are of classes or words."""

MOST_TOKENS, TOKENS_PER_BATCH = 512, 1024
"""Of a text that calibrates, and of the texts that are run at once."""

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
        model = _loaded(Path(path), model_class, folder, **{"dtype": "auto", **options})
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


def calibration(folder: Path, inputs: Path) -> tuple[nn.Module, list[Batch]]:
    """The model of a folder in float32, and batches of its keyword arguments made of `inputs`.

    The model gives all tensors of its output, zero for padding; that of Sentence Transformers, its embeddings.

    Parameters
    ----------
    folder
        With weights, configuration, and tokenizer or image processor.
    inputs
        A text file, one text a line; a folder of images; or an ``.npy`` file of what the model's first argument takes.

    Raises
    ------
    ConfigError
        If Transformers is not installed.
    DataError
        If `inputs` cannot be read, or hold nothing.
    FormatError
        If Transformers knows no such model, tokenizer or image processor.
    """
    transformers = needed("transformers")
    model_class = _class_of(transformers, folder, folder / CONFIG)
    model = _loaded(folder, model_class, dtype=torch.float32).eval()
    if inputs.suffix == ".npy":
        return _Answers(model), [{model.main_input_name: batch} for batch in arrays(inputs)]
    if inputs.is_dir():
        processor = _loaded(folder, transformers.AutoImageProcessor)
        made = [processor(images=some, return_tensors="pt") for some in pictures(inputs)]
        return _Answers(model), [dict(batch) for batch in made]
    tokenizer = _loaded(folder, transformers.AutoTokenizer)
    files = tokenizer.vocab_files_names.values()
    if not any((folder / name).is_file() for name in files):
        raise FormatError(
            f"{folder}: has no tokenizer, none of {', '.join(files)}; calibrate on an array of token ids."
        )
    pooling, most = _pooling_of(folder), [tokenizer.model_max_length, MOST_TOKENS]
    most += [getattr(model.config, name, MOST_TOKENS) for name in ("max_position_embeddings", "n_positions")]
    return _Answers(model, pooling), list(_tokens(texts(inputs), tokenizer, min(most)))


class _Answers(nn.Module):
    """A model of Transformers that gives what its users look at.

    `pooling` is ``"mean"`` or ``"cls"`` for embeddings of length 1, or None.
    """

    def __init__(self, model: nn.Module, pooling: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self._classifies = CLASSIFIERS.search(type(model).__name__) is not None

    def forward(self, **batch: torch.Tensor) -> list[torch.Tensor]:
        """Embeddings of shape (samples, width); or roots of the probabilities of classes, whose squared error is for
        small errors that of cross-entropy; or all tensors of the output.
        """
        output, mask = self.model(**batch), batch.get("attention_mask")
        found = floating_tensors(output)
        if self._classifies and "logits" in output:
            found = [(output["logits"].log_softmax(dim=-1) / 2).exp()]
        if self.pooling == "cls":
            found = [found[0][:, 0]]
        elif mask is not None:
            found = [tensor * _shaped(mask, tensor) for tensor in found]
        if self.pooling is None:
            return found
        return [functional.normalize(found[0].sum(dim=1) if self.pooling == "mean" else found[0], dim=1)]


def _shaped(mask: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor | int:
    """The mask (samples, positions) for a tensor of these dimensions and others; 1 for one without positions."""
    if tensor.shape[:2] != mask.shape:
        return 1
    return mask.reshape(*mask.shape, *(1,) * (tensor.ndim - 2))


def _tokens(lines: Sequence[str], tokenizer: Any, most: int) -> Iterator[Batch]:
    """Batches of texts of like length, so that there is hardly any padding."""
    if tokenizer.pad_token is None:
        # Any will do, as padding does not count.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    cut = {"truncation": True, "max_length": most}
    lengths = [(len(tokenizer(line, **cut)["input_ids"]), line) for line in lines]
    some: list[str] = []
    for length, line in sorted(lengths):
        if some and (len(some) == batch_size(len(lines)) or (len(some) + 1) * length > TOKENS_PER_BATCH):
            yield dict(tokenizer(some, padding=True, return_tensors="pt", **cut))
            some = []
        some.append(line)
    yield dict(tokenizer(some, padding=True, return_tensors="pt", **cut))


def _pooling_of(folder: Path) -> str | None:
    """How Sentence Transformers pool the outputs of a model, where it is one of the usual two ways."""
    try:
        kinds = [str(each["type"]).rpartition(".")[2] for each in json.loads((folder / MODULES).read_bytes())]
        modes = json.loads((folder / POOLING).read_bytes())
        chosen = [name for name, value in modes.items() if name.startswith("pooling_mode_") and value is True]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    return known.get(chosen[0]) if kinds[:2] == ["Transformer", "Pooling"] and len(chosen) == 1 else None


def _loaded(path: Path, kind: Any, place: Path | None = None, **options: Any) -> Any:
    """What `kind`, a class of Transformers, makes of the folder `place`, or `path` itself."""
    try:
        return kind.from_pretrained(place or path, **{"local_files_only": True, **options})
    except LOADING_ERRORS as error:
        raise FormatError(f"{path}: Transformers cannot make a {kind.__name__} of it ({error}).") from error


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


def _saved_grids(model: nn.Module, grids: Mapping[str, BucketGrid], saved: set[str]) -> Mapping[str, BucketGrid]:
    """`grids` by the names that were saved: of tied parameters only one is."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {parameters[name].data_ptr(): name for name in sorted(saved & parameters.keys())}
    found: dict[str, BucketGrid] = {}
    for name, grid in grids.items():
        is_saved = name in saved or name not in parameters
        found[name if is_saved else names.get(parameters[name].data_ptr(), name)] = grid
    return TrainedGrids(found) if isinstance(grids, TrainedGrids) else found
