/**
 * Decodes files by WebAssembly, as decode_files.js does by JavaScript: `node decode_by_wasm.js < PATHS`. With
 * `--without` as its argument there is no WebAssembly.
 */
import { readFileSync } from "node:fs";
import { factsOf } from "./model_facts.js";

const isWithout = process.argv[2] === "--without";
if (isWithout) delete globalThis.WebAssembly;
const { decodeInWorker, MetaqError } = await import("../metaq/index.js");
const { wasmModule } = await import("../metaq/wasm.js");
if (((await wasmModule()) === undefined) !== isWithout) throw new Error("WebAssembly is not as it should be.");

const paths = readFileSync(0, "utf8")
  .split("\n")
  .filter((line) => line !== "");
for (const path of paths) console.log(JSON.stringify(await found(new Uint8Array(readFileSync(path)))));

async function found(bytes) {
  try {
    return await factsOf(await decodeInWorker(bytes, { maxBytes: 2 ** 26 }));
  } catch (error) {
    if (error instanceof MetaqError) return { error: error.message };
    throw error;
  }
}
