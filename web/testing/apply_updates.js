/**
 * Applies updates and says what came out, a JSON line for each: `node apply_updates.js < LINES`, where a line is the path of a file
 * and, after tabs, of updates that are applied to it one after the other.
 *
 * A line has either `error`, the sentence of a MetaqError, or `tensors` (name, dtype, shape, SHA-256 of the bytes, whether it is
 * one of the first file's) and `metadata` as pairs. Any other error ends the process.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { applyUpdate, decode, MetaqError } from "../metaq/index.js";

const MAX_BYTES = 2 ** 26;
const lines = readFileSync(0, "utf8")
  .split("\n")
  .filter((line) => line !== "");
const bases = new Map();
for (const line of lines) console.log(JSON.stringify(found(...line.split("\t"))));

function bytesOf(path) {
  return new Uint8Array(readFileSync(path));
}

/** The model of a first file, which is decoded once. */
function baseOf(path) {
  if (!bases.has(path)) bases.set(path, decode(bytesOf(path), { maxBytes: MAX_BYTES }));
  return bases.get(path);
}

function found(path, ...updates) {
  try {
    const base = baseOf(path);
    const model = updates.reduce((last, update) => applyUpdate(last, bytesOf(update), { maxBytes: MAX_BYTES }), base);
    return {
      tensors: [...model.tensors].map(([name, tensor]) => ({
        name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        sha256: createHash("sha256").update(tensor.bytes).digest("hex"),
        isShared: base.tensors.get(name) === tensor,
      })),
      metadata: [...model.metadata],
    };
  } catch (error) {
    if (error instanceof MetaqError) return { error: error.message };
    throw error;
  }
}
