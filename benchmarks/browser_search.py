"""The page that searches by meaning: bytes, seconds to the first ranking, and whether Python ranks alike.

    python web/search/make_model.py MODEL --onnx FOLDER
    python benchmarks/browser_search.py --onnx FOLDER --queries sentences.txt [--json FILE or -]

FOLDER has the ONNX model that `web/search/model.metaq` was made of, and its tokenizer; the first 200 lines of the other
file are looked for. The browser is a headless Chromium that starts anew for every run, its server is this machine.
Beside the `.metaq` file stand ONNX models of 8 bits, by onnxruntime's quantize_dynamic, and of 16, each with the mean
cosine between its embeddings and those of the float model. Cosines of the browser and of Python differ in their last
digits, so that sentences may change places that are equally near: "same" allows for 1e-5. Some minutes on two cores.
Without --onnx, or without a browser, nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaq.compression.restoring import restore_folder
from support.results import write_json
from support.sentences import BATCH_SIZE, CannotRunError, lines

WEB = Path(__file__).parents[1] / "web"
PACKAGES = ("playwright-core", "onnxruntime-web")
MOST_QUERIES = 200
ALIKE = 1e-5
"""Cosines this close count as equal."""


class Encoder:
    """Sentence embeddings by onnxruntime in Python."""

    def __init__(self, model: Path, tokenizer: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self._session = onnxruntime.InferenceSession(model)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_padding()

    def __call__(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1, shape (sentences, width)."""
        found = []
        for start in range(0, len(sentences), BATCH_SIZE):
            encodings = self._tokenizer.encode_batch(list(sentences[start : start + BATCH_SIZE]))
            inputs = {
                "input_ids": np.array([each.ids for each in encodings]),
                "attention_mask": np.array([each.attention_mask for each in encodings]),
            }
            (vectors,) = self._session.run(None, inputs)
            found.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        return np.concatenate(found)


def in_browser(chromium: str, model: Path, runs: int, queries: Sequence[str]) -> dict[str, Any]:
    """What web/testing/measure_search.js says."""
    done = subprocess.run(
        ["node", str(WEB / "testing" / "measure_search.js"), chromium, str(model), str(runs)],
        input=json.dumps(queries),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotRunError(f"the page could not be measured: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def same_rankings(rankings: Sequence[Sequence[dict[str, float]]], cosines: NDArray[np.float32]) -> dict[str, Any]:
    """How many rankings are those of `cosines`, shape (queries, sentences), and the largest difference of a cosine."""
    places = np.array([[int(each["place"]) for each in ranking] for ranking in rankings])
    values = np.array([[each["cosine"] for each in ranking] for ranking in rankings])
    expected = np.argsort(-cosines, axis=1, kind="stable")
    ranked = np.take_along_axis(cosines, places, axis=1)
    return {
        "queries": len(places),
        "equal": int((places == expected).all(axis=1).sum()),
        "same": int((np.diff(ranked, axis=1) <= ALIKE).all(axis=1).sum()),
        "same_first": int((places[:, 0] == expected[:, 0]).sum()),
        "largest_difference": float(np.abs(ranked - values).max()),
    }


def write_others(model: Path, folder: Path) -> dict[str, Path]:
    """ONNX models with weights of 8 and of 16 bits in `folder`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    eight, sixteen = folder / "8_bits.onnx", folder / "16_bits.onnx"
    quantize_dynamic(model, eight, weight_type=QuantType.QUInt8)
    onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), sixteen)
    return {"ONNX, 8 bits": eight, "ONNX, 16 bits": sixteen}


def measure(options: argparse.Namespace, chromium: str) -> dict[str, Any]:
    """All figures."""
    queries = lines(options.queries)[:MOST_QUERIES]
    tokenizer = options.onnx / "tokenizer.json"
    browser = in_browser(chromium, options.model, options.runs, queries)
    texts = [*queries, *browser["sentences"]]
    reference = Encoder(options.onnx / "model.onnx", tokenizer)(texts)
    forms = {"ONNX, 32 bits": {"bytes": (options.onnx / "model.onnx").stat().st_size, "mean_cosine": 1.0}}
    with tempfile.TemporaryDirectory() as temporary:
        restored = Path(temporary) / "restored"
        restore_folder(options.model, restored)
        vectors = Encoder(restored / "model.onnx", tokenizer)(texts)
        forms[".metaq"] = {"bytes": options.model.stat().st_size, "mean_cosine": mean_cosine(reference, vectors)}
        for name, path in write_others(options.onnx / "model.onnx", Path(temporary)).items():
            others = Encoder(path, tokenizer)(texts)
            forms[name] = {"bytes": path.stat().st_size, "mean_cosine": mean_cosine(reference, others)}
    return {
        "forms": forms,
        "seconds": [run["milliseconds"] / 1000 for run in browser["runs"]],
        "times": [run["times"] for run in browser["runs"]],
        "rankings": same_rankings(browser["rankings"], vectors[: len(queries)] @ vectors[len(queries) :].T),
    }


def mean_cosine(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Of rows of length 1."""
    return float((reference * found).sum(axis=1).mean())


def chromium_of(options: argparse.Namespace) -> str:
    """The browser, if everything else is there, too."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    missing = [name for name in PACKAGES if not (WEB / "node_modules" / name).is_dir()]
    if found is None or shutil.which("node") is None or missing:
        raise CannotRunError("needs chromium, node and the packages that `npm ci` puts into web.")
    if options.onnx is None or options.queries is None or not options.model.is_file():
        raise CannotRunError("needs --onnx FOLDER, --queries FILE and web/search/model.metaq; see --help.")
    return found


def main() -> int:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="with model.onnx and tokenizer.json")
    parser.add_argument("--queries", type=Path, metavar="FILE", help="what is looked for, one a line")
    parser.add_argument("--model", type=Path, metavar="FILE", default=WEB / "search" / "model.metaq")
    parser.add_argument("--runs", type=int, default=5, help="fresh browsers whose median counts")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    try:
        chromium = chromium_of(options)
    except CannotRunError as error:
        print(f"Nothing is measured: {error}", file=log)
        write_json({}, options.json)
        return 0
    result = measure(options, chromium)
    for name, form in sorted(result["forms"].items(), key=lambda each: each[1]["bytes"]):
        print(f"{name:14} {form['bytes']:11,} bytes  mean cosine {form['mean_cosine']:.5f}", file=log)
    seconds = result["seconds"]
    print(
        f"first ranking after {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", file=log
    )
    rankings = result["rankings"]
    print(
        f"of {rankings['queries']} rankings {rankings['equal']} are equal and {rankings['same']} the same in Python; "
        f"cosines differ by {rankings['largest_difference']:.1g} at most",
        file=log,
    )
    write_json(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
