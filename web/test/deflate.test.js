import assert from "node:assert/strict";
import test from "node:test";
import { constants, deflateRawSync, inflateRawSync } from "node:zlib";

import { inflateRaw } from "../metaq/deflate.js";
import { assertRefused, damages, generator, outcome } from "../testing/damage.js";

const STRATEGIES = ["Z_DEFAULT_STRATEGY", "Z_FILTERED", "Z_HUFFMAN_ONLY", "Z_RLE", "Z_FIXED"];
const TEXT = new TextEncoder().encode("a weight, a bias, a weight, a weight and a running mean. ".repeat(3));

/** Bytes of `values` kinds, of which lower ones are more frequent, with some stretches repeated. */
function structured(size, values, seed) {
  const draw = generator(seed);
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size;) {
    const repeats = i > 300 && draw() % 20 === 0;
    const count = Math.min(1 + (draw() % (repeats ? 300 : 60)), size - i);
    const distance = 1 + (draw() % Math.max(i, 1));
    for (const end = i + count; i < end; i += 1) {
      bytes[i] = repeats ? bytes[i - distance] : Math.min(draw() % values, draw() % values);
    }
  }
  return bytes;
}

/** Writes fields of bits, lowest first, and code words, first bit first. */
class BitWriter {
  bits = [];

  field(value, count) {
    for (let i = 0; i < count; i += 1) this.bits.push((value >> i) & 1);
    return this;
  }

  word(text) {
    this.bits.push(...[...text].map(Number));
    return this;
  }

  bytes() {
    const bytes = new Uint8Array(Math.ceil(this.bits.length / 8));
    this.bits.forEach((bit, i) => {
      bytes[i >> 3] |= bit << (i & 7);
    });
    return bytes;
  }
}

const LENGTH_WORDS = { 0: "00", 1: "01", 2: "10", zeros: "11" };

/** A last block with codes of its own, where "a" and the end of the block have code words of one bit. */
function dynamicBlock({ literals = { 97: 1, 256: 1 }, distances = [0], body = "01" }) {
  const writer = new BitWriter().field(1, 1).field(2, 2);
  writer
    .field(0, 5)
    .field(distances.length - 1, 5)
    .field(18 - 4, 4);
  // In their order in the format, the symbols 18, 0, 2 and 1 have code words of two bits.
  for (const length of [0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2]) writer.field(length, 3);
  const lengths = [...Array.from({ length: 257 }, (_, symbol) => literals[symbol] ?? 0), ...distances];
  for (let i = 0; i < lengths.length;) {
    const zeros = lengths.slice(i, i + 138).findIndex((length) => length > 0);
    const run = zeros < 0 ? Math.min(lengths.length - i, 138) : zeros;
    if (run >= 11) writer.word(LENGTH_WORDS.zeros).field(run - 11, 7);
    else writer.word(LENGTH_WORDS[lengths[i]]);
    i += run >= 11 ? run : 1;
  }
  return writer.word(body).bytes();
}

test("whatever zlib writes comes back", () => {
  let seed = 0;
  for (const size of [0, 1, 2, 7, 100, 1000, 70_000]) {
    for (const values of [1, 2, 30, 256]) {
      for (let level = 0; level <= 9; level += 1) {
        const raw = structured(size, values, (seed += 1));
        const strategy = constants[STRATEGIES[seed % STRATEGIES.length]];
        const packed = deflateRawSync(raw, { level, strategy, memLevel: 1 + (seed % 9), windowBits: 9 + (seed % 7) });
        assert.deepEqual(inflateRaw(new Uint8Array(packed), size), raw);
      }
    }
  }
});

test("half a million bytes come back", () => {
  const raw = structured(500_000, 200, 1);
  assert.deepEqual(inflateRaw(new Uint8Array(deflateRawSync(raw, { level: 9 })), raw.length), raw);
});

test("a view into a larger buffer is read where it is", () => {
  const packed = deflateRawSync(TEXT);
  const around = new Uint8Array(packed.length + 10).fill(255);
  around.set(packed, 5);
  assert.deepEqual(inflateRaw(around.subarray(5, 5 + packed.length), TEXT.length), TEXT);
});

