import { Combiner } from "./combining.js";
import { MetaqError } from "./errors.js";
import { valueOfNumerator } from "./grids.js";
import { factorAt } from "./scales.js";
import { numeratorsOf } from "./trellis.js";

/**
 * @typedef {object} Basis
 * @property {Float64Array} numerators of its rows, one after the other
 * @property {number} size
 * @property {import("./grids.js").Grid} grid
 */

/**
 * Elements of a quantised tensor.
 * @param {import("./header.js").Entry} entry
 * @param {Int32Array} symbols bucket indices in the order of the scan
 * @param {Basis} [basis]
 * @returns {Uint8Array} little-endian, in C order
 */
export function restoredBytes(entry, symbols, basis) {
  const numerators = numeratorsOf(symbols, entry.grid.count, entry.trellisBits, trellisRowLength(entry));
  if (basis) return combinedBytes(entry, numerators, basis);
  const { type, grid, scales } = entry;
  const bytes = new Uint8Array(entry.elements * type.size);
  const view = new DataView(bytes.buffer);
  const placeOf = placeInOrder(entry);
  const factorOf = scales ? factorAt(scales, entry) : () => 1;
  for (let i = 0; i < numerators.length; i += 1) {
    const place = placeOf(i);
    type.write(view, place * type.size, valueOfNumerator(grid, numerators[i]) * factorOf(place));
  }
  return bytes;
}

/** The integers that rows of a basis are made of. @param {Int32Array} symbols @returns {Float64Array} */
export function basisNumerators(symbols, grid) {
  return Float64Array.from(numeratorsOf(symbols, grid.count, 0, 1));
}

function combinedBytes(entry, numerators, basis) {
  const { name, type, elements, grid, scales } = entry;
  const unit = (grid.radius * basis.grid.radius) / (grid.count * basis.grid.count);
  const bytes = new Uint8Array(elements * type.size);
  const view = new DataView(bytes.buffer);
  const factorOf = scales ? factorAt(scales, entry) : () => 1;
  if (elements === 0) return bytes;
  const combiner = new Combiner(basis.numerators, basis.size, grid.count);
  const sums = new Float64Array(basis.size);
  for (let start = 0; start < elements; start += basis.size) {
    combiner.combine(numerators, start, sums);
    for (let j = 0; j < basis.size; j += 1) {
      const value = sums[j] * unit * factorOf(start + j);
      if (!(Math.abs(value) <= type.largest))
        throw new MetaqError(`${name} has values that are too large for ${type.name}.`);
      type.write(view, (start + j) * type.size, value);
    }
  }
  return bytes;
}

function rowsOf({ shape }) {
  return shape.length > 1 ? shape[0] : 1;
}

function trellisRowLength(entry) {
  const rows = rowsOf(entry);
  return Math.max(entry.byColumns ? rows : entry.elements / Math.max(rows, 1), 1);
}

/**
 * Where the symbols of a tensor lie.
 * @param {import("./header.js").Entry} entry
 * @returns {(i: number) => number} from the number of a symbol in the order of the scan to that of its element in C order
 */
export function placeInOrder(entry) {
  if (!entry.byColumns) return (i) => i;
  const rows = rowsOf(entry);
  const columns = entry.elements / rows;
  return (i) => (i % rows) * columns + Math.floor(i / rows);
}
