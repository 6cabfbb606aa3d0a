"""Time and memory of calibrating a large transformer of random weights on random inputs: what it costs, not its worth.

    python benchmarks/calibrating.py --layers 21 --width 1024 --vocabulary 30522 --bits-per-weight 3

These are 296 million weights, 1.1 GiB in float32. One process makes the network, compresses it with calibration
batches, saves the file and reads it back. Memory is resident memory of the whole process at its peak, PyTorch and the
network itself included. The sizes above take hours on one core; without options it is a small network and takes
seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn
from torch.nn import functional

import metaq
from metaq.progress import NoProgress
from support.cost import peak_mib, resident_mib
from support.results import write_json

HEAD_WIDTH = 64


class Block(nn.Module):
    """Attention and a feed-forward network of four times the width, each after a normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of and to the shape (texts, positions, width)."""
        seen = self.norms[0](hidden)
        heads = [
            layer(seen).unflatten(2, (-1, min(HEAD_WIDTH, hidden.shape[2]))).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2)
        hidden = hidden + self.output(mixed)
        return hidden + self.outer(functional.gelu(self.inner(self.norms[1](hidden))))


class Transformer(nn.Module):
    """Embeddings of texts, the mean of their positions."""

    def __init__(self, layers: int, width: int, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From the shape (texts, positions) to (texts, width)."""
        return self.blocks(self.words(tokens)).mean(dim=1)


class Stages(NoProgress):
    """Tells when a stage begins."""

    def __init__(self, log: TextIO) -> None:
        self._log, self._begun, self._last = log, time.perf_counter(), ""

    def stage(self, label: str, total: float) -> None:
        """Print it, with what memory the stages before took."""
        if label != self._last:
            took = time.perf_counter() - self._begun
            print(f"{took:7.0f} s, {peak_mib():6,.0f} MiB: {label}, {total:,.0f}", file=self._log, flush=True)
        self._last = label


def measured(options: argparse.Namespace, log: TextIO) -> dict[str, Any]:
    """All figures."""
    torch.manual_seed(options.seed)
    resident_mib()
    model = Transformer(options.layers, options.width, options.vocabulary).eval()
    generator = torch.Generator().manual_seed(options.seed)
    # Words are as frequent as one over their rank, about.
    ranks = torch.rand(options.texts, options.length, generator=generator) * math.log(options.vocabulary)
    batches = (ranks.exp().long() % options.vocabulary).split(options.batch)
    begun = time.perf_counter()
    found = metaq.compress(model, batches=batches, target_bits_per_weight=options.bits_per_weight, progress=Stages(log))
    seconds, peak = time.perf_counter() - begun, peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.metaq"
        found.save(path)
        chosen = found.state_dict()
        is_same = all(torch.equal(tensor, chosen[name]) for name, tensor in metaq.load(path).items())
    return {
        "weights": found.weights,
        "float_bytes": found.float_bytes,
        "bytes": found.file_bytes,
        "kept": found.kept,
        "seconds": seconds,
        "peak_mib": peak,
        "restores_alike": is_same,
    }


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--length", type=int, default=32, help="tokens of a text")
    parser.add_argument("--batch", type=int, default=8, help="texts that are run at once")
    parser.add_argument("--bits-per-weight", type=float, default=3.0, help="of the file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    found = measured(options, log)
    print(
        f"{found['weights']:,} weights became {found['bytes']:,} bytes in {found['seconds']:,.0f} s and "
        f"{found['peak_mib']:,.0f} MiB; {found['kept']:.4f} of the outputs is kept.",
        file=log,
    )
    write_json(found, options.json)
    return 0 if found["restores_alike"] else 1


if __name__ == "__main__":
    sys.exit(main())
