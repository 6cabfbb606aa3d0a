/**
 * Decodes files as ONNX models and says what came out, a JSON line for each: `node fill_frames.js MAX_BYTES < LINES`, where a line
 * is a path and, after a tab, the path of the model in the file if it has to be named.
 *
 * A line has either `error`, the sentence of a MetaqError, or `files`, `framed` and `externalData`, each from paths to the
 * hexadecimal digits of the bytes, and `name` of the model; or `error` and `framed`, if there is no model to choose. Any
 * other error ends the process.
 */
import { readFileSync } from "node:fs";
import { carriedFiles } from "../metaq/frames.js";
import { decode, MetaqError } from "../metaq/index.js";
import { decodeOnnx } from "../metaq/onnx.js";

const maxBytes = Number(process.argv[2]);
const lines = readFileSync(0, "utf8")
  .split("\n")
  .filter((line) => line !== "");
for (const line of lines) {
  const [file, path] = line.split("\t");
  console.log(JSON.stringify(found(new Uint8Array(readFileSync(file)), path)));
}

function found(bytes, path) {
  const said = {};
  try {
    const { framed } = carriedFiles(decode(bytes), { maxBytes });
    said.framed = inDigits(framed);
    const { name, files, externalData } = decodeOnnx(bytes, { path, maxBytes });
    Object.assign(said, { name, files: inDigits(files) });
    said.externalData = inDigits(externalData.map(({ path: place, data }) => [place, data]));
  } catch (error) {
    if (!(error instanceof MetaqError)) throw error;
    said.error = error.message;
  }
  return said;
}

function inDigits(files) {
  return Object.fromEntries([...files].map(([path, bytes]) => [path, Buffer.from(bytes).toString("hex")]));
}
