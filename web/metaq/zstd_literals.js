import { damaged, endsEarly } from "./zstd_errors.js";
import { decodeHuffmanStream, readHuffmanTable } from "./zstd_huffman.js";

const [RAW, REPEATED, COMPRESSED] = [0, 1, 2];
const JUMP_TABLE_BYTES = 6;
const LEAST_BYTES_OF_FOUR_STREAMS = 6;

/** Decodes the literals of block after block, and keeps the Huffman table for blocks that use the last one again. */
export class LiteralsDecoder {
  /** @param {number} mostLiterals in a block */
  constructor(mostLiterals) {
    this.mostLiterals = mostLiterals;
    this.buffer = new Uint8Array(mostLiterals);
    this.table = null;
  }

  /**
   * @param {Uint8Array} block
   * @returns {{literals: Uint8Array, end: number}} views that the next call may overwrite, and where the section ends
   */
  decode(block) {
    const header = readHeader(block);
    if (header.size > this.mostLiterals) throw damaged("a block has too many literals");
    const end = header.headerBytes + header.storedBytes;
    if (end > block.length) throw endsEarly();
    const stored = block.subarray(header.headerBytes, end);
    return { literals: this.#restore(header, stored), end };
  }

  #restore({ type, size, streams }, stored) {
    if (type === RAW) return stored;
    const literals = this.buffer.subarray(0, size);
    if (type === REPEATED) return literals.fill(stored[0]);
    const coded = type === COMPRESSED ? this.#readTable(stored) : stored;
    if (this.table === null) throw damaged("the first literals refer to a table of earlier ones");
    if (streams === 1) decodeHuffmanStream(this.table, coded, literals);
    else decodeFourStreams(this.table, coded, literals);
    return literals;
  }

  /** @returns {Uint8Array} what follows the table */
  #readTable(stored) {
    const { table, size } = readHuffmanTable(stored);
    this.table = table;
    return stored.subarray(size);
  }
}

/** @returns {{type: number, size: number, storedBytes: number, streams: number, headerBytes: number}} */
function readHeader(block) {
  if (block.length === 0) throw endsEarly();
  const type = block[0] & 3;
  const format = (block[0] >> 2) & 3;
  if (type === RAW || type === REPEATED) return readPlainHeader(block, type, format);
  return readCodedHeader(block, type, format);
}

function readPlainHeader(block, type, format) {
  const headerBytes = [1, 2, 1, 3][format];
  const size = Math.floor(readInteger(block, headerBytes) / (headerBytes === 1 ? 8 : 16));
  return { type, size, storedBytes: type === RAW ? size : 1, streams: 0, headerBytes };
}

function readCodedHeader(block, type, format) {
  const headerBytes = [3, 3, 4, 5][format];
  const sizeBits = [10, 10, 14, 18][format];
  const sizes = Math.floor(readInteger(block, headerBytes) / 16);
  const size = sizes % 2 ** sizeBits;
  return { type, size, storedBytes: Math.floor(sizes / 2 ** sizeBits), streams: format === 0 ? 1 : 4, headerBytes };
}

function readInteger(block, count) {
  if (count > block.length) throw endsEarly();
  let value = 0;
  for (let i = count - 1; i >= 0; i -= 1) value = 256 * value + block[i];
  return value;
}

/** Each stream but the last makes a quarter of the literals, rounded up. */
function decodeFourStreams(table, coded, literals) {
  if (literals.length < LEAST_BYTES_OF_FOUR_STREAMS) throw damaged("there are too few literals for four streams");
  if (coded.length < JUMP_TABLE_BYTES) throw endsEarly();
  const quarter = (literals.length + 3) >> 2;
  let start = JUMP_TABLE_BYTES;
  for (let i = 0; i < 4; i += 1) {
    const end = i === 3 ? coded.length : start + (coded[2 * i] | (coded[2 * i + 1] << 8));
    if (end > coded.length) throw endsEarly();
    const part = literals.subarray(i * quarter, i === 3 ? literals.length : (i + 1) * quarter);
    decodeHuffmanStream(table, coded.subarray(start, end), part);
    start = end;
  }
}
