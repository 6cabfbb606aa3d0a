import { MetaqError } from "./errors.js";
import { decodedTensors, DEFAULT_MAX_BYTES, openFile, VERSION } from "./file.js";
import { bytesOf } from "./given.js";
import { inDigits } from "./identity.js";

/**
 * A model as a file holds it.
 * @typedef {object} Model
 * @property {number} version of the format
 * @property {Map<string, import("./tensor.js").Tensor>} tensors in the order of their names
 * @property {Map<string, string | number | bigint>} metadata
 */

/**
 * Decode a file that is whole in memory.
 *
 * Quantised tensors come out as they do everywhere, to the bit. Whatever is wrong with the file is a {@link MetaqError};
 * nothing is executed, and no more memory is asked for than the tensors need, up to a few times as much.
 *
 * @param {import("./given.js").Bytes} bytes
 * @param {{maxBytes?: number}} [options] largest sum of the sizes of all tensors in bytes, 2 GiB by default
 * @returns {Model}
 */
export function decode(bytes, { maxBytes = DEFAULT_MAX_BYTES } = {}) {
  const file = openFile(bytesOf(bytes), maxBytes);
  if (file.update) {
    const base = inDigits(file.update.base);
    throw new MetaqError(
      `The file is an update of the model ${base}, no model itself; decode that one and use applyUpdate(base, bytes).`,
    );
  }
  return { version: VERSION, tensors: decodedTensors(file), metadata: file.metadata };
}
