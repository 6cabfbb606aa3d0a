import { inByteOrder } from "./byte_order.js";
import { ELEMENT_TYPES } from "./element_types.js";
import { Sha256 } from "./sha256.js";

const IDENTITY_BYTES = 8;
const NUMBERS = new Map(ELEMENT_TYPES.map(({ name }, number) => [name, number]));

/**
 * Bytes that two models have in common if they have the same tensors, bit for bit, and hardly otherwise.
 * @param {Map<string, import("./tensor.js").Tensor>} tensors without carried files
 * @returns {Uint8Array} 8 bytes
 */
export function identityOf(tensors) {
  const sum = new Sha256();
  const encoder = new TextEncoder();
  for (const [name, { dtype, shape, bytes }] of inByteOrder(tensors)) {
    const encoded = encoder.encode(name);
    sum.update(varint(encoded.length)).update(encoded);
    sum.update([NUMBERS.get(dtype), shape.length, ...shape.flatMap(varint)]).update(bytes);
  }
  return sum.digest().subarray(0, IDENTITY_BYTES);
}

/** @param {Uint8Array} identity @returns {string} hexadecimal digits */
export function inDigits(identity) {
  return Array.from(identity, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {number} value @returns {number[]} bytes of a varint */
export function varint(value) {
  const bytes = [];
  let left = value;
  for (; left > 127; left = Math.floor(left / 128)) bytes.push((left % 128) + 128);
  return [...bytes, left];
}
