import {
  bfloat16BitsOf,
  bfloat16ValueOf,
  bitsOf,
  FLOAT16,
  FLOAT8_E4M3FN,
  FLOAT8_E5M2,
  valueOf,
} from "./narrow_floats.js";

/**
 * @typedef {object} ElementType
 * @property {string} name
 * @property {number} size of an element in bytes
 * @property {boolean} isQuantizable whether tensors of this type may hold bucket indices
 * @property {number} [largest] finite value, of types that may hold bucket indices
 * @property {(view: DataView, offset: number, value: number) => void} [write] rounds a double, ties to even
 * @property {(buffer: ArrayBuffer) => ArrayLike<number | bigint>} read numbers of little-endian elements
 */

/** @type {ElementType[]} numbered as in files */
export const ELEMENT_TYPES = [
  {
    ...quantizable("float32", 4, (2 - 2 ** -23) * 2 ** 127),
    write: (view, offset, value) => view.setFloat32(offset, value, true),
    read: (buffer) => new Float32Array(buffer),
  },
  {
    ...quantizable("float16", 2, 65504),
    write: (view, offset, value) => view.setUint16(offset, bitsOf(value, FLOAT16), true),
    read: (buffer) => Float32Array.from(new Uint16Array(buffer), (bits) => valueOf(bits, FLOAT16)),
  },
  {
    ...quantizable("bfloat16", 2, (2 - 2 ** -7) * 2 ** 127),
    write: (view, offset, value) => view.setUint16(offset, bfloat16BitsOf(value), true),
    read: (buffer) => Float32Array.from(new Uint16Array(buffer), bfloat16ValueOf),
  },
  {
    ...quantizable("float64", 8, Number.MAX_VALUE),
    write: (view, offset, value) => view.setFloat64(offset, value, true),
    read: (buffer) => new Float64Array(buffer),
  },
  exact("int8", Int8Array),
  exact("uint8", Uint8Array),
  exact("int16", Int16Array),
  exact("int32", Int32Array),
  exact("int64", BigInt64Array),
  exact("bool", Uint8Array),
  exact("uint16", Uint16Array),
  exact("uint32", Uint32Array),
  exact("uint64", BigUint64Array),
  { ...exact("complex64", Float32Array), size: 8 },
  { ...exact("complex128", Float64Array), size: 16 },
  float8("float8_e4m3fn", FLOAT8_E4M3FN),
  float8("float8_e5m2", FLOAT8_E5M2),
];

function exact(name, numbers) {
  const read = (buffer) => new numbers(buffer);
  return { name, size: numbers.BYTES_PER_ELEMENT, isQuantizable: false, read };
}

function quantizable(name, size, largest) {
  return { name, size, isQuantizable: true, largest };
}

function float8(name, type) {
  return {
    ...quantizable(name, 1, valueOf(type.largestBits, type)),
    write: (view, offset, value) => view.setUint8(offset, bitsOf(value, type)),
    read: (buffer) => Float32Array.from(new Uint8Array(buffer), (bits) => valueOf(bits, type)),
  };
}
