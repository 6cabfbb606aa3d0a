"""Writes files for a fuzzer to start from: golden and random ones, with headers that are not coded.

python c/testing/corpus.py FOLDER [--coded] [--updates]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "web")]

import made_updates  # noqa: E402
from made_files import CODER_NAMES, random_file, random_floats, random_integers, raw_header, varint  # noqa: E402

from metaq import container  # noqa: E402
from metaq.coding.varint import encode_varint  # noqa: E402
from metaq.container.layout import UPDATE_MAGIC  # noqa: E402

RANDOM, SEED = 150, 0
WAYS = (0, 16, 64 + 128, 8 + 128, 1, 2 + 8, 32 + 16 + 128)
"""First bytes: how testing/fuzz.c reads the file."""


def plain(data: bytes) -> bytes:
    """The file, or update, with a header that is not coded."""
    if data[:4] == UPDATE_MAGIC:
        at, header = made_updates.PREAMBLE_BYTES, made_updates.parts_of(data)[0]
        size, begin = varint(data, at)
        behind = begin + size
    else:
        at, (header, behind) = 5, raw_header(data)
    stored = encode_varint(len(header)) + header
    return data[:at] + encode_varint(len(stored)) + stored + data[behind:]


def updates() -> list[tuple[bytes, bytes]]:
    """Bases and updates of every kind."""
    cases = [made_updates.some_case(), *made_updates.low_rank_cases()]
    for coder in made_updates.CODERS:
        made = (
            made_updates.quantized_cases(coder),
            made_updates.exact_cases(coder),
            made_updates.combined_cases(coder),
        )
        cases += [case for kind in made for case in kind]
    return [(case.base_file, case.update) for case in cases if len(case.base_file) < 1 << 14]


def files() -> list[bytes]:
    generator = np.random.default_rng(SEED)
    folders = (ROOT / "tests" / "golden", ROOT / "models")
    found = [path.read_bytes() for folder in folders for path in sorted(folder.glob("*.metaq"))]
    found += [random_file(generator, CODER_NAMES[number % len(CODER_NAMES)]) for number in range(RANDOM)]
    for coder in ("small", "fast"):
        tensors = [random_floats(generator, "a"), random_integers(generator, "b")]
        found.append(container.encode(tensors, coder=coder, chunk_bits=12))
    return [data for data in found if varint(data, 5)[0] > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--updates", action="store_true", help="updates with their bases")
    parser.add_argument("--coded", action="store_true", help="leave headers as they are")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    made = bytes if options.coded else plain
    pairs = [tuple(map(made, pair)) for pair in updates()] if options.updates else []
    found = [len(base).to_bytes(2, "little") + base + update for base, update in pairs]
    for number, data in enumerate(found or map(made, files())):
        (options.folder / f"{number}").write_bytes(bytes([WAYS[number % len(WAYS)]]) + data)


if __name__ == "__main__":
    main()
