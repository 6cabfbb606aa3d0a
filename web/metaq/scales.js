import { MetaqError } from "./errors.js";

const QUARTERS = [1, 1.1875, 1.40625, 1.6875];

/**
 * Factors of the rows and columns of a tensor.
 * @typedef {object} Scales
 * @property {Float64Array} rows one for every index of the first dimension
 * @property {Float64Array} columns one for every index of the second
 * @property {number} largest factor of an element
 */

/**
 * @param {import("./cursor.js").Cursor} cursor
 * @param {import("./header.js").Entry} entry whose scales follow
 * @returns {Scales}
 */
export function readScales(cursor, { name, shape, elements }) {
  if (shape.length < 2 || elements === 0) throw new MetaqError(`${name} cannot have scales of rows and columns.`);
  const [rows, columns] = [shape[0], shape[1]].map((size) => Float64Array.from(cursor.take(size), factor));
  return { rows, columns, largest: largestOf(rows) * largestOf(columns) };
}

/**
 * The factor of an element.
 * @param {Scales} scales
 * @param {import("./header.js").Entry} entry
 * @returns {(place: number) => number} from the number of the element in C order
 */
export function factorAt({ rows, columns }, { shape, elements }) {
  const length = elements / shape[0];
  const kernel = length / shape[1];
  return (place) => rows[Math.floor(place / length)] * columns[Math.floor((place % length) / kernel)];
}

function factor(byte) {
  const exponent = byte - 128;
  return QUARTERS[exponent & 3] * 2 ** (exponent >> 2);
}

function largestOf(factors) {
  return factors.reduce((largest, each) => Math.max(largest, each), 0);
}
