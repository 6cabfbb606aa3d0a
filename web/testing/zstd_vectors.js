import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const MADE = JSON.parse(readFileSync(new URL("zstd_vectors.json", import.meta.url), "utf8"));

/**
 * Streams as tests/web/make_zstd_vectors.py made them, and the size and hash of what is to come out of them.
 * @type {{name: string, size: number, sha256: string, data: Uint8Array}[]}
 */
export const VECTORS = MADE.map((vector) => ({ ...vector, data: new Uint8Array(Buffer.from(vector.data, "base64")) }));

/** @param {Uint8Array} bytes @returns {string} */
export function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}
