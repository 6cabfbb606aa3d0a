import assert from "node:assert/strict";

import { MetaqError } from "../metaq/errors.js";

/** @param {number} seed @returns {() => number} integers from 0 to 2^32 - 1, the same for the same seed */
export function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
}

/**
 * @param {Uint8Array} bytes
 * @param {number} seed
 * @param {number} count of copies with bits changed at random
 * @returns {Generator<Uint8Array>} every truncation, a copy that is too long, and those copies
 */
export function* damages(bytes, seed, count) {
  for (let length = 0; length < bytes.length; length += 1) yield bytes.slice(0, length);
  yield Uint8Array.of(...bytes, 0);
  const draw = generator(seed);
  for (let i = 0; i < count; i += 1) {
    const copy = bytes.slice();
    for (let changes = 1 + (draw() % 3); changes > 0; changes -= 1) copy[draw() % copy.length] ^= 1 << (draw() % 8);
    yield copy;
  }
}

/** @param {() => Uint8Array} decode @returns {?Uint8Array} what comes out, null if refused; no other error passes */
export function outcome(decode) {
  try {
    return decode();
  } catch (error) {
    assert.ok(error instanceof MetaqError, error.stack);
    assert.match(error.message, /^zstd: .+\.$/);
    return null;
  }
}

/** @param {() => Uint8Array} decode @param {RegExp} reason that the error must give */
export function assertRefused(decode, reason) {
  assert.throws(decode, (error) => error instanceof MetaqError && reason.test(error.message));
}
