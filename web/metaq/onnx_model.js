import { MetaqError } from "./errors.js";
import { carriedFiles } from "./frames.js";

/**
 * @typedef {object} OnnxModel
 * @property {string} name path of the model in the folder that it came from
 * @property {Uint8Array} bytes of the model
 * @property {{path: string, data: Uint8Array}[]} externalData files that tensors of the model lie in, by their paths
 *   from it
 * @property {Map<string, Uint8Array>} files that travel with it, by their paths
 */

/**
 * The ONNX model that a file was made of.
 * @param {import("./decode.js").Model} decoded
 * @param {{path?: string, maxBytes?: number}} [options] `maxBytes` bounds what the files take
 * @returns {OnnxModel}
 */
export function onnxModel(decoded, { path, maxBytes } = {}) {
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
