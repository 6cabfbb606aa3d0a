/**
 * ONNX models from `.metaq` files, for onnxruntime-web:
 *
 *     import { loadOnnx } from "./metaq/onnx.js";
 *     const { bytes, externalData, files } = await loadOnnx("model.metaq", { onProgress: (done, total) => … });
 *     const session = await ort.InferenceSession.create(bytes, { externalData });
 *     const tokenizer = JSON.parse(new TextDecoder().decode(files.get("tokenizer.json")));
 */
import { decode } from "./decode.js";
import { absolute } from "./given.js";
import { inWorker } from "./in_worker.js";
import { onnxModel } from "./onnx_model.js";

/** @typedef {import("./onnx_model.js").OnnxModel} OnnxModel */

/**
 * Fetch and decode a `.metaq` file that was made of an ONNX file or of a folder with one, as {@link decodeInWorker}
 * does.
 * @param {string | URL} url
 * @param {object} [options]
 * @param {(done: number, total?: number) => void} [options.onProgress] is told the bytes fetched, and all where the
 *   server says; what it throws ends decoding
 * @param {AbortSignal} [options.signal] ends it
 * @param {string} [options.path] of the model, where the file has several
 * @returns {Promise<OnnxModel>} rejected with a {@link MetaqError} if it cannot be fetched or read, and with what
 *   `onProgress` throws
 */
export async function loadOnnx(url, { onProgress, signal, path } = {}) {
  const onTold = ({ done, total }) => onProgress?.(done, total);
  return inWorker("onnx", { url: absolute(url), path }, { onTold, signal });
}

/**
 * The same of bytes that are there already, at once.
 * @param {import("./given.js").Bytes} bytes of a `.metaq` file
 * @param {{path?: string, maxBytes?: number}} [options] `maxBytes` bounds what the tensors take, and files around them
 * @returns {OnnxModel}
 */
export function decodeOnnx(bytes, { path, maxBytes } = {}) {
  return onnxModel(decode(bytes, { maxBytes }), { path, maxBytes });
}