test("another size than that of the data is refused", () => {
  for (const level of [0, 9]) {
    const packed = new Uint8Array(deflateRawSync(TEXT, { level }));
    assertRefused(() => inflateRaw(packed, TEXT.length + 1), /were found where/);
    assertRefused(() => inflateRaw(packed, TEXT.length - 1), /more bytes than promised/);
    assertRefused(() => inflateRaw(packed, 0), /more bytes than promised/);
  }
});

test("a size that no memory holds is refused", () => {
  assertRefused(() => inflateRaw(Uint8Array.of(3, 0), Number.MAX_SAFE_INTEGER), /more than this machine can hold/);
});

test("bytes after the end and missing bytes are refused", () => {
  const packed = new Uint8Array(deflateRawSync(TEXT));
  assertRefused(() => inflateRaw(Uint8Array.of(...packed, 0), TEXT.length), /1 bytes follow/);
  assertRefused(() => inflateRaw(packed.subarray(0, -1), TEXT.length), /end too early/);
  assertRefused(() => inflateRaw(new Uint8Array(0), 0), /end too early/);
});

test("each way in which a stream may be damaged is named", () => {
  const refused = (bits, reason) => assertRefused(() => inflateRaw(bits.bytes(), 3), reason);
  const stored = () => new BitWriter().field(1, 3).field(0, 5);
  const withFixedCodes = () => new BitWriter().field(3, 3);
  refused(new BitWriter().field(7, 3), /unknown type/);
  refused(stored().field(3, 16).field(3, 16), /do not agree/);
  refused(stored().field(3, 16).field(0xfffc, 16).field(0, 16), /end too early/);
  refused(withFixedCodes().word("11000110"), /length has an unknown code/);
  refused(withFixedCodes().word("0000001").word("11110"), /distance has an unknown code/);
  refused(withFixedCodes().word("00110000").word("0000001").word("00001"), /before the first byte/);
  refused(new BitWriter().field(5, 3).field(30, 5).field(0, 5).field(0, 4), /too many codes/);
});

test("codes that zlib allows are allowed, others refused", () => {
  const cases = [
    [{}, "a"],
    [{ distances: [0], body: "0001" }, "aaa"],
    [{ distances: [1], body: "01" }, "a"],
    [{ distances: [1, 1], body: "01" }, "a"],
    [{ literals: { 256: 1 }, body: "0" }, ""],
    [{ literals: { 256: 1 }, body: "1" }, /word means nothing/],
    [{ literals: { 97: 1, 256: 2 }, body: "010" }, /literal code is incomplete/],
    [{ literals: { 256: 2 }, body: "00" }, /literal code is incomplete/],
    [{ literals: { 97: 1, 98: 1, 256: 1 } }, /too many code words/],
    [{ literals: { 97: 1, 98: 1 } }, /no code for its end/],
    [{ distances: [2], body: "01" }, /distance code is incomplete/],
    [{ distances: [1, 1, 1], body: "01" }, /too many code words/],
  ];
  for (const [block, expected] of cases) {
    const packed = dynamicBlock(block);
    if (typeof expected === "string") {
      assert.equal(new TextDecoder().decode(inflateRaw(packed, expected.length)), expected);
      assert.equal(inflateRawSync(packed).toString(), expected);
    } else {
      assertRefused(() => inflateRaw(packed, 1), expected);
      assert.throws(() => inflateRawSync(packed));
    }
  }
});

test("damage is refused, or makes what zlib makes of it", () => {
  for (const [number, raw] of [TEXT, structured(500, 40, 3), structured(3000, 3, 4)].entries()) {
    for (const level of [0, 1, 9]) {
      for (const bytes of damages(new Uint8Array(deflateRawSync(raw, { level })), number, 700)) {
        const found = outcome(() => inflateRaw(bytes, raw.length));
        if (found !== null) assert.deepEqual(found, new Uint8Array(inflateRawSync(bytes)));
      }
    }
  }
});
