import assert from "node:assert/strict";
import test from "node:test";

import { decodeLzma } from "../metaq/lzma.js";
import { assertRefused, damages, outcome } from "../testing/damage.js";
import { sha256, vectorsOf } from "../testing/generic_vectors.js";

const VECTORS = vectorsOf("lzma");
const WORDS = VECTORS.find((vector) => vector.name === "words");
const ECHO = VECTORS.find((vector) => vector.name === "echo");

for (const { name, size, sha256: expected, options, data } of VECTORS) {
  test(`${name} come back with lc ${options.lc}, lp ${options.lp}, pb ${options.pb}`, () => {
    assert.equal(sha256(decodeLzma(data, size, options)), expected);
  });
}

test("another size than that of the data is refused", () => {
  const { data, size, options } = WORDS;
  assertRefused(() => decodeLzma(data, size + 1, options), /1200 bytes were found where 1201 are promised/);
  assertRefused(() => decodeLzma(data, size - 1, options), /more bytes than promised/);
  assertRefused(() => decodeLzma(data, 0, options), /more bytes than promised/);
  assertRefused(() => decodeLzma(data, Number.MAX_SAFE_INTEGER, options), /more than this machine can hold/);
});

test("bytes after the end marker and missing bytes are refused", () => {
  const { data, size, options } = WORDS;
  assertRefused(() => decodeLzma(Uint8Array.of(...data, 0), size, options), /1 bytes follow/);
  assertRefused(() => decodeLzma(data.subarray(0, -1), size, options), /end too early/);
  assertRefused(() => decodeLzma(data.subarray(0, 4), size, options), /end too early/);
  assertRefused(() => decodeLzma(new Uint8Array(0), 0, options), /end too early/);
});

test("a first byte that is not zero and a last one that is too large are refused", () => {
  const { data, size, options } = WORDS;
  assertRefused(() => decodeLzma(Uint8Array.of(1, ...data.subarray(1)), size, options), /first byte is not zero/);
  assertRefused(() => decodeLzma(Uint8Array.of(...data.subarray(0, -1), data.at(-1) + 1), size, options), /the end/);
});

test("a distance may be as large as the dictionary", () => {
  const { data, size, options, sha256: expected } = ECHO;
  assert.equal(sha256(decodeLzma(data, size, { ...options, dictionarySize: 100 })), expected);
  assertRefused(() => decodeLzma(data, size, { ...options, dictionarySize: 99 }), /larger than the dictionary/);
});

test("a distance before the first byte is refused", () => {
  // The first bits are ones, which mean a match.
  const data = Uint8Array.of(0, 255, 255, 255, 0, 0, 0, 0);
  assertRefused(() => decodeLzma(data, 9, { lc: 3, lp: 0, pb: 0, dictionarySize: 4096 }), /before the first byte/);
});

test("properties that LZMA does not permit are refused", () => {
  for (const wrong of [{ lc: 5 }, { lc: 3, lp: 2 }, { pb: 5 }]) {
    assertRefused(() => decodeLzma(WORDS.data, WORDS.size, { ...WORDS.options, ...wrong }), /not permitted/);
  }
});

test("damage is refused or makes as many bytes as promised", () => {
  for (const [seed, { size, options, data }] of VECTORS.entries()) {
    for (const bytes of damages(data, seed, 250)) {
      assert.equal(outcome(() => decodeLzma(bytes, size, options))?.length ?? size, size);
    }
  }
});
