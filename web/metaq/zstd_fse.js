import { ForwardBits } from "./zstd_bits.js";
import { damaged } from "./zstd_errors.js";

const LEAST_ACCURACY_BITS = 5;
/** The probability of a symbol that is rarer than any other: one state, which tells nothing about the next one. */
const LESS_THAN_ONE = -1;

/**
 * A table of finite state entropy (RFC 8878, 4.1): a state means a symbol, and the next state is a first one plus bits.
 * @typedef {object} FseTable
 * @property {number} accuracyBits the binary logarithm of the number of states
 * @property {Uint8Array} symbols a state
 * @property {Uint8Array} bits a state, to be read for the next one
 * @property {Uint16Array} firsts a state, the next one if those bits are zero
 */

/**
 * @param {Uint8Array} bytes which begin with the description of a table
 * @param {number} mostAccuracyBits
 * @param {number} lastSymbol
 * @returns {{table: FseTable, size: number}} the table and the bytes of its description
 */
export function readFseTable(bytes, mostAccuracyBits, lastSymbol) {
  const bits = new ForwardBits(bytes);
  const accuracyBits = LEAST_ACCURACY_BITS + bits.take(4);
  if (accuracyBits > mostAccuracyBits) throw damaged("a table has too many states");
  const probabilities = readProbabilities(bits, 1 << accuracyBits, lastSymbol);
  return { table: makeFseTable(probabilities, accuracyBits), size: bits.bytesRead };
}

function readProbabilities(bits, states, lastSymbol) {
  const probabilities = [];
  let left = states;
  while (left > 0) {
    if (probabilities.length > lastSymbol) throw damaged("a table has too many symbols");
    const probability = readProbability(bits, left);
    probabilities.push(probability);
    left -= Math.abs(probability);
    if (probability === 0) readZeros(bits, probabilities, lastSymbol);
  }
  return probabilities;
}

/** Numbers from 0 to `left` + 1, the lower ones in a bit less where both do not fill all words. */
function readProbability(bits, left) {
  const count = 32 - Math.clz32(left + 1);
  const half = 1 << (count - 1);
  const short = 2 * half - 2 - left;
  const low = bits.take(count - 1);
  if (low < short) return low - 1;
  return low + (bits.bit() ? half - short : 0) - 1;
}

/** After a probability of zero: how many more follow, three at most said by one pair of bits. */
function readZeros(bits, probabilities, lastSymbol) {
  for (let more = 3; more === 3;) {
    more = bits.take(2);
    if (probabilities.length + more > lastSymbol + 1) throw damaged("a table has too many symbols");
    for (let i = 0; i < more; i += 1) probabilities.push(0);
  }
}

/**
 * @param {number[]} probabilities of every symbol, in states
 * @param {number} accuracyBits
 * @returns {FseTable}
 */
export function makeFseTable(probabilities, accuracyBits) {
  const states = 1 << accuracyBits;
  const symbols = spreadSymbols(probabilities, states);
  const bits = new Uint8Array(states);
  const firsts = new Uint16Array(states);
  const next = probabilities.map((probability) => Math.abs(probability));
  symbols.forEach((symbol, state) => {
    const number = next[symbol]++;
    bits[state] = accuracyBits - (31 - Math.clz32(number));
    firsts[state] = (number << bits[state]) - states;
  });
  return { accuracyBits, symbols, bits, firsts };
}

function spreadSymbols(probabilities, states) {
  const symbols = new Uint8Array(states);
  let end = states;
  probabilities.forEach((probability, symbol) => {
    if (probability === LESS_THAN_ONE) symbols[--end] = symbol;
  });
  const step = (states >> 1) + (states >> 3) + 3;
  let at = 0;
  probabilities.forEach((probability, symbol) => {
    for (let i = 0; i < probability; i += 1) {
      symbols[at] = symbol;
      do at = (at + step) & (states - 1);
      while (at >= end);
    }
  });
  return symbols;
}

/** @param {number} symbol @returns {FseTable} the table of a single state, which means this symbol */
export function constantFseTable(symbol) {
  return { accuracyBits: 0, symbols: Uint8Array.of(symbol), bits: Uint8Array.of(0), firsts: Uint16Array.of(0) };
}
