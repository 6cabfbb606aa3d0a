import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

/**
 * @typedef {{coder: string, name: string, size: number, sha256: string, options: ?object, data: Uint8Array}} Vector
 *   a stream, and the size and hash of what is to come out of it
 */

/** @param {string} coder @returns {Vector[]} as tests/web/make_generic_vectors.py made them */
export function vectorsOf(coder) {
  const all = JSON.parse(readFileSync(new URL("generic_vectors.json", import.meta.url), "utf8"));
  return all
    .filter((vector) => vector.coder === coder)
    .map((vector) => ({ ...vector, data: new Uint8Array(Buffer.from(vector.data, "base64")) }));
}

/** @param {Uint8Array} bytes @returns {string} */
export function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}
