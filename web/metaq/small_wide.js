import { MetaqError } from "./errors.js";
import { logit } from "./logistic.js";
import { fineLevel, floorDiv, level, mixed, multiplyShift, RATES, Slots } from "./small_arithmetic.js";
import { TrellisState } from "./trellis.js";

const SLOT_LIMIT = 4000;
const LONGEST_MAGNITUDE_BITS = 31;
const INPUTS = 4;
const FIRST_WEIGHT = 17000;
const [GAIN, WEIGHT_SHIFT] = [3, 20];
const LEVELS = 24;
const MODELLED_DIGITS = 3;
const UNIT = 4096;
const LARGEST_MAGNITUDE = 2 ** 30;
const LARGEST_FACTOR = 2 ** 26;
const FIRST_SUM = 2 ** 17;
const LARGEST_SUM = 2n ** 55n - 1n;
const HALVED_FROM = 2 ** 20;
const OLDEST_ROW = 150;

/**
 * The symbols of a stream of the wide recipe.
 * @param {import("./small_range.js").RangeDecoder} decoder
 * @param {import("./chunks.js").Stream & {mode: number, hasRows: boolean}} stream
 * @returns {Int32Array}
 */
export function decodeWideStream(decoder, { count, rowLength, mode, hasRows, alphabetSize, trellisBits }) {
  const model = new MagnitudeModel(decoder);
  const scales = hasRows ? new RowScales(rowLength, alphabetSize) : new StreamScales();
  const trellis = new TrellisState(trellisBits, floorDiv(alphabetSize - 1, 2));
  const symbols = new Int32Array(count);
  const magnitudes = new Int32Array(count);
  const before = (i, distance) => (i >= distance ? magnitudes[i - distance] : 0);
  for (let i = 0; i < count; i += 1) {
    if (hasRows && i % rowLength === 0) trellis.restart();
    const hasAbove = hasRows && i >= rowLength;
    const above = hasAbove ? 2 * before(i, rowLength) + before(i, Math.max(rowLength - 1, 1)) : 0;
    const near = level(4 * (2 * before(i, 1) + before(i, 2) + above));
    const signed = model.decode(near, scales.scale(i), trellis.state & 1);
    const symbol = mode + signed;
    if (symbol < 0 || symbol >= alphabetSize)
      throw new MetaqError(`A symbol ${symbol} does not fit an alphabet of ${alphabetSize}.`);
    symbols[i] = symbol;
    magnitudes[i] = Math.abs(signed);
    scales.learn(i, magnitudes[i]);
    trellis.move(symbol);
  }
  return symbols;
}

/** How far symbols are from the mode, and on which side. */
class MagnitudeModel {
  constructor(decoder) {
    this.decoder = decoder;
    this.slots = [2, 2 * LEVELS, 4 * LEVELS, LEVELS * LEVELS].map(
      (values) => new Slots((LONGEST_MAGNITUDE_BITS + 1) * values, SLOT_LIMIT),
    );
    this.values = [2, 2 * LEVELS, 4 * LEVELS, LEVELS * LEVELS];
    this.weights = new Float64Array((LONGEST_MAGNITUDE_BITS + 1) * INPUTS).fill(FIRST_WEIGHT);
    this.signs = new Slots(1, SLOT_LIMIT);
    this.digits = new Slots((LONGEST_MAGNITUDE_BITS + 1) * 2 ** MODELLED_DIGITS, SLOT_LIMIT);
    this.chosen = new Int32Array(INPUTS);
    this.inputs = new Int32Array(INPUTS);
  }

  decode(near, scale, parity) {
    const contexts = [parity, 2 * near + parity, 2 * scale + parity, LEVELS * near + (scale >> 1)];
    let length = 0;
    while (this.#isLonger(length, contexts) === 1) {
      length += 1;
      if (length > LONGEST_MAGNITUDE_BITS)
        throw new MetaqError("A chunk of the coder small has a symbol that is too large.");
    }
    if (length === 0) return 0;
    const sign = this.decoder.decideBy(this.signs, 0) === 1 ? 1 : -1;
    return sign * this.#digits(length - 1);
  }

