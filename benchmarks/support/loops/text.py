"""Language models of texts that come with Python, which differ a little between its versions."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from support.loops.base import Batch, MinibatchLoop, Parts, constant_then_falling, cosine
from support.loops.nets import TransformerBlock

CHARACTERS, WORDS = 96, 2000
"""Symbols of the two vocabularies."""

PARTS = (range(8), range(8, 9), range(9, 10))
"""Last digits of the numbers of paragraphs to train with, to choose with and to report on."""


class LanguageModelling(MinibatchLoop):
    """Prediction of every next symbol of a text, from logits (N, positions, symbols)."""

    figure: ClassVar[str] = "cross-entropy, nats"

    @override
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), target.flatten())


class CharacterTransformer(nn.Module):
    """A decoder with learned positions."""

    def __init__(self, symbols: int, *, layers: int, width: int, positions: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4, is_causal=True) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits (N, positions, symbols) of the symbol after each of (N, positions)."""
        places = torch.arange(symbols.shape[1], device=symbols.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.symbols(symbols) + self.positions(places))))
        return logits


class Characters(LanguageModelling):
    """A transformer of four layers over characters, by AdamW with clipping and a cosine, far from its end."""

    name: ClassVar[str] = "characters"
    steps: ClassVar[int] = 400
    batch_size: ClassVar[int] = 24
    most_norm: ClassVar[float | None] = 1.0

    @override
    def load(self, data: Path | None) -> Parts:
        return characters(64)

    @override
    def network(self) -> nn.Module:
        return CharacterTransformer(CHARACTERS, layers=4, width=128, positions=64)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return cosine(optimizer, self.steps, warm_up=20, last=0.1)


class WordNetwork(nn.Module):
    """An embedding, a recurrent layer and a linear one."""

    def __init__(self, symbols: int, *, embedded: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, embedded)
        self.recurrent = nn.LSTM(embedded, width, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits (N, positions, symbols) of the symbol after each of (N, positions)."""
        logits: Tensor = self.head(self.recurrent(self.symbols(symbols))[0])
        return logits


class Words(LanguageModelling):
    """An LSTM over words, by SGD with momentum, clipping, and a constant learning rate that falls at the end."""

    name: ClassVar[str] = "lstm"
    steps: ClassVar[int] = 1000
    batch_size: ClassVar[int] = 32
    most_norm: ClassVar[float | None] = 0.5

    @override
    def load(self, data: Path | None) -> Parts:
        return words(32)

    @override
    def network(self) -> nn.Module:
        return WordNetwork(WORDS, embedded=64, width=128)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [SGD(self.model.parameters(), lr=1.0, momentum=0.9)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return constant_then_falling(optimizer, self.steps)


@cache
def characters(length: int) -> Parts:
    """Windows of characters of Python's help texts."""
    from pydoc_data.topics import topics

    return windowed("\n\n".join(topics[name] for name in sorted(topics)), list, CHARACTERS, length)


@cache
def words(length: int) -> Parts:
    """Windows of words and signs, in small letters, of all that is in triple quotes in Python's own modules."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    quoted = [re.findall(r'"""(.*?)"""', file.read_text(encoding="utf-8"), re.DOTALL) for file in files]
    return windowed("\n\n".join(chain(*quoted)).lower(), re.compile(r"\w+|[^\w\s]").findall, WORDS, length)


def windowed(text: str, cut: Callable[[str], list[str]], most: int, length: int) -> Parts:
    """Windows of numbers of symbols (N, length) and of the symbols after them; those to train with overlap by half.

    Every paragraph is taken once; of ten, eight are to train with, one to choose with and one to report on. What `cut`
    makes of them has `most` numbers: 0 for all rare symbols, which the training text decides.
    """
    paragraphs = list(dict.fromkeys(re.split(r"\n\s*\n", text)))
    groups = [[paragraph for number, paragraph in enumerate(paragraphs) if number % 10 in tens] for tens in PARTS]
    texts = [cut("\n\n".join(group)) for group in groups]
    numbers = {symbol: number for number, (symbol, _) in enumerate(Counter(texts[0]).most_common(most - 1), start=1)}
    train, validation, test = (torch.tensor([numbers.get(symbol, 0) for symbol in found]) for found in texts)
    return Parts(
        train=windows(train, length, length // 2),
        validation=windows(validation, length, length),
        test=windows(test, length, length),
    )


def windows(symbols: Tensor, length: int, distance: int) -> Batch:
    """Stretches of so many symbols that begin at every `distance`, and the same moved on by one symbol."""
    found = symbols.unfold(0, length + 1, distance)
    return found[:, :-1].contiguous(), found[:, 1:].contiguous()
