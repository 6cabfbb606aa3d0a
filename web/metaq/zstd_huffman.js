import { BackwardBits } from "./zstd_bits.js";
import { damaged, endsEarly } from "./zstd_errors.js";
import { readFseTable } from "./zstd_fse.js";

const LONGEST_CODE_BITS = 11;
const MOST_WEIGHTS = 255;
const LAST_WEIGHT_SYMBOL = 255;
const FIRST_DIRECT_HEADER = 128;
const WEIGHT_ACCURACY_BITS = 6;

/**
 * A Huffman code: of as many bits as its longest code word has, what the first word is.
 * @typedef {object} HuffmanTable
 * @property {number} longestBits
 * @property {Uint16Array} entries 16 * symbol + bits of its code word
 */

/**
 * @param {Uint8Array} bytes which begin with the description of a code
 * @returns {{table: HuffmanTable, size: number}} the code and the bytes of its description
 */
export function readHuffmanTable(bytes) {
  if (bytes.length === 0) throw endsEarly();
  const header = bytes[0];
  const isDirect = header >= FIRST_DIRECT_HEADER;
  const count = header - FIRST_DIRECT_HEADER + 1;
  const size = 1 + (isDirect ? (count + 1) >> 1 : header);
  if (size > bytes.length) throw endsEarly();
  const stored = bytes.subarray(1, size);
  const weights = isDirect ? unpackWeights(stored, count) : decodeWeights(stored);
  return { table: makeTable(weights), size };
}

function unpackWeights(stored, count) {
  return Array.from({ length: count }, (_, i) => (i % 2 ? stored[i >> 1] & 15 : stored[i >> 1] >> 4));
}

/** Two states take turns. When bits run out, the state whose turn it is has no next one, and the other one is last. */
function decodeWeights(stored) {
  const { table, size } = readFseTable(stored, WEIGHT_ACCURACY_BITS, LAST_WEIGHT_SYMBOL);
  const bits = new BackwardBits(stored.subarray(size));
  let state = bits.take(table.accuracyBits);
  let other = bits.take(table.accuracyBits);
  const weights = [];
  while (weights.length < MOST_WEIGHTS - 1) {
    weights.push(table.symbols[state]);
    if (bits.left < table.bits[state]) {
      weights.push(table.symbols[other]);
      return weights;
    }
    const next = table.firsts[state] + bits.take(table.bits[state]);
    state = other;
    other = next;
  }
  throw damaged("a Huffman code has too many symbols");
}

/** @param {number[]} weights of all symbols but the last one that is used, whose weight fills the code space */
function makeTable(weights) {
  const used = weights.reduce((sum, weight) => sum + codeSpace(weight), 0);
  if (used === 0) throw damaged("a Huffman code has no symbols");
  if (used >= 2 ** LONGEST_CODE_BITS) throw damaged("a Huffman code has words that are too long");
  const longestBits = 32 - Math.clz32(used);
  const lastWeight = 1 + Math.log2(2 ** longestBits - used);
  if (!Number.isInteger(lastWeight)) throw damaged("a Huffman code does not fill its code space");
  const all = [...weights, lastWeight];
  if (all.filter((weight) => weight === 1).length < 2) throw damaged("a Huffman code has no two longest code words");
  return { longestBits, entries: makeEntries(all, longestBits) };
}

function codeSpace(weight) {
  return weight === 0 ? 0 : 2 ** (weight - 1);
}

function makeEntries(weights, longestBits) {
  const entries = new Uint16Array(1 << longestBits);
  let at = 0;
  for (let weight = 1; weight <= longestBits; weight += 1) {
    weights.forEach((ofSymbol, symbol) => {
      if (ofSymbol !== weight) return;
      entries.fill(16 * symbol + longestBits + 1 - weight, at, at + codeSpace(weight));
      at += codeSpace(weight);
    });
  }
  return entries;
}

/**
 * @param {HuffmanTable} table
 * @param {Uint8Array} coded one stream
 * @param {Uint8Array} literals to be filled by it
 */
export function decodeHuffmanStream({ longestBits, entries }, coded, literals) {
  let { buffer, held, next } = new BackwardBits(coded);
  const mask = entries.length - 1;
  for (let i = 0; i < literals.length; i += 1) {
    while (held < longestBits) {
      // Zeros stand before the first byte, for the last words are looked up with more bits than they have.
      next -= 1;
      buffer = (buffer << 8) | (next >= 0 ? coded[next] : 0);
      held += 8;
    }
    const entry = entries[(buffer >>> (held - longestBits)) & mask];
    literals[i] = entry >> 4;
    held -= entry & 15;
  }
  if (8 * next + held !== 0) throw damaged("a stream of literals does not end where it should");
}
