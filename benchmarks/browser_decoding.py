"""Decoding by WebAssembly, in Node.js and in a browser, beside the same decoder compiled for this machine.

    python benchmarks/browser_decoding.py FILE... [--runs 5] [--json FILE or -]

Every run decodes every file by C (`gcc -O3`, with libzstd), in Node.js and in a headless Chromium that starts
anew, one after the other, so that whatever else the machine does weighs on all of them; medians count, and ratios are
medians of those of single runs. In the browser the time is that from bytes to tensors in the page, with a worker that
starts anew and compiles the decoder. The gap is the longest time that the page, which only waits, did not get its turn;
idle is the same when nothing is decoded. Without files, or without gcc, node or a browser, nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.results import write_json
from support.sentences import CannotRunError

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "metaq.h"
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

static int decode_frame(void *user, const uint8_t *frame, size_t size, uint8_t *out, size_t out_size) {
    ZSTD_DCtx *context = ZSTD_createDCtx();
    size_t found;
    (void)user;
    ZSTD_DCtx_setParameter(context, ZSTD_d_format, ZSTD_f_zstd1_magicless);
    found = ZSTD_decompressDCtx(context, out, out_size, frame, size);
    ZSTD_freeDCtx(context);
    return found != out_size;
}

int main(int count, char **arguments) {
    const size_t block_size = (size_t)1 << 26;
    FILE *file = fopen(arguments[1], "rb");
    struct timespec begun, ended;
    metaq_reader reader;
    metaq_source source;
    metaq_status status;
    size_t size;
    uint8_t *bytes, *block = malloc(block_size);
    (void)count;
    fseek(file, 0, SEEK_END);
    size = (size_t)ftell(file);
    rewind(file);
    bytes = malloc(size);
    if (fread(bytes, 1, size, file) != size) return 1;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    source = metaq_in_memory(bytes, size);
    source.zstd = decode_frame;
    status = metaq_open(&reader, source, block, block_size);
    while (status == METAQ_OK && (status = metaq_next(&reader)) == METAQ_OK) {
        /* As in a page, all tensors stay. */
        uint8_t *out = malloc(reader.tensor->elements * reader.tensor->element_size + 1);
        status = metaq_read_all(&reader, METAQ_ELEMENTS, out);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    if (status != METAQ_END) return 1;
    printf("%.6f", (double)(ended.tv_sec - begun.tv_sec) + 1e-9 * (double)(ended.tv_nsec - begun.tv_nsec));
    return 0;
}
"""
"""Prints the seconds from bytes to tensors."""


def compiled(folder: Path) -> Path:
    """The decoder in C, with the library of Zstandard."""
    program, source = folder / "decode", folder / "decode.c"
    source.write_text(PROGRAM)
    options = ["-O3", "-ffp-contract=off", "-I", str(ROOT / "c"), "-o", str(program)]
    command = ["gcc", *options, str(source), str(ROOT / "c" / "metaq.c"), "-lzstd"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRunError(f"gcc cannot compile the decoder: {done.stderr}")
    return program


def by_c(program: Path, model: Path) -> float:
    """Seconds."""
    return float(subprocess.run([program, model], check=True, capture_output=True, text=True).stdout)


def by_wasm(model: Path, *chromium: str) -> dict[str, float]:
    """What web/testing/measure_decoding.js says."""
    command = ["node", str(WEB / "testing" / "measure_decoding.js"), str(model), *chromium]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRunError(f"{model} could not be measured: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measured(program: Path, chromium: str, model: Path) -> dict[str, float]:
    """One run of one file; seconds, gaps in milliseconds."""
    browser = by_wasm(model, chromium)
    return {
        "c": by_c(program, model),
        "node": by_wasm(model)["seconds"],
        "browser": browser["seconds"],
        "browser_from_url": browser["fromUrl"],
        "gap": browser["gap"],
        "gap_of_bytes": browser["gapOfBytes"],
        "idle_gap": browser["idle"],
    }


def measure(options: argparse.Namespace, chromium: str) -> dict[str, Any]:
    """All runs by the names of the files."""
    found: dict[str, list[dict[str, float]]] = {model.name: [] for model in options.files}
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(Path(folder))
        for _ in range(options.runs):
            for model in options.files:
                found[model.name].append(measured(program, chromium, model))
    return {
        model.name: {"bytes": model.stat().st_size, "runs": found[model.name], **medians(found[model.name])}
        for model in options.files
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of every figure, and of how fast WebAssembly is as a share of C."""
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    for key in ("node", "browser"):
        found[f"{key}_of_c"] = statistics.median(run["c"] / run[key] for run in runs)
    return found


def chromium_of(options: argparse.Namespace) -> str:
    """The browser, if everything else is there, too."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None or shutil.which("node") is None or not (WEB / "node_modules" / "playwright-core").is_dir():
        raise CannotRunError("needs chromium, node and the packages that `npm ci` puts into web.")
    if shutil.which("gcc") is None:
        raise CannotRunError("needs gcc.")
    if not options.files:
        raise CannotRunError("needs files to decode; see --help.")
    return found


def main() -> int:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="a .metaq file")
    parser.add_argument("--runs", type=int, default=5, help="of each, whose median counts")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    try:
        result = measure(options, chromium_of(options))
    except CannotRunError as error:
        print(f"Nothing is measured: {error}", file=log)
        write_json({}, options.json)
        return 0
    for name, found in result.items():
        print(f"{name}: {found['bytes']:,} bytes", file=log)
        print(f"  C {found['c']:.2f} s", file=log)
        print(f"  Node.js {found['node']:.2f} s, {found['node_of_c']:.2f} of the speed of C", file=log)
        print(
            f"  Chromium {found['browser']:.2f} s, {found['browser_of_c']:.2f} of the speed of C; "
            f"{found['browser_from_url']:.2f} s from a URL",
            file=log,
        )
        print(
            f"  longest gap {found['gap']:.0f} ms from a URL, {found['gap_of_bytes']:.0f} ms from bytes, "
            f"{found['idle_gap']:.0f} ms idle",
            file=log,
        )
    write_json(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
