import { BitReader } from "./bit_reader.js";
import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";

const MOST_PACKED_BITS = 31;

/** All symbols are the same. @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodeConstant(payload, { count, alphabetSize }) {
  const cursor = new Cursor(payload, "A constant tensor");
  const symbol = cursor.varintUpTo(alphabetSize - 1, "the symbol");
  cursor.finish();
  return new Int32Array(count).fill(symbol);
}

/** Symbols in fields of as many bits as are needed. @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodePacked(payload, { count, alphabetSize }) {
  const what = "A packed tensor";
  const cursor = new Cursor(payload, what);
  const lowest = cursor.varintUpTo(alphabetSize - 1, "the lowest symbol");
  const width = cursor.byte();
  if (width > MOST_PACKED_BITS) throw new MetaqError(`${what} has fields of ${width} bits.`);
  const fields = cursor.rest();
  if (fields.length !== Math.ceil((count * width) / 8))
    throw new MetaqError(`${what} does not have as many bytes as it needs.`);
  const reader = new BitReader(fields, what);
  const symbols = new Int32Array(count);
  for (let i = 0; i < count; i += 1) {
    const symbol = lowest + reader.bits(width);
    if (symbol >= alphabetSize)
      throw new MetaqError(`${what} has a symbol ${symbol} of an alphabet of ${alphabetSize}.`);
    symbols[i] = symbol;
  }
  reader.finish();
  return symbols;
}
