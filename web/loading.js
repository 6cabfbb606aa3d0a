/** From the bytes of a file to a network that runs. */
import { crc32 } from "./metaq/crc32.js";
import { decode } from "./metaq/index.js";
import { RangeDecoder } from "./metaq/small_range.js";
import { networkOf } from "./network.js";

const CHECKSUM_BYTES = 4;
/** What the tensors of a network of handwriting may take; damage can make a file ask for anything. */
const MAX_BYTES = 2 ** 23;

/**
 * @typedef {object} Model
 * @property {Uint8Array} bytes of the file
 * @property {Map<string, import("./metaq/tensor.js").Tensor>} tensors
 * @property {Map<string, string | number | bigint>} metadata
 * @property {import("./network.js").Network} network
 * @property {number} decodeMs how long the decoder took, in milliseconds
 */

/**
 * Decode a file and make its network.
 * @param {Uint8Array} bytes
 * @returns {Model} or throws a MetaqError or a NetworkError, which are sentences
 */
export function loadModel(bytes) {
  const begin = performance.now();
  const { tensors, metadata } = decode(bytes, { maxBytes: MAX_BYTES });
  const decodeMs = performance.now() - begin;
  return { bytes, tensors, metadata, network: networkOf(tensors), decodeMs };
}

/**
 * Decode a damaged file as a decoder would that checks neither the sum of all bytes nor how their code ends.
 * @param {Uint8Array} bytes
 * @returns {Model} or throws a MetaqError or a NetworkError where nothing can be made of them
 */
export function loadUnchecked(bytes) {
  const { finish } = RangeDecoder.prototype;
  RangeDecoder.prototype.finish = () => {};
  try {
    return loadModel(withFittingChecksum(bytes));
  } finally {
    RangeDecoder.prototype.finish = finish;
  }
}

function withFittingChecksum(bytes) {
  const copy = bytes.slice();
  const end = copy.length - CHECKSUM_BYTES;
  new DataView(copy.buffer).setUint32(end, crc32(copy.subarray(0, end)), true);
  return copy;
}
