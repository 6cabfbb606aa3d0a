import { MetaqError } from "./errors.js";
import { decodeConstant, decodePacked } from "./plain_coders.js";
import { decodeFast } from "./fast.js";
import { decodeGzip, decodeLzmaSymbols, decodeZstdSymbols } from "./generic_coders.js";
import { decodeHuffman } from "./huffman.js";
import { decodeRange, decodeRans } from "./static_coders.js";
import { decodeSmall } from "./small.js";

/** @type {Map<number, (payload: Uint8Array, stream: import("./chunks.js").Stream) => Int32Array>} */
const TENSOR_CODERS = new Map([
  [1, decodeConstant],
  [2, decodePacked],
  [3, decodeHuffman],
  [4, decodeRange],
  [5, decodeRans],
  [6, decodeGzip],
  [7, decodeZstdSymbols],
  [8, decodeLzmaSymbols],
]);

/** @type {Map<number, (payload: Uint8Array, streams: import("./chunks.js").Stream[]) => Int32Array[]>} */
const CHUNK_CODERS = new Map([
  [10, decodeSmall],
  [11, decodeFast],
]);

const FIRST_CHUNK_CODER = 10;

/** Whether a coder takes several streams at once. @param {number} coder */
export function isChunkCoder(coder) {
  return coder >= FIRST_CHUNK_CODER;
}

/**
 * Decode a chunk of bucket indices.
 * @param {number} coder
 * @param {Uint8Array} payload
 * @param {import("./chunks.js").Stream[]} streams
 * @returns {Int32Array[]} symbols of every stream, all within their alphabets
 */
export function decodeChunk(coder, payload, streams) {
  const found = decodeStreams(coder, payload, streams);
  found.forEach((symbols, i) => refuseOutside(symbols, streams[i].alphabetSize));
  return found;
}

function decodeStreams(coder, payload, streams) {
  if (CHUNK_CODERS.has(coder)) return CHUNK_CODERS.get(coder)(payload, streams);
  if (TENSOR_CODERS.has(coder)) return [TENSOR_CODERS.get(coder)(payload, streams[0])];
  throw new MetaqError(`There is no coder ${coder}; the file needs a newer reader.`);
}

function refuseOutside(symbols, alphabetSize) {
  for (let i = 0; i < symbols.length; i += 1) {
    if (symbols[i] < 0 || symbols[i] >= alphabetSize) {
      throw new MetaqError(`A symbol ${symbols[i]} does not fit an alphabet of ${alphabetSize}.`);
    }
  }
}
