import { MetaqError } from "./errors.js";
import { floorDiv, level } from "./small_arithmetic.js";
import { TrellisState } from "./trellis.js";

const LARGEST_ERROR = 4095;
const FIRST_VOTES = 1;
const MOST_VOTES = 8;

/** What the deep recipe knows of the symbols of a stream before the one that is next. */
export class History {
  /** @param {Parameters<import("./small_deep.js").DeepModel["decodeStream"]>[0]} stream */
  constructor(stream) {
    Object.assign(this, stream);
    this.hints = stream.hints;
    this.largest = this.alphabetSize - 1;
    this.symbols = new Int32Array(this.count);
    this.residuals = new Int32Array(this.count);
    this.errors = new Int32Array(this.count);
    this.position = 0;
    this.flags = 0;
    this.columnCounts = new Int32Array(this.hasRows ? this.rowLength : 0);
    this.rowCount = 0;
    this.base = this.mode;
    this.votes = FIRST_VOTES;
    this.expected = 16 * this.mode;
    this.trellis = new TrellisState(this.trellisBits, floorDiv(this.alphabetSize - 1, 2));
    this.distances = [1, this.period, this.period + 1, this.period - 1, 2, this.rowLength];
  }

  startRow() {
    this.rowCount = 0;
    this.base = this.mode;
    this.votes = FIRST_VOTES;
    this.trellis.restart();
  }

  /** A row of nothing but the mode. */
  skipRow() {
    this.symbols.fill(this.mode, this.position, this.position + this.rowLength);
    this.position += this.rowLength;
  }

  /** Find the values of the contexts but that of hints, and the classes of the experts. */
  look(column, values, classes) {
    const { hasRows, rowLength, position } = this;
    const left = this.#residual(1);
    const above = hasRows ? this.#residual(rowLength) : 0;
    const above2 = hasRows ? this.#residual(2 * rowLength) : 0;
    const aboveLeft = hasRows && column > 0 ? this.#residual(rowLength + 1) : 0;
    const aboveRight = hasRows && column < rowLength - 1 ? this.#residual(rowLength - 1) : 0;
    const near = level(4 * (2 * Math.abs(left) + Math.abs(this.#residual(2)) + Math.abs(above)));
    const across = hasRows ? level(2 * this.#error(rowLength) + this.#error(2 * rowLength)) : 0;
    const periodic = position < this.period ? this.#error(1) : this.#error(Math.max(this.period, 1));
    const along = level(2 * this.#error(1) + periodic + this.#error(2));
    const columnDensity = hasRows ? density(this.columnCounts[column], floorDiv(position, rowLength)) : 0;
    const rowDensity = density(this.rowCount, column);
    const leftSize = Math.min(Math.abs(left), 2);
    this.expected = this.#expectation();

    values[0] = this.trellis.state & 1;
    values[1] = this.flags & 63;
    values[2] =
      24 * leftSize +
      8 * Math.min(Math.abs(above), 2) +
      4 * isZero(aboveLeft) +
      2 * isZero(aboveRight) +
      isZero(above2);
    values[3] = columnDensity;
    values[4] = rowDensity;
    values[5] = 32 * columnDensity + rowDensity;
    values[6] = 2 * onesOf(this.flags) + isZero(left);
    values[7] = 9 * (1 + Math.sign(left)) + 3 * (1 + Math.sign(above)) + leftSize;
    values[8] = 16 * Math.min(near, 15) + Math.min(across, 15);
    values[9] = 32 + (this.hints ? this.hints[position] : this.#offset());
    values[11] = 3 * (20 + clip(left, -20, 20)) + 1 + Math.sign(above);
    if (this.hints) values[12] = this.#surroundings(column, left, above);
    else values[12] = hasRows ? column & 0xffff : 0;

    classes[0] = along;
    classes[1] = across;
    classes[2] = 24 * along + across;
    classes[3] = 24 * near + Math.min(columnDensity, 23);
  }

  /** Take the next residual. @returns {number} its symbol */
  push(residual, column) {
    const { position } = this;
    const symbol = this.base + residual;
    if (symbol < 0 || symbol > this.largest)
      throw new MetaqError(`A symbol ${symbol} does not fit an alphabet of ${this.alphabetSize}.`);
    this.symbols[position] = symbol;
    this.residuals[position] = residual;
    this.errors[position] = Math.min(Math.abs(16 * symbol - this.expected), LARGEST_ERROR);
    this.flags = ((this.flags << 1) | (residual === 0 ? 0 : 1)) >>> 0;
    if (symbol !== this.mode) {
      this.rowCount += 1;
      if (this.hasRows) this.columnCounts[column] += 1;
    }
    if (this.followsSymbols) this.#vote(symbol, residual);
    this.trellis.move(symbol);
    this.position += 1;
    return symbol;
  }

  #vote(symbol, residual) {
    if (residual === 0) this.votes = Math.min(this.votes + 1, MOST_VOTES);
    else if (this.votes > 0) this.votes -= 1;
    else this.base = symbol;
  }

  /** Sixteen times what a linear prediction makes of the symbols before. */
  #expectation() {
    if (this.period === 0) return 16 * this.mode;
    let sum = 0;
    for (let j = 0; j < this.distances.length; j += 1) {
      const from = this.position - this.distances[j];
      if (from >= 0) sum += this.coefficients[j] * (this.symbols[from] - this.mode);
    }
    return 16 * this.mode + Math.floor((16 * sum) / 32);
  }

  /** How far the prediction is from the base. */
  #offset() {
    return clip(Math.floor((this.expected - 16 * this.base) / 8), -32, 31);
  }

  /** What the base of an update tells of the symbol and of those around it, and whether those before differ. */
  #surroundings(column, left, above) {
    const { hints, hasRows, rowLength, position, count } = this;
    const columns = hasRows ? rowLength : count;
    const isTold = (isThere, place) => (isThere && hints[place] !== 0 ? 1 : 0);
    return (
      64 * Math.min(Math.abs(hints[position]), 3) +
      32 * isTold(column > 0, position - 1) +
      16 * isTold(column < columns - 1, position + 1) +
      8 * isTold(hasRows && position >= rowLength, position - rowLength) +
      4 * isTold(hasRows && position + rowLength < count, position + rowLength) +
      2 * (left === 0 ? 0 : 1) +
      (above === 0 ? 0 : 1)
    );
  }

  #residual(distance) {
    return this.position >= distance ? this.residuals[this.position - distance] : 0;
  }

  #error(distance) {
    return this.position >= distance ? this.errors[this.position - distance] : 0;
  }
}

/** How often another symbol than the mode was there, 0 to 31. */
function density(hits, seen) {
  if (hits === 0) return Math.min(seen === 0 ? 0 : 32 - Math.clz32(seen), 7);
  const group = hits === 1 ? 0 : hits < 4 ? 1 : 2;
  let k = 0;
  while (k < 7 && hits * 2 ** k < seen) k += 1;
  return 8 + 8 * group + k;
}

function onesOf(flags) {
  let ones = 0;
  for (let left = flags; left !== 0; left = (left & (left - 1)) >>> 0) ones += 1;
  return ones;
}

function isZero(value) {
  return value === 0 ? 1 : 0;
}

function clip(value, lowest, highest) {
  return Math.max(lowest, Math.min(highest, value));
}
