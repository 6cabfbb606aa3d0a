import { Cursor } from "./cursor.js";
import { inflateRaw } from "./deflate.js";
import { MetaqError } from "./errors.js";
import { decodeLzma } from "./lzma.js";
import { decodeZstdFrame } from "./zstd.js";

const [LEAST_DICTIONARY_BYTES, MOST_DICTIONARY_BYTES] = [2 ** 12, 2 ** 24];
const SYMBOL_TYPES = [Uint8Array, Uint16Array, Uint32Array];

/** @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodeGzip(payload, stream) {
  return unpackedSymbols(payload, stream, (cursor, size) => inflateRaw(cursor.rest(), size));
}

/** @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodeZstdSymbols(payload, stream) {
  return unpackedSymbols(payload, stream, (cursor, size) => decodeZstdFrame(cursor.rest(), size));
}

/** @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodeLzmaSymbols(payload, stream) {
  return unpackedSymbols(payload, stream, (cursor, size) => {
    const parameters = cursor.byte();
    const [lc, lp, pb] = [parameters % 9, Math.floor(parameters / 9) % 5, Math.floor(parameters / 45)];
    const dictionarySize = Math.max(LEAST_DICTIONARY_BYTES, Math.min(MOST_DICTIONARY_BYTES, size));
    return decodeLzma(cursor.rest(), size, { lc, lp, pb, dictionarySize });
  });
}

function unpackedSymbols(payload, { count, alphabetSize }, unpack) {
  const cursor = new Cursor(payload, "A tensor packed by a generic coder");
  const field = cursor.varint();
  const lowest = Math.floor(field / 4);
  const numbers = SYMBOL_TYPES[field % 4];
  if (!numbers) throw new MetaqError("A tensor is packed in integers of an unknown size.");
  if (lowest >= alphabetSize) throw new MetaqError(`A symbol ${lowest} does not fit an alphabet of ${alphabetSize}.`);
  const bytes = unpack(cursor, count * numbers.BYTES_PER_ELEMENT);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const read = {
    1: (at) => view.getUint8(at),
    2: (at) => view.getUint16(at, true),
    4: (at) => view.getUint32(at, true),
  };
  const symbolAt = read[numbers.BYTES_PER_ELEMENT];
  return Int32Array.from({ length: count }, (_, i) => lowest + symbolAt(i * numbers.BYTES_PER_ELEMENT));
}
