/**
 * Decodes files and says what came out, a JSON line for each: `node decode_files.js < PATHS`, a path a line.
 *
 * A line has either `error`, the sentence of a MetaqError, or `version`, `tensors` (name, dtype, shape, SHA-256 of the bytes)
 * and `metadata` as pairs. Any other error ends the process.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { decode, MetaqError } from "../metaq/index.js";

const paths = readFileSync(0, "utf8")
  .split("\n")
  .filter((line) => line !== "");
for (const path of paths) console.log(JSON.stringify(found(new Uint8Array(readFileSync(path)))));

function found(bytes) {
  try {
    const { version, tensors, metadata } = decode(bytes, { maxBytes: 2 ** 26 });
    return {
      version,
      tensors: [...tensors.values()].map(({ name, dtype, shape, bytes: elements }) => ({
        name,
        dtype,
        shape,
        sha256: sha256(elements),
      })),
      metadata: [...metadata].map(([key, value]) => [key, typeof value, textOf(value)]),
    };
  } catch (error) {
    if (error instanceof MetaqError) return { error: error.message };
    throw error;
  }
}

/** The text of a value, or the bytes of a number. */
function textOf(value) {
  if (typeof value !== "number") return String(value);
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.toString("hex");
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}
