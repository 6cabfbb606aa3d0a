import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";
import { decodeFast } from "./fast.js";
import { decodeSmall } from "./small.js";

/** Coders by their numbers. */
const CODERS = [decodeConstant, decodeSmall, decodeFast];

/**
 * Decode a chunk of bucket indices.
 * @param {number} coder
 * @param {Uint8Array} payload
 * @param {import("./chunks.js").Stream[]} streams
 * @returns {Int32Array[]} symbols of every stream, all within their alphabets
 */
export function decodeChunk(coder, payload, streams) {
  const decodeStreams = CODERS[coder];
  if (!decodeStreams) throw new MetaqError(`There is no coder ${coder}; the file needs a newer reader.`);
  const found = decodeStreams(payload, streams);
  found.forEach((symbols, i) => refuseOutside(symbols, streams[i].alphabetSize));
  return found;
}

/** One symbol for every stream. */
function decodeConstant(payload, streams) {
  const cursor = new Cursor(payload, "A chunk of the coder constant");
  const found = streams.map(({ count, alphabetSize }) =>
    new Int32Array(count).fill(cursor.varintUpTo(alphabetSize - 1, "its symbol")),
  );
  cursor.finish();
  return found;
}

function refuseOutside(symbols, alphabetSize) {
  for (let i = 0; i < symbols.length; i += 1) {
    if (symbols[i] < 0 || symbols[i] >= alphabetSize) {
      throw new MetaqError(`A symbol ${symbols[i]} does not fit an alphabet of ${alphabetSize}.`);
    }
  }
}
