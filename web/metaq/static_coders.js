import { BitReader } from "./bit_reader.js";
import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";

const WHAT = "A tensor with a frequency table";
const MOST_PRECISION_BITS = 24;
const PROBABILITY_BITS = 24n;
const TWO_24 = 2 ** 24;
const MASK_24 = BigInt(TWO_24 - 1);
const MASK_32 = 2n ** 32n - 1n;
const MASK_64 = 2n ** 64n - 1n;

/**
 * Symbols with intervals of 24-bit probabilities.
 * @typedef {object} Intervals
 * @property {Int32Array} symbols used ones
 * @property {Int32Array} starts of their intervals, and 2^24
 */

/** Range coder. @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodeRange(payload, stream) {
  return decodeStatic(payload, stream, (code, intervals, symbols) => {
    const decoder = new RangeDecoder(code);
    for (let i = 0; i < symbols.length; i += 1) symbols[i] = decoder.decode(intervals);
    decoder.finish();
  });
}

/** Asymmetric numeral system. @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodeRans(payload, stream) {
  return decodeStatic(payload, stream, (code, intervals, symbols) => {
    const decoder = new AnsDecoder(code);
    for (let i = 0; i < symbols.length; i += 1) symbols[i] = decoder.decode(intervals);
    decoder.finish();
  });
}

function decodeStatic(payload, { count, alphabetSize }, decodeInto) {
  const cursor = new Cursor(payload, WHAT);
  const first = cursor.varintUpTo(alphabetSize - 1, "the first symbol");
  const further = cursor.varintUpTo(alphabetSize - 1, "the number of symbols");
  const symbols = new Int32Array(count);
  if (further === 0) {
    cursor.finish();
    return symbols.fill(first);
  }
  const bytes = cursor.rest();
  if (further > 8 * bytes.length) throw new MetaqError(`${WHAT} ends too early.`);
  const reader = new BitReader(bytes, WHAT);
  const intervals = readIntervals(reader, first, further, alphabetSize);
  decodeInto(bytes.subarray(reader.align()), intervals, symbols);
  return symbols;
}

function readIntervals(reader, first, further, alphabetSize) {
  const precision = reader.bits(5);
  const [gapOrder, massOrder] = [reader.bits(4), reader.bits(4)];
  const implied = reader.bits(further.toString(2).length);
  if (precision > MOST_PRECISION_BITS || implied > further) throw new MetaqError(`${WHAT} has one that is not valid.`);
  const symbols = new Int32Array(further + 1);
  const masses = [];
  symbols[0] = first;
  for (let j = 1; j <= further; j += 1) {
    const symbol = symbols[j - 1] + 1 + reader.golomb(gapOrder);
    if (symbol >= alphabetSize)
      throw new MetaqError(`${WHAT} has a symbol ${symbol} of an alphabet of ${alphabetSize}.`);
    symbols[j] = symbol;
    masses.push(1 + reader.golomb(massOrder));
  }
  const left = 2 ** precision - masses.reduce((sum, mass) => sum + mass, 0);
  if (left < 1) throw new MetaqError(`${WHAT} has masses that are too large.`);
  masses.splice(implied, 0, left);
  return { symbols, starts: startsOf(masses, precision) };
}

function startsOf(masses, precision) {
  const starts = new Int32Array(masses.length + 1);
  let before = 0;
  masses.forEach((mass, j) => {
    starts[j] = Math.floor((before * (TWO_24 - masses.length)) / 2 ** precision) + j;
    before += mass;
  });
  starts[masses.length] = TWO_24;
  return starts;
}

/** The number j with starts[j] <= quantile < starts[j + 1]. */
function intervalOf(starts, quantile) {
  let [low, high] = [0, starts.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (starts[middle] <= quantile) low = middle;
    else high = middle;
  }
  return low;
}

class RangeDecoder {
  constructor(bytes) {
    this.bytes = bytes;
    this.wordsTaken = 0;
    this.low = 0n;
    this.width = MASK_64;
    this.point = (this.#nextWord() << 32n) | this.#nextWord();
  }

  decode({ symbols, starts }) {
    const step = this.width >> PROBABILITY_BITS;
    const quantile = ((this.point - this.low) & MASK_64) / step;
    if (quantile > MASK_24) throw new MetaqError(`${WHAT} has a code that is not valid.`);
    const j = intervalOf(starts, Number(quantile));
    this.low = (this.low + step * BigInt(starts[j])) & MASK_64;
    this.width = step * BigInt(starts[j + 1] - starts[j]);
    if (this.width <= MASK_32) {
      this.low = (this.low << 32n) & MASK_64;
      this.width <<= 32n;
      this.point = ((this.point & MASK_32) << 32n) | this.#nextWord();
    }
    return symbols[j];
  }

  /** Refuses an ending that no encoder writes. */
  finish() {
    const before = 4 * (this.wordsTaken - 2);
    for (let bytes = 0; bytes <= 8; bytes += 1) {
      const unit = 1n << BigInt(8 * (8 - bytes));
      const least = ((this.low + unit - 1n) / unit) * unit;
      if (least <= MASK_64 && least - this.low < this.width) {
        if (this.point === least && this.bytes.length === before + bytes) return;
        break;
      }
    }
    throw new MetaqError(`${WHAT} has a code that does not end as it should.`);
  }

  #nextWord() {
    const at = 4 * this.wordsTaken;
    this.wordsTaken += 1;
    let word = 0n;
    for (let i = at; i < at + 4; i += 1) word = (word << 8n) | BigInt(this.bytes[i] ?? 0);
    return word;
  }
}

class AnsDecoder {
  constructor(bytes) {
    if (bytes.length > 0 && bytes[bytes.length - 1] === 0)
      throw new MetaqError(`${WHAT} has a code with a zero byte too many.`);
    this.words = littleEndianWords(bytes);
    const [last, beforeLast] = [this.words.pop() ?? 0n, this.words.pop()];
    this.state = beforeLast === undefined ? last : (last << 32n) | beforeLast;
  }

  decode({ symbols, starts }) {
    const quantile = this.state & MASK_24;
    const j = intervalOf(starts, Number(quantile));
    this.state = (this.state >> PROBABILITY_BITS) * BigInt(starts[j + 1] - starts[j]) + quantile - BigInt(starts[j]);
    if (this.state <= MASK_32 && this.words.length > 0) this.state = (this.state << 32n) | this.words.pop();
    return symbols[j];
  }

  finish() {
    if (this.state !== 0n || this.words.length > 0)
      throw new MetaqError(`${WHAT} has a code that does not end as it should.`);
  }
}

function littleEndianWords(bytes) {
  const words = [];
  for (let at = 0; at < bytes.length; at += 4) {
    const [a, b, c, d] = [0, 1, 2, 3].map((i) => BigInt(bytes[at + i] ?? 0));
    words.push(a | (b << 8n) | (c << 16n) | (d << 24n));
  }
  return words;
}
