/** What a worker does for a page or, where there are no workers, the page itself. */
import { Arriving } from "./arriving.js";
import { decodeArriving, decodeTensor } from "./decoding.js";
import { MetaqError } from "./errors.js";
import { onnxModel } from "./onnx_model.js";

const TELLING_INTERVAL_MS = 50;

/**
 * By name; each is told its input, whom it tells how far it is (`{ done, total }`, in bytes), and what ends it.
 * @type {Record<string, (input: object, tell: (progress: object) => void, signal?: AbortSignal) => Promise<object>>}
 */
export const TASKS = {
  async model({ url, bytes, maxBytes }, tell, signal) {
    const file = bytes ? Arriving.of(bytes) : await Arriving.fetch(url, { signal });
    return decodeArriving(file, { maxBytes, signal, onDecoded: seldom(tell) });
  },

  tensor({ url, name, maxBytes }, tell, signal) {
    return decodeTensor(url, name, { maxBytes, signal });
  },

  async onnx({ url, path }, tell, signal) {
    const file = await Arriving.fetch(url, { signal, onFetched: seldom(tell) });
    return onnxModel(await decodeArriving(file, { signal }), { path });
  },
};

/** @param {Error} error @returns {string} what a page is told of it */
export function sentenceOf(error) {
  if (error instanceof MetaqError) return error.message;
  if (error instanceof RangeError) return "There is not enough memory here to decode the file.";
  return `The file cannot be decoded: ${error.message}.`;
}

/** Tells the start, the first step, the last, and others not more often than eyes can see. */
function seldom(tell) {
  let told = -Infinity;
  return (done, total) => {
    const now = performance.now();
    if (done !== total && now - told < TELLING_INTERVAL_MS) return;
    if (done > 0) told = now;
    tell({ done, total });
  };
}