  #isLonger(length, contexts) {
    const { slots, chosen, inputs, weights } = this;
    let sum = 0;
    for (let j = 0; j < INPUTS; j += 1) {
      chosen[j] = this.values[j] * length + contexts[j];
      inputs[j] = logit(slots[j].probability(chosen[j]));
      sum += weights[INPUTS * length + j] * inputs[j];
    }
    const probability = mixed(sum);
    const decision = this.decoder.decide(probability);
    const error = (65536 * decision - probability) * GAIN;
    for (let j = 0; j < INPUTS; j += 1) {
      weights[INPUTS * length + j] += Math.floor((inputs[j] * error + 2 ** (WEIGHT_SHIFT - 1)) / 2 ** WEIGHT_SHIFT);
      slots[j].learn(chosen[j], decision);
    }
    return decision;
  }

  #digits(count) {
    let magnitude = 1;
    for (let digit = 0; digit < count; digit += 1) {
      const isModelled = digit < MODELLED_DIGITS;
      const slot = count * 2 ** MODELLED_DIGITS + magnitude;
      magnitude = 2 * magnitude + (isModelled ? this.decoder.decideBy(this.digits, slot) : this.decoder.plainBit());
    }
    return magnitude;
  }
}

/** How large magnitudes are expected to be, by those of the same column before and of the same row so far. */
class RowScales {
  constructor(rowLength, alphabetSize) {
    this.rowLength = rowLength;
    this.columns = new Float64Array(rowLength);
    // Sums of a row are below 2^12 * rowLength * alphabetSize, and 2^8 times as much must be exact.
    this.sums = rowLength * alphabetSize < 2 ** 32 ? new DoubleSums() : new LargeSums();
  }

  scale(i) {
    return scaleOf(this.columns[i % this.rowLength], this.sums.ratio());
  }

  learn(i, magnitude) {
    const column = i % this.rowLength;
    const row = floorDiv(i, this.rowLength);
    const found = UNIT * Math.min(magnitude, LARGEST_MAGNITUDE);
    const expected = this.columns[column];
    this.sums.add(found, expected);
    this.columns[column] = expected + multiplyShift(found - expected, RATES[Math.min(row + 1, OLDEST_ROW)], 22);
    if (column === this.rowLength - 1) this.sums.restart(this.rowLength);
  }
}

/** The same without columns: every magnitude is expected to be 1. */
class StreamScales {
  constructor() {
    this.sums = new DoubleSums();
  }

  scale() {
    return scaleOf(UNIT, this.sums.ratio());
  }

  learn(_, magnitude) {
    this.sums.add(UNIT * Math.min(magnitude, LARGEST_MAGNITUDE), UNIT);
    this.sums.halveIfLarge();
  }
}

function scaleOf(expected, ratio) {
  return fineLevel(Math.floor((Math.min(expected, LARGEST_FACTOR) * Math.min(ratio, LARGEST_FACTOR)) / 2 ** 14));
}

/** Sums of what was found and what was expected. */
class DoubleSums {
  constructor() {
    this.found = FIRST_SUM;
    this.expected = FIRST_SUM;
  }

  /** Found over expected, in units of 2^-8. */
  ratio() {
    return floorDiv(256 * this.found, this.expected);
  }

  add(found, expected) {
    this.found += found;
    this.expected += expected;
  }

  restart(rowLength) {
    this.found = this.expected = 32 * Math.max(floorDiv(this.expected, rowLength + 32), 1);
  }

  halveIfLarge() {
    if (this.expected <= HALVED_FROM) return;
    this.found = floorDiv(this.found, 2);
    this.expected = floorDiv(this.expected, 2);
  }
}

/** The same where doubles would not be exact. */
class LargeSums {
  constructor() {
    this.found = BigInt(FIRST_SUM);
    this.expected = BigInt(FIRST_SUM);
  }

  ratio() {
    return Number((256n * this.found) / this.expected);
  }

  add(found, expected) {
    this.found = atMost(this.found + BigInt(found), LARGEST_SUM);
    this.expected = atMost(this.expected + BigInt(expected), LARGEST_SUM);
  }

  restart(rowLength) {
    const mean = this.expected / BigInt(rowLength + 32);
    this.found = this.expected = 32n * (mean > 1n ? mean : 1n);
  }
}

function atMost(value, largest) {
  return value < largest ? value : largest;
}
