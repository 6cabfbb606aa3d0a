"""Models of Transformers with inputs that tell what errors of their weights do."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from metaq.compression.inputs import arrays, batch_size, pictures, texts
from metaq.config import needed
from metaq.errors import FormatError
from metaq.hf.loading import CONFIG, class_of, loaded
from metaq.quantize.curvature import Batch
from metaq.quantize.outputs import floating_tensors

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
"""What Sentence Transformers make of the outputs."""

CLASSIFIERS = re.compile(r"For(CausalLM|MaskedLM|\w*Classification)|LMHeadModel")
"""Parts of the names of classes whose logits are of classes or words."""

MOST_TOKENS, TOKENS_PER_BATCH = 512, 1024
"""Of a text that calibrates, and of the texts that are run at once."""


def calibration(folder: Path, inputs: Path, network: nn.Module | None = None) -> tuple[nn.Module, list[Batch]]:
    """The model of a folder in float32, and batches of its keyword arguments made of `inputs`.

    The model gives all tensors of its output, zero for padding; that of Sentence Transformers, its embeddings.

    Parameters
    ----------
    folder
        With weights, configuration, and tokenizer or image processor.
    inputs
        A text file, one text a line; a folder of images; or an ``.npy`` file of what the model's first argument takes.
    network
        What computes with the weights where they are none of Transformers', and passes over arguments that it does not
        know; texts and images only.

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
    if network is None:
        model_class = class_of(transformers, folder, folder / CONFIG)
        model = loaded(folder, model_class, dtype=torch.float32).eval()
        config, class_name = model.config, type(model).__name__
    else:
        model, config = network, SimpleNamespace(**_configuration(folder))
        class_name = " ".join(map(str, getattr(config, "architectures", None) or ()))
    if inputs.suffix == ".npy":
        return _Answers(model, class_name), [{model.main_input_name: batch} for batch in arrays(inputs)]
    if inputs.is_dir():
        processor = loaded(folder, transformers.AutoImageProcessor)
        made = [processor(images=some, return_tensors="pt") for some in pictures(inputs)]
        return _Answers(model, class_name), [dict(batch) for batch in made]
    tokenizer = loaded(folder, transformers.AutoTokenizer)
    files = tokenizer.vocab_files_names.values()
    if not any((folder / name).is_file() for name in files):
        raise FormatError(
            f"{folder}: has no tokenizer, none of {', '.join(files)}; calibrate on an array of token ids."
        )
    pooling, most = _pooling_of(folder), [tokenizer.model_max_length, MOST_TOKENS]
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    most += [limit for limit in limits if isinstance(limit, int)]
    return _Answers(model, class_name, pooling), list(_tokens(texts(inputs), tokenizer, min(most)))


class _Answers(nn.Module):
    """A model of Transformers, of the class with `class_name`, that gives what its users look at.

    `pooling` is ``"mean"`` or ``"cls"`` for embeddings of length 1, or None.
    """

    def __init__(self, model: nn.Module, class_name: str, pooling: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self._classifies = CLASSIFIERS.search(class_name) is not None

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


def _configuration(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says; nothing if it is missing or not valid."""
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
