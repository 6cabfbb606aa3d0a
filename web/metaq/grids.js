import { MetaqError } from "./errors.js";
import { FLOAT16, valueOf } from "./narrow_floats.js";

const MOST_BUCKETS = 2 ** 24;
const FLOAT64_BYTES = 8;
const [FLOAT16_CODE, FLOAT32_CODE, DECIMAL_CODE, FIRST_STEP_CODE, LAST_STEP_CODE] = [9, 10, 11, 12, 14];
const MOST_DECIMAL_PLACES = 22;

/**
 * Uniform buckets with the values `center + radius * n / count`, n being 1 - count, 3 - count, … count - 1.
 * @typedef {object} Grid
 * @property {number} center
 * @property {number} radius
 * @property {number} count
 */

/**
 * Read the fields of all new grids.
 * @param {import("./cursor.js").Cursor} cursor
 * @param {number} number of grids
 * @returns {Grid[]}
 */
export function readGrids(cursor, number) {
  const codes = [...cursor.take(number)];
  const counts = codes.map(() => cursor.varintUpTo(MOST_BUCKETS, "a number of buckets"));
  const centers = codes.map((code) => readNumber(cursor, code >>> 4));
  const radii = codes.map((code, i) => readRadius(cursor, code & 15, counts[i]));
  return codes.map((_, i) => checked({ center: centers[i], radius: radii[i], count: counts[i] }));
}

/** Value of a bucket, or of the numerator that a trellis makes of it. @param {Grid} grid @param {number} numerator */
export function valueOfNumerator(grid, numerator) {
  return grid.center + (grid.radius * numerator) / grid.count;
}

/** Whether every reference value is finite in an element type. */
export function fits(grid, type, factor = 1) {
  const ends = [1 - grid.count, grid.count - 1].map((numerator) => Math.abs(valueOfNumerator(grid, numerator)));
  return Math.max(...ends) * factor <= type.largest;
}

function readRadius(cursor, code, count) {
  if (code < FIRST_STEP_CODE || code > LAST_STEP_CODE) return readNumber(cursor, code);
  const stepSize = readNumber(cursor, code - FIRST_STEP_CODE + FLOAT16_CODE);
  return (stepSize * count) / 2;
}

function readNumber(cursor, code) {
  const view = new DataView(new ArrayBuffer(FLOAT64_BYTES));
  const fill = (count) => new Uint8Array(view.buffer).set(cursor.take(count));
  if (code <= FLOAT64_BYTES) {
    fill(code);
    return view.getFloat64(0);
  }
  if (code === FLOAT16_CODE) {
    fill(2);
    return valueOf(view.getUint16(0), FLOAT16);
  }
  if (code === FLOAT32_CODE) {
    fill(4);
    return view.getFloat32(0);
  }
  if (code === DECIMAL_CODE) return readDecimal(cursor);
  throw new MetaqError("A grid is described in an unknown way; the file needs a newer reader.");
}

function readDecimal(cursor) {
  const field = cursor.bigVarint();
  const places = cursor.byte();
  const digits = field >> 1n;
  if (places > MOST_DECIMAL_PLACES || digits >= 2n ** 53n)
    throw new MetaqError("A grid has a decimal number with too many digits.");
  const value = Number(digits) / 10 ** places;
  return field & 1n ? -value : value;
}

function checked(grid) {
  const { center, radius, count } = grid;
  const span = Math.abs(center) + radius;
  const isSound =
    count >= 2 && Number.isFinite(center) && Number.isFinite(radius) && radius > 0 && Number.isFinite(2 * span * count);
  if (!isSound || span + (2 * radius) / count / 4 === span) {
    throw new MetaqError(
      `A grid of ${count} buckets around ${center} with radius ${radius} has no distinct finite values.`,
    );
  }
  return grid;
}
