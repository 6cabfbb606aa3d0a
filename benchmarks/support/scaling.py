"""How much faster two threads are than one, from runs that follow each other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import ChunkCoder, StreamShape
from metaq.container.coders import CHUNK_CODERS

Parts = list[tuple[NDArray[np.int32], StreamShape]]
Row = dict[str, Any]

ROUND_SECONDS = 0.4
"""Least time of one thread in a round."""

MOST_PIECES = 8


def scaling_rows(parts: Parts, rounds: int) -> list[Row]:
    """Coders of chunks on pieces of one size; SHA-256 of the same bytes, which needs no memory, shows the machine's."""
    if rounds == 0:
        return []
    most = max(shape.count for _, shape in parts)
    equal = [part for part in parts if part[1].count == most][:MOST_PIECES]
    hashed = [stream.tobytes() for stream, _ in equal]
    rows = [scaling_row("SHA-256", "", lambda data: sha256(data).digest(), hashed, rounds)]
    for name, coder in CHUNK_CODERS.items():
        rows += coder_rows(name, coder, equal, rounds)
    return rows


def coder_rows(name: str, coder: ChunkCoder, parts: Parts, rounds: int) -> list[Row]:
    """Both directions of a coder."""

    def encode(part: tuple[NDArray[np.int32], StreamShape]) -> bytes:
        return coder.encode_chunk([part[0]], [part[1]])

    def decode(coded: tuple[bytes, StreamShape]) -> object:
        return coder.decode_chunk(coded[0], [coded[1]])

    coded = [(encode(part), part[1]) for part in parts]
    return [scaling_row(name, "encode", encode, parts, rounds), scaling_row(name, "decode", decode, coded, rounds)]


def scaling_row(name: str, direction: str, action: Callable[[Any], object], items: Sequence[Any], rounds: int) -> Row:
    """Median and quartiles of the ratio of one thread's seconds to those of two, which take turns at going first."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        seconds(two, action, items)
        work = list(items) * math.ceil(ROUND_SECONDS / seconds(one, action, items))
        ratios = []
        for number in range(rounds):
            if number % 2:
                alone, together = seconds(one, action, work), seconds(two, action, work)
            else:
                together, alone = seconds(two, action, work), seconds(one, action, work)
            ratios.append(alone / together)
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return {
        "coder": name,
        "direction": direction,
        "pieces": len(work),
        "rounds": rounds,
        "two_threads_to_one": median,
        "quartiles": [low, high],
    }


def seconds(pool: ThreadPoolExecutor, action: Callable[[Any], object], work: Sequence[Any]) -> float:
    """Time that the pool takes for all the work."""
    begun = time.perf_counter()
    for future in [pool.submit(action, item) for item in work]:
        future.result()
    return time.perf_counter() - begun


def show_scaling(title: str, rows: Sequence[Row]) -> None:
    """A table."""
    print(f"\n{title}: speed of two threads over that of one")
    for found in rows:
        low, high = found["quartiles"]
        label, spread = f"{found['coder']} {found['direction']}", f"quartiles {low:.2f} to {high:.2f}"
        print(f"{label:20} {found['two_threads_to_one']:6.2f} ({spread}, {found['rounds']} rounds)")
