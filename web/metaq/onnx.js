/**
 * ONNX models from `.metaq` files, for onnxruntime-web:
 *
 *     import { loadOnnx } from "./metaq/onnx.js";
 *     const { bytes, externalData, files } = await loadOnnx("model.metaq", { onProgress: (done, total) => … });
 *     const session = await ort.InferenceSession.create(bytes, { externalData });
 *     const tokenizer = JSON.parse(new TextDecoder().decode(files.get("tokenizer.json")));
 */
import { MetaqError } from "./errors.js";
import { carriedFiles } from "./frames.js";
import { decode } from "./index.js";

/**
 * @typedef {object} OnnxModel
 * @property {string} name path of the model in the folder that it came from
 * @property {Uint8Array} bytes of the model
 * @property {{path: string, data: Uint8Array}[]} externalData files that tensors of the model lie in, by their paths from it
 * @property {Map<string, Uint8Array>} files that travel with it, by their paths
 */

/**
 * Fetch and decode a `.metaq` file that was made of an ONNX file or of a folder with one, in a worker.
 * @param {string | URL} url
 * @param {object} [options]
 * @param {(done: number, total?: number) => void} [options.onProgress] is told the bytes fetched, and all where the server says
 * @param {AbortSignal} [options.signal] ends it
 * @param {string} [options.path] of the model, where the file has several
 * @returns {Promise<OnnxModel>} rejected with a {@link MetaqError} if it cannot be fetched or read
 */
export function loadOnnx(url, { onProgress, signal, path } = {}) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    const stop = () => finish(() => reject(signal.reason));
    const finish = (settle) => {
      worker.terminate();
      signal?.removeEventListener("abort", stop);
      settle();
    };
    signal?.addEventListener("abort", stop);
    worker.addEventListener("message", ({ data: { progress, model, error } }) => {
      if (progress) onProgress?.(progress.done, progress.total);
      else finish(() => (model ? resolve(model) : reject(new MetaqError(error))));
    });
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      finish(() => reject(new MetaqError("The worker that decodes .metaq files did not start or broke down.")));
    });
    worker.postMessage({ url: new URL(url, globalThis.document?.baseURI ?? location.href).href, path });
  });
}

/**
 * The same of bytes that are there already, at once.
 * @param {Uint8Array} bytes of a `.metaq` file
 * @param {{path?: string, maxBytes?: number}} [options] `maxBytes` bounds what the tensors take, and files around them
 * @returns {OnnxModel}
 */
export function decodeOnnx(bytes, { path, maxBytes } = {}) {
  const decoded = decode(bytes, { maxBytes });
  const { files, framed } = carriedFiles(decoded, { maxBytes });
  const name = path ?? onlyModel([...framed.keys()]);
  const model = framed.get(name);
  if (!model) throw new MetaqError(`The file has no ONNX model ${name}.`);
  const folder = name.slice(0, name.lastIndexOf("/") + 1);
  const isData = (other) => !isModel(other) && other.startsWith(folder);
  const externalData = [...framed]
    .filter(([other]) => isData(other))
    .map(([other, data]) => {
      return { path: other.slice(folder.length), data };
    });
  return { name, bytes: model, externalData, files };
}

function onlyModel(paths) {
  const models = paths.filter(isModel);
  if (models.length === 0) throw new MetaqError("The file was not made of an ONNX model, or of a folder with one.");
  if (models.length > 1) throw new MetaqError(`The file has several ONNX models: ${models.join(", ")}; name one.`);
  return models[0];
}

function isModel(path) {
  return path.toLowerCase().endsWith(".onnx");
}
