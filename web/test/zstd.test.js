import assert from "node:assert/strict";
import test from "node:test";

import { decodeZstdFrame } from "../metaq/zstd.js";
import { assertRefused, damages, outcome } from "../testing/damage.js";
import { sha256, VECTORS } from "../testing/zstd_vectors.js";

const [RAW, REPEATED, COMPRESSED, RESERVED] = [0, 1, 2, 3];
const KILOBYTE_WINDOW = [0, 0];
const ALL_CONSTANT = 0b01010100;
const ALPHABET = [..."abcdefghij"].map((letter) => letter.charCodeAt(0));

function block(type, bytes, { size = bytes.length, isLast = false } = {}) {
  const header = (size << 3) | (type << 1) | Number(isLast);
  return [header & 255, (header >> 8) & 255, header >> 16, ...bytes];
}

function last(type, bytes, size) {
  return block(type, bytes, { size, isLast: true });
}

function frame(...parts) {
  return Uint8Array.from([...KILOBYTE_WINDOW, ...parts.flat()]);
}

/** A block of raw literals and one sequence, whose three codes are constant, so that its stream is the offset value. */
function oneSequence({ literals = [], offsetValue, matchCode = 0 }) {
  const offsetCode = 31 - Math.clz32(offsetValue);
  const stream = offsetCode < 8 ? [offsetValue] : [offsetValue & 255, offsetValue >> 8];
  return [8 * literals.length, ...literals, 1, ALL_CONSTANT, literals.length, offsetCode, matchCode, ...stream];
}

function decodeText(bytes, size) {
  return new TextDecoder().decode(decodeZstdFrame(bytes, size));
}

for (const { name, size, sha256: expected, data } of VECTORS) {
  test(`${name} come back from ${data.length} bytes`, () => {
    assert.equal(sha256(decodeZstdFrame(data, size)), expected);
  });
}

test("raw and repeated blocks follow each other", () => {
  const bytes = frame(block(RAW, ALPHABET), block(RAW, []), block(REPEATED, [120], { size: 3 }), last(RAW, [33]));
  assert.equal(decodeText(bytes, 14), "abcdefghijxxx!");
});

test("a frame of an empty block is empty", () => {
  assert.equal(decodeZstdFrame(frame(last(RAW, [])), 0).length, 0);
});

test("ten thousand empty blocks are passed over", () => {
  const bytes = frame(new Array(3 * 10_000).fill(0), last(RAW, [33]));
  assert.equal(decodeText(bytes, 1), "!");
});

test("an offset value above three is an offset, and repeats are counted from the last ones", () => {
  const cases = [
    [{ offsetValue: 8 }, "fgh"],
    [{ offsetValue: 1 }, "ghi"],
    [{ offsetValue: 2 }, "cde"],
    [{ literals: [120], offsetValue: 1 }, "xxxx"],
    [{ literals: [120], offsetValue: 2 }, "xhij"],
    [{ literals: [120], offsetValue: 3 }, "xdef"],
    [{ offsetValue: 13 }, "abc"],
  ];
  for (const [sequence, expected] of cases) {
    const bytes = frame(block(RAW, ALPHABET), last(COMPRESSED, oneSequence(sequence)));
    assert.equal(decodeText(bytes, 10 + expected.length), `abcdefghij${expected}`);
  }
});

test("the last offsets are remembered from block to block", () => {
  const bytes = frame(
    block(RAW, ALPHABET),
    block(COMPRESSED, oneSequence({ offsetValue: 13 })),
    block(COMPRESSED, oneSequence({ offsetValue: 2 })),
    block(COMPRESSED, oneSequence({ offsetValue: 1 })),
    block(COMPRESSED, oneSequence({ offsetValue: 3 })),
    last(COMPRESSED, oneSequence({ literals: [120], offsetValue: 3 })),
  );
  // Ten back; four, the last but two at the start; ten again; nine, one less than the last; four again.
  assert.equal(decodeText(bytes, 26), "abcdefghij" + "abc" + "jab" + "ghi" + "abc" + "xabc");
});

test("an offset below one, before the first byte or beyond the window is refused", () => {
  const filled = block(RAW, new Uint8Array(1024));
  const decode = (blocks, sequence, size) => () => decodeZstdFrame(frame(...blocks, last(COMPRESSED, sequence)), size);
  assert.equal(decode([filled, filled], oneSequence({ offsetValue: 1027 }), 2051)().length, 2051);
  assertRefused(decode([filled, filled], oneSequence({ offsetValue: 1028 }), 2051), /offset is out of range/);
  assertRefused(decode([block(RAW, ALPHABET)], oneSequence({ offsetValue: 14 }), 13), /offset is out of range/);
  const one = oneSequence({ literals: [120], offsetValue: 4 });
  const zero = [block(RAW, ALPHABET), block(COMPRESSED, one)];
  assertRefused(decode(zero, oneSequence({ offsetValue: 3 }), 17), /offset is out of range/);
});

