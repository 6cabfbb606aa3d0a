/** The elements of one tensor. */
export class Tensor {
  /**
   * @param {import("./header.js").Entry} entry
   * @param {Uint8Array} bytes little-endian elements in C order
   */
  constructor({ name, type, shape }, bytes) {
    this.name = name;
    this.dtype = type.name;
    this.shape = shape;
    this.bytes = bytes;
    this.#type = type;
  }

  #type;

  /**
   * The elements as a typed array of their own: float16, bfloat16 and float8 as float32, complex numbers as pairs, bool as 0 and 1.
   * @returns {Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array
   *   | BigInt64Array | BigUint64Array}
   */
  values() {
    return this.#type.read(Uint8Array.from(this.bytes).buffer);
  }
}
