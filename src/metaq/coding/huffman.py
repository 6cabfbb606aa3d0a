"""Canonical Huffman codes."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from metaq.coding.bits import BitReader, best_order, exp_golomb, pack
from metaq.coding.interface import CheckedCoder, CodedSymbols
from metaq.coding.varint import decode_varint, encode_varint
from metaq.compiled import compiled
from metaq.errors import CodecError

MAX_LENGTH = 32


class HuffmanCoder(CheckedCoder):
    """Payload: table of code lengths, filled up to a byte, then the code words.

    The table: lowest symbol (varint); number of symbols that occur less one (varint); if that is not 0, the Golomb
    orders of gaps and length differences (4 bits each), the length of the lowest symbol's code (6 bits), and for
    every further symbol the gap to its predecessor less one and the difference of the lengths (0, -1, 1, -2, … as
    0, 1, 2, 3, …) in exponential Golomb codes. Codes are canonical: in order of length, then of symbol.
    """

    name = "huffman"
    identifier = 3

    def _encode(self, symbols: NDArray[np.int64], _alphabet_size: int, _row_length: int, /) -> CodedSymbols:
        used, counts = np.unique(symbols, return_counts=True)
        head = encode_varint(int(used[0])) + encode_varint(used.size - 1)
        if used.size == 1:
            return CodedSymbols(payload=head, table_bytes=len(head))
        lengths = code_lengths(counts.astype(np.int64))
        head += _lengths_to_bytes(used, lengths)
        positions = np.searchsorted(used, symbols)
        body = pack(canonical_codes(lengths)[positions], lengths[positions])
        return CodedSymbols(payload=head + body, table_bytes=len(head))

    def _decode(self, payload: bytes, count: int, alphabet_size: int, _row_length: int, /) -> NDArray[np.int64]:
        lowest, position = decode_varint(payload, 0)
        others, position = decode_varint(payload, position)
        if lowest + others >= alphabet_size:
            raise CodecError(f"huffman: {others + 1} symbols from {lowest} on leave the alphabet of {alphabet_size}.")
        if others == 0:
            if position != len(payload):
                raise CodecError(f"huffman: {len(payload) - position} bytes are left over at the end.")
            return np.full(count, lowest, dtype=np.int64)
        reader = BitReader(payload, position)
        orders, first = (reader.unsigned(4), reader.unsigned(4)), reader.unsigned(6)
        rows = reader.exp_golomb(others, orders)
        used = np.concatenate([[lowest], lowest + np.cumsum(rows[:, 0] + 1)])
        differences = np.where(rows[:, 1] & 1, -((rows[:, 1] + 1) >> 1), rows[:, 1] >> 1)
        lengths = np.concatenate([[first], first + np.cumsum(differences)])
        _check_lengths(lengths)
        start = reader.finish_byte()
        # A code word takes a bit at least, so that a short payload cannot ask for a large array.
        if int(used[-1]) >= alphabet_size or count > 8 * (len(payload) - start):
            raise CodecError("huffman: the table leaves the alphabet, or the code words are cut off.")
        return used[_decode_positions(payload, start, count, lengths)]


def code_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Huffman code lengths in bits for two or more positive `counts`, at most ``MAX_LENGTH``.

    Where the optimal code would be longer, counts are halved (never below 1) until it is not.
    """
    lengths = _huffman_lengths(counts)
    while int(lengths.max()) > MAX_LENGTH:
        counts = (counts + 1) >> 1
        lengths = _huffman_lengths(counts)
    return lengths


def canonical_codes(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Code words of complete `lengths`, int64 of the same shape, numbered in order of length, then of symbol.

    Examples
    --------
    >>> canonical_codes(np.array([2, 1, 2]))
    array([2, 0, 3])
    """
    order = np.argsort(lengths, kind="stable")
    steps = np.int64(1) << (MAX_LENGTH - lengths[order])
    starts = np.concatenate([[0], np.cumsum(steps)[:-1]])
    codes = np.empty_like(lengths)
    codes[order] = starts >> (MAX_LENGTH - lengths[order])
    return codes


def _huffman_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    # Ties go to the node made first, which keeps the code the same everywhere and as flat as can be.
    heap = [(int(count), index) for index, count in enumerate(counts)]
    heapq.heapify(heap)
    parents = [0] * (2 * counts.size - 1)
    for node in range(counts.size, 2 * counts.size - 1):
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        parents[first[1]] = parents[second[1]] = node
        heapq.heappush(heap, (first[0] + second[0], node))
    depths = [0] * (2 * counts.size - 1)
    for node in range(2 * counts.size - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return np.array(depths[: counts.size], dtype=np.int64)


def _lengths_to_bytes(used: NDArray[np.int64], lengths: NDArray[np.int64]) -> bytes:
    differences = np.diff(lengths)
    folded = np.where(differences < 0, -2 * differences - 1, 2 * differences)
    gaps = np.diff(used) - 1
    orders = best_order(gaps), best_order(folded)
    gap_codes, length_codes = exp_golomb(gaps, orders[0]), exp_golomb(folded, orders[1])
    values = np.stack([gap_codes[0], length_codes[0]], axis=1).reshape(-1)
    widths = np.stack([gap_codes[1], length_codes[1]], axis=1).reshape(-1)
    return pack(np.concatenate([[*orders, lengths[0]], values]), np.concatenate([[4, 4, 6], widths]))


def _check_lengths(lengths: NDArray[np.int64]) -> None:
    if int(lengths.min()) < 1 or int(lengths.max()) > MAX_LENGTH:
        raise CodecError(f"huffman: a code length is not between 1 and {MAX_LENGTH} bits.")
    if int((np.int64(1) << (MAX_LENGTH - lengths)).sum()) != 1 << MAX_LENGTH:
        raise CodecError("huffman: the code lengths do not form a complete prefix code.")


def _decode_positions(payload: bytes, start: int, count: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(lengths, kind="stable")
    number = np.bincount(lengths, minlength=MAX_LENGTH + 1)
    out = np.empty(count, dtype=np.int64)
    data = np.frombuffer(payload, dtype=np.uint8)
    end = int(_walk(data, 8 * start, number.astype(np.int64), out))
    if end < 0:
        raise CodecError("huffman: the code words are cut off.")
    reader = BitReader(payload, end // 8)
    reader.fields(1, end % 8)
    reader.finish()
    return order[out]


@compiled
def _walk(data: NDArray[np.uint8], position: int, number: NDArray[np.int64], out: NDArray[np.int64]) -> int:
    end = 8 * data.size
    for index in range(out.size):
        code, first, rank, length = 0, 0, 0, 0
        while True:
            if position >= end:
                return -1
            code = code << 1 | (data[position >> 3] >> (7 - (position & 7))) & 1
            position += 1
            length += 1
            first <<= 1
            if code - first < number[length]:
                out[index] = rank + code - first
                break
            first += number[length]
            rank += number[length]
    return position
