import { MetaqError } from "./errors.js";

const SHORT_MATCH_BYTES = 32;

/**
 * @param {number} size in bytes
 * @returns {Uint8Array} zeros
 */
export function allocateOutput(size) {
  try {
    return new Uint8Array(size);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new MetaqError(`zstd: ${size} bytes are more than this machine can hold in one piece.`);
  }
}

/**
 * Copy a match, which may overlap itself. The caller has checked that it fits.
 * @param {Uint8Array} output
 * @param {number} position where the copy goes
 * @param {number} distance back to where it comes from, at least 1
 * @param {number} length in bytes
 */
export function copyMatch(output, position, distance, length) {
  const end = position + length;
  const start = position - distance;
  if (length < SHORT_MATCH_BYTES) {
    for (let from = start, to = position; to < end; from += 1, to += 1) output[to] = output[from];
    return;
  }
  // What was copied repeats what is before it, so that every further copy may be twice as long as the last.
  for (let filled = position; filled < end;) {
    const count = Math.min(filled - start, end - filled);
    output.copyWithin(filled, start, start + count);
    filled += count;
  }
}