test("what this format does not allow of a frame's header is refused", () => {
  const body = last(RAW, ALPHABET);
  const decode = (header) => decodeZstdFrame(Uint8Array.from([...header, ...body]), 10);
  const refused = (header, reason) => assertRefused(() => decode(header), reason);
  for (const header of [
    [0b10000, 0],
    [1, 0, 0],
    [3, 17 << 3, 0, 0, 0, 0],
  ])
    assert.equal(decode(header).length, 10);
  refused([0x20, 10], /names its own size/);
  refused([0x40, 0, 10, 0], /names its own size/);
  refused([0xc0, 0, 10, 0, 0, 0, 0, 0, 0, 0], /names its own size/);
  refused([4, 0], /checksum/);
  refused([8, 0], /reserved bit/);
  refused([1, 0, 7], /dictionary/);
  refused([2, 0, 0, 7], /dictionary/);
  refused([0, (17 << 3) + 1], /a window of 150994944 bytes; at most 134217728/);
  assertRefused(() => decodeZstdFrame(Uint8Array.of(0), 0), /end too early/);
  assertRefused(() => decodeZstdFrame(Uint8Array.of(3, 0, 0), 0), /end too early/);
});

test("what is wrong with a block is named", () => {
  const refused = (blocks, reason, size = 10) => assertRefused(() => decodeZstdFrame(frame(...blocks), size), reason);
  refused([last(RESERVED, [])], /block has an unknown type/);
  refused([last(RAW, [], 1025)], /larger than the frame allows/);
  refused([last(REPEATED, [1], 1025)], /larger than the frame allows/);
  refused([last(COMPRESSED, [])], /end too early/);
  refused([last(COMPRESSED, [0])], /end too early/);
  refused([last(COMPRESSED, [0, 0, 0])], /no sequences/);
  refused([last(COMPRESSED, [0, 1, 0b11111100, 1])], /table of earlier ones/);
  refused([last(COMPRESSED, [0, 1, ALL_CONSTANT | 1, 0, 0, 0, 1])], /reserved bit/);
  refused([last(COMPRESSED, [0, 1, ALL_CONSTANT, 36, 0, 0, 1])], /unknown symbol/);
  refused([last(COMPRESSED, [0, 1, ALL_CONSTANT, 1, 0, 0, 1])], /too few literals/);
  refused([last(COMPRESSED, [0, 1, ALL_CONSTANT, 0, 0, 0, 0])], /no mark/);
  refused([last(COMPRESSED, [0, 1, ALL_CONSTANT, 0, 31, 0, 1])], /offset is too large/);
  refused([block(RAW, ALPHABET), last(COMPRESSED, [0, 1, ALL_CONSTANT, 0, 0, 0, 2])], /goes on/, 13);
  refused([block(RAW, ALPHABET), last(COMPRESSED, [0, 1, ALL_CONSTANT, 0, 3, 0, 4])], /ends too early/, 13);
  refused([last(COMPRESSED, [0b11, 0, 0, 0])], /table of earlier ones/);
});

test("another size than that of the data, bytes after the end and missing bytes are refused", () => {
  const bytes = frame(block(RAW, ALPHABET), last(COMPRESSED, oneSequence({ offsetValue: 8 })));
  assertRefused(() => decodeZstdFrame(bytes, 14), /were found where/);
  assertRefused(() => decodeZstdFrame(bytes, 12), /more bytes than/);
  assertRefused(() => decodeZstdFrame(bytes, 9), /more bytes than promised/);
  assertRefused(() => decodeZstdFrame(Uint8Array.of(...bytes, 0), 13), /1 bytes follow/);
  assertRefused(() => decodeZstdFrame(bytes.subarray(0, -1), 13), /end too early/);
  assertRefused(() => decodeZstdFrame(new Uint8Array(0), 13), /end too early/);
  assertRefused(() => decodeZstdFrame(bytes, Number.MAX_SAFE_INTEGER), /more than this machine can hold/);
});

test("damage is refused or makes as many bytes as promised", () => {
  for (const [seed, { size, data }] of VECTORS.entries()) {
    for (const bytes of damages(data, seed, 500)) {
      assert.equal(outcome(() => decodeZstdFrame(bytes, size))?.length ?? size, size);
    }
  }
});
