"""The task of all examples: a small network learns what a larger one computes, from the same batches in the same order.

Everything is float64 and seeded, so that whatever the training loop, the curves can be compared to the last digit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # its defaults would keep a group that began before
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from metaq import FreezeConfig, RegularizerConfig, load

EPOCHS = 6
BATCH_SIZE = 32
EXAMPLES = 1024
FEATURES, HIDDEN, CLASSES = 16, 32, 4
LEARNING_RATE = 1e-2
PAUSE = 0.5
STEPS = EPOCHS * EXAMPLES // BATCH_SIZE
CONFIG = RegularizerConfig(strength=1.5e-3, ramp=0.6, decay_end=1.0, refresh_every=4, freeze=FreezeConfig(start=0.8))

Row = dict[str, torch.Tensor]

torch.set_default_dtype(torch.float64)


class Classifier(nn.Module):
    """One hidden layer, 676 weights; tells its loss where it is told the labels."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, hidden)
        self.output = nn.Linear(hidden, CLASSES)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """``logits`` of shape (batch, CLASSES), and ``loss``, their mean cross-entropy."""
        logits = self.output(torch.tanh(self.hidden(inputs)))
        if labels is None:
            return {"logits": logits}
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset[Row]):
    """Inputs of shape (FEATURES,) and the label that a fixed random network of 64 hidden units gives them."""

    def __init__(self, *, are_held_out: bool = False) -> None:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            self.inputs = torch.randn(EXAMPLES, FEATURES)
            judge = Classifier(hidden=64)
            if are_held_out:
                self.inputs = torch.randn(EXAMPLES, FEATURES)
            self.labels = judge(self.inputs)["logits"].argmax(dim=1)

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> Row:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


def make_model(seed: int = 0) -> Classifier:
    """The network as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier()


def make_loader(*, rank: int = 0, world_size: int = 1) -> DataLoader[Row]:
    """The batches of an epoch, always in the same order; several processes share out every one of them evenly."""
    rows = Rows()
    sampler = (
        SequentialSampler(rows)
        if world_size == 1
        else DistributedSampler(rows, num_replicas=world_size, rank=rank, shuffle=False)
    )
    return DataLoader(rows, batch_size=BATCH_SIZE // world_size, sampler=sampler)


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam at a constant learning rate."""
    return torch.optim.Adam(parameters, lr=LEARNING_RATE)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of `logits`, of shape (batch, CLASSES), whose largest is at the label, in percent."""
    return 100 * float((logits.argmax(dim=1) == labels).double().mean())


def print_curve(bits_per_weight: Sequence[float], **facts: float) -> None:
    """One line of JSON on stdout: bits per weight after every epoch, and other facts."""
    print(json.dumps({"bits_per_weight": list(bits_per_weight), **facts}), flush=True)


def print_log(entries: Iterable[Mapping[str, float | str | None]]) -> None:
    """One line of JSON on stdout: everything that a trainer has logged, a list for each name."""
    columns: dict[str, list[float]] = {}
    for entry in entries:
        for name, value in entry.items():
            if value not in (None, ""):
                columns.setdefault(name, []).append(float(value))
    print(json.dumps(columns), flush=True)


def print_end(path: str) -> None:
    """What every example ends with: bytes of the file, and how good the network is that comes out of it."""
    model, rows = make_model(), Rows(are_held_out=True)
    model.load_state_dict(load(path))
    with torch.no_grad():
        right = accuracy(model(rows.inputs)["logits"], rows.labels)
    print(f"{Path(path).stat().st_size:,} bytes, {right:.1f} % of the examples held out are right", flush=True)


def leave_group() -> None:
    """End the work with other processes.

    A thread of gloo that has not put the last collective away when the interpreter ends aborts the process. The thread
    ends with its group, but caches of sharded tensors keep the group; then the pause lets it finish.
    """
    dist.destroy_process_group()
    time.sleep(PAUSE)
