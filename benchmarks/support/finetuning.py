"""A sentence encoder fine-tuned to a new task: the words of a dictionary entry lie near its gloss."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from support.sentences import CannotRunError

Pair = tuple[str, str]

BATCH_SIZE, MAX_TOKENS = 32, 64
LEARNING_RATE = 3e-5
TEMPERATURE = 0.05


def entries(path: Path) -> list[Pair]:
    """Words and gloss of every entry of WordNet's ``data.noun``, in the order of the file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CannotRunError(f"{path}: {error.strerror}; install Debian's wordnet-base.") from error
    found = []
    for line in lines:
        if line[:1].isdigit() and " | " in line:
            fields, gloss = line.split(" | ", 1)
            words = fields.split()
            count = int(words[3], 16)
            names = ", ".join(word.replace("_", " ") for word in words[4 : 4 + 2 * count : 2])
            found.append((names, gloss.partition(";")[0].strip()))
    return found


def fine_tune(
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    steps: int,
    seed: int,
    learning_rate: float = LEARNING_RATE,
    after: Callable[[int], None] | None = None,
) -> None:
    """Train `model` in place for some steps, its words against the glosses of the batch; `after` is called with the
    number of every step done.
    """
    chooser = random.Random(seed)
    torch.manual_seed(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / 20, 1.0) * (1 - step / steps)
        loss = contrastive_loss(model, tokenizer, chooser.sample(pairs, BATCH_SIZE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after is not None:
            after(step + 1)
    model.eval()


def contrastive_loss(model: nn.Module, tokenizer: Any, batch: Sequence[Pair]) -> torch.Tensor:
    """Cross-entropy of finding the gloss of every entry among those of the batch."""
    words, glosses = (embedded(model, tokenizer, [pair[part] for pair in batch]) for part in range(2))
    return functional.cross_entropy(words @ glosses.T / TEMPERATURE, torch.arange(len(batch)))


def embedded(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Normalised embeddings, shape (texts, hidden)."""
    coded = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    found: torch.Tensor = model(coded["input_ids"], coded["attention_mask"])
    return found


@torch.no_grad()
def found_percent(model: nn.Module, tokenizer: Any, pairs: Sequence[Pair], *, among: int = 1000) -> float:
    """Percent of entries whose own gloss is the nearest of `among`."""
    model.eval()
    hits = 0
    for start in range(0, len(pairs), among):
        some = pairs[start : start + among]
        parts = []
        for part in range(2):
            texts = [pair[part] for pair in some]
            rows = [embedded(model, tokenizer, texts[at : at + 128]) for at in range(0, len(texts), 128)]
            parts.append(torch.cat(rows))
        hits += int((parts[0] @ parts[1].T).argmax(dim=1).eq(torch.arange(len(some))).sum())
    return 100 * hits / len(pairs)
