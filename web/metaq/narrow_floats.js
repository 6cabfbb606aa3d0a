/**
 * @typedef {object} NarrowType
 * @property {number} mantissaBits
 * @property {number} bias of the exponent
 * @property {number} largestBits bit pattern of the largest finite value
 * @property {number} beyondBits bit pattern of what is rounded beyond that value
 * @property {number} signBit
 * @property {boolean} hasInfinities whether all exponents of ones are infinities and NaN, or one pattern alone is NaN
 */

/** @type {NarrowType} */
export const FLOAT16 = {
  mantissaBits: 10,
  bias: 15,
  largestBits: 0x7bff,
  beyondBits: 0x7c00,
  signBit: 0x8000,
  hasInfinities: true,
};
/** @type {NarrowType} */
export const FLOAT8_E4M3FN = {
  mantissaBits: 3,
  bias: 7,
  largestBits: 0x7e,
  beyondBits: 0x7e,
  signBit: 0x80,
  hasInfinities: false,
};
/** @type {NarrowType} */
export const FLOAT8_E5M2 = {
  mantissaBits: 2,
  bias: 15,
  largestBits: 0x7b,
  beyondBits: 0x7b,
  signBit: 0x80,
  hasInfinities: true,
};

/**
 * @param {number} value a number or an infinity
 * @param {NarrowType} type
 * @returns {number} the bit pattern nearest to `value`, of two the even one; beyond the largest finite value that of the type
 */
export function bitsOf(value, type) {
  const sign = value < 0 || Object.is(value, -0) ? type.signBit : 0;
  const size = Math.abs(value);
  const exponent = Math.max(exponentOf(size), 1 - type.bias);
  const mantissa = roundHalfToEven(size * 2 ** (type.mantissaBits - exponent));
  const isSubnormal = mantissa < 2 ** type.mantissaBits;
  const bits = isSubnormal ? mantissa : (exponent + type.bias - 1) * 2 ** type.mantissaBits + mantissa;
  return sign | Math.min(bits, type.beyondBits);
}

/**
 * @param {number} bits
 * @param {NarrowType} type
 * @returns {number} the value of a bit pattern, NaN and infinities included
 */
export function valueOf(bits, type) {
  const unsigned = bits & (type.signBit - 1);
  const sign = bits & type.signBit ? -1 : 1;
  if (unsigned > type.largestBits)
    return type.hasInfinities && unsigned === type.largestBits + 1 ? sign * Infinity : NaN;
  const exponent = unsigned >>> type.mantissaBits;
  const mantissa = unsigned & (2 ** type.mantissaBits - 1);
  if (exponent === 0) return sign * mantissa * 2 ** (1 - type.bias - type.mantissaBits);
  return sign * (mantissa + 2 ** type.mantissaBits) * 2 ** (exponent - type.bias - type.mantissaBits);
}

const scratch = new DataView(new ArrayBuffer(8));

/** @param {number} value finite, rounded to float32 first @returns {number} bit pattern of bfloat16, ties to even */
export function bfloat16BitsOf(value) {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  return Math.floor((bits + 0x7fff + ((bits >>> 16) & 1)) / 65536) & 0xffff;
}

/** @param {number} bits @returns {number} value of a bit pattern of bfloat16 */
export function bfloat16ValueOf(bits) {
  scratch.setUint32(0, bits * 65536);
  return scratch.getFloat32(0);
}

/** The e with 2^e <= size < 2^(e+1); that of the smallest normal double for what is smaller. */
function exponentOf(size) {
  scratch.setFloat64(0, size);
  return Math.max((scratch.getUint16(0) >>> 4) - 1023, -1022);
}

function roundHalfToEven(value) {
  const below = Math.floor(value);
  const left = value - below;
  if (left < 0.5 || (left === 0.5 && below % 2 === 0)) return below;
  return below + 1;
}
