/** What a page shows of a tensor instead of its elements. */
export const BINS = 64;

/**
 * @typedef {object} TensorFigures
 * @property {string} name
 * @property {string} dtype
 * @property {number[]} shape
 * @property {number} elements
 * @property {number} bytes as restored
 * @property {number} least element that is finite, 0 if there is none
 * @property {number} largest element that is finite, 0 if there is none
 * @property {number} zeros how many elements are 0
 * @property {number} odd how many are infinite or not a number
 * @property {Uint32Array} bins how many of the finite elements are in equal parts between the least and the largest
 */

/** @param {import("./metaq/tensor.js").Tensor} tensor @returns {TensorFigures} complex numbers count as two elements */
export function figuresOf(tensor) {
  const { name, dtype, shape, bytes } = tensor;
  const values = tensor.values();
  let [least, largest, zeros, odd] = [Infinity, -Infinity, 0, 0];
  for (let i = 0; i < values.length; i += 1) {
    const value = Number(values[i]);
    if (!Number.isFinite(value)) {
      odd += 1;
      continue;
    }
    if (value === 0) zeros += 1;
    if (value < least) least = value;
    if (value > largest) largest = value;
  }
  if (least > largest) [least, largest] = [0, 0];
  const facts = { name, dtype, shape, elements: values.length, bytes: bytes.length, least, largest, zeros, odd };
  return { ...facts, bins: binsOf(values, least, largest) };
}

function binsOf(values, least, largest) {
  const bins = new Uint32Array(BINS);
  const step = (largest - least) / BINS;
  for (let i = 0; i < values.length; i += 1) {
    const value = Number(values[i]);
    if (!Number.isFinite(value)) continue;
    bins[step > 0 ? Math.min(Math.floor((value - least) / step), BINS - 1) : BINS >> 1] += 1;
  }
  return bins;
}
