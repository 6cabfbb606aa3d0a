import { BitReader } from "./bit_reader.js";
import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";

const WHAT = "A Huffman-coded tensor";
const LONGEST_CODE_BITS = 32;

/** Canonical prefix codes. @param {Uint8Array} payload @param {import("./chunks.js").Stream} stream */
export function decodeHuffman(payload, { count, alphabetSize }) {
  const cursor = new Cursor(payload, WHAT);
  const first = cursor.varintUpTo(alphabetSize - 1, "the first symbol");
  const further = cursor.varintUpTo(alphabetSize - 1, "the number of symbols");
  if (further === 0) {
    cursor.finish();
    return new Int32Array(count).fill(first);
  }
  const bytes = cursor.rest();
  const reader = new BitReader(bytes, WHAT);
  const code = canonicalCode(readLengths(reader, first, further, alphabetSize));
  const symbols = new Int32Array(count);
  const wordReader = new BitReader(bytes.subarray(reader.align()), WHAT);
  for (let i = 0; i < count; i += 1) symbols[i] = readSymbol(wordReader, code);
  wordReader.finish();
  return symbols;
}

function readLengths(reader, first, further, alphabetSize) {
  const [gapOrder, changeOrder] = [reader.bits(4), reader.bits(4)];
  const used = [{ symbol: first, length: reader.bits(6) }];
  for (let i = 0; i < further; i += 1) {
    const last = used[i];
    const symbol = last.symbol + 1 + reader.golomb(gapOrder);
    const length = last.length + reader.foldedGolomb(changeOrder);
    if (symbol >= alphabetSize)
      throw new MetaqError(`${WHAT} has a symbol ${symbol} of an alphabet of ${alphabetSize}.`);
    used.push({ symbol, length });
  }
  return used;
}

/** Words are numbered upwards in order of length, then of symbol. */
function canonicalCode(used) {
  const counts = new Array(LONGEST_CODE_BITS + 1).fill(0);
  for (const { length } of used) {
    if (length < 1 || length > LONGEST_CODE_BITS) throw new MetaqError(`${WHAT} has a code word of ${length} bits.`);
    counts[length] += 1;
  }
  const filled = counts.reduce((sum, number, length) => sum + number * 2 ** (LONGEST_CODE_BITS - length), 0);
  if (filled !== 2 ** LONGEST_CODE_BITS) throw new MetaqError(`${WHAT} has code words that do not fill the code.`);
  const order = [...used].sort((left, right) => left.length - right.length || left.symbol - right.symbol);
  return { counts, symbols: Int32Array.from(order, ({ symbol }) => symbol) };
}

function readSymbol(reader, { counts, symbols }) {
  let word = 0;
  let firstWord = 0;
  let firstIndex = 0;
  for (let length = 1; ; length += 1) {
    word = 2 * word + reader.bit();
    firstWord = 2 * (firstWord + counts[length - 1]);
    firstIndex += counts[length - 1];
    if (word - firstWord < counts[length]) return symbols[firstIndex + word - firstWord];
  }
}
