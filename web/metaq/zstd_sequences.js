import { copyMatch } from "./zstd_output.js";
import { startsOfRanges } from "./ranges.js";
import { BackwardBits } from "./zstd_bits.js";
import { damaged, endsEarly } from "./zstd_errors.js";
import { constantFseTable, makeFseTable, readFseTable } from "./zstd_fse.js";

const [PREDEFINED, CONSTANT, DESCRIBED] = [0, 1, 2];
const FIRST_LONG_COUNT = 0x7f00;
const SHORT_LITERALS = 32;
/** Larger ones are of no use: a window has at most 2^27 bytes. */
const LAST_USABLE_OFFSET_CODE = 27;

const LITERAL_LENGTH_BITS = [...repeat(16, 0), 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const MATCH_LENGTH_BITS = [...repeat(32, 0), ...[1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]];
const LITERAL_LENGTH_BASES = startsOfRanges(0, LITERAL_LENGTH_BITS);
const MATCH_LENGTH_BASES = startsOfRanges(3, MATCH_LENGTH_BITS);

/** How a table may be described, and what it is where it is predefined (RFC 8878, 3.1.1.3.2.2). */
const LITERAL_LENGTHS = {
  mostAccuracyBits: 9,
  lastSymbol: 35,
  predefined: makeFseTable(
    [4, 3, ...repeat(11, 2), 1, 1, 1, ...repeat(9, 2), 3, 2, ...repeat(5, 1), ...repeat(4, -1)],
    6,
  ),
};
const OFFSETS = {
  mostAccuracyBits: 8,
  lastSymbol: 31,
  predefined: makeFseTable([...repeat(6, 1), 2, 2, 2, ...repeat(15, 1), ...repeat(5, -1)], 5),
};
const MATCH_LENGTHS = {
  mostAccuracyBits: 9,
  lastSymbol: 52,
  predefined: makeFseTable([1, 4, 3, ...repeat(6, 2), ...repeat(37, 1), ...repeat(7, -1)], 6),
};

/** Decodes and executes the sequences of block after block; keeps the tables and offsets that later ones refer to. */
export class SequencesDecoder {
  /** @param {number} windowBytes the largest offset */
  constructor(windowBytes) {
    this.windowBytes = windowBytes;
    this.tables = null;
    this.offset = 1;
    this.offsetBefore = 4;
    this.offsetBeforeThat = 8;
  }

  /**
   * @param {Uint8Array} section
   * @param {Uint8Array} literals of the block
   * @param {Uint8Array} output
   * @param {number} position where the block begins in it
   * @param {number} limit where the block ends at the latest
   * @returns {number} where the block ends
   */
  decode(section, literals, output, position, limit) {
    const { count, size } = readCount(section);
    const target = new Target(output, position, limit, literals);
    if (count > 0) this.#execute(count, this.#readTables(section, size), target);
    else if (section.length > size) throw damaged("bytes follow where a block has no sequences");
    target.copyLiterals(literals.length - target.literalsUsed);
    return target.position;
  }

  /** @returns {Uint8Array} what follows the tables */
  #readTables(section, start) {
    if (start >= section.length) throw endsEarly();
    const modes = section[start];
    if (modes & 3) throw damaged("a reserved bit is set");
    const kinds = [LITERAL_LENGTHS, OFFSETS, MATCH_LENGTHS];
    let rest = section.subarray(start + 1);
    this.tables = kinds.map((kind, i) => {
      const { table, size } = readTable(kind, (modes >> (6 - 2 * i)) & 3, rest, this.tables && this.tables[i]);
      rest = rest.subarray(size);
      return table;
    });
    return rest;
  }

  #execute(count, stream, target) {
    const [literalLengths, offsets, matchLengths] = this.tables;
    const bits = new BackwardBits(stream);
    let literalState = bits.take(literalLengths.accuracyBits);
    let offsetState = bits.take(offsets.accuracyBits);
    let matchState = bits.take(matchLengths.accuracyBits);
    for (let left = count; ; left -= 1) {
      const offsetCode = offsets.symbols[offsetState];
      const matchCode = matchLengths.symbols[matchState];
      const literalCode = literalLengths.symbols[literalState];
      if (offsetCode > LAST_USABLE_OFFSET_CODE) throw damaged("an offset is too large");
      const offsetValue = 2 ** offsetCode + bits.take(offsetCode);
      const matchLength = MATCH_LENGTH_BASES[matchCode] + bits.take(MATCH_LENGTH_BITS[matchCode]);
      const literalLength = LITERAL_LENGTH_BASES[literalCode] + bits.take(LITERAL_LENGTH_BITS[literalCode]);
      target.copyLiterals(literalLength);
      this.#setOffset(offsetValue, literalLength);
      target.copyMatch(this.offset, matchLength, this.windowBytes);
      if (left === 1) break;
      literalState = literalLengths.firsts[literalState] + bits.take(literalLengths.bits[literalState]);
      matchState = matchLengths.firsts[matchState] + bits.take(matchLengths.bits[matchState]);
      offsetState = offsets.firsts[offsetState] + bits.take(offsets.bits[offsetState]);
    }
    bits.finish();
  }

  /** Makes the offset that a value means the last one: values to 3 mean one of the last three. */
  #setOffset(value, literalLength) {
    const which = value > 3 || literalLength > 0 ? value : value + 1;
    if (which === 1) return;
    const last = this.offset;
    if (value > 3) this.offset = value - 3;
    else if (which === 2) this.offset = this.offsetBefore;
    else this.offset = which === 3 ? this.offsetBeforeThat : last - 1;
    if (which > 2) this.offsetBeforeThat = this.offsetBefore;
    this.offsetBefore = last;
  }
}

/** @returns {{count: number, size: number}} number of sequences, and bytes that say so */
function readCount(section) {
  if (section.length === 0) throw endsEarly();
  const first = section[0];
  const size = first < 128 ? 1 : first < 255 ? 2 : 3;
  if (size > section.length) throw endsEarly();
  if (size === 1) return { count: first, size };
  if (size === 2) return { count: ((first - 128) << 8) | section[1], size };
  return { count: (section[1] | (section[2] << 8)) + FIRST_LONG_COUNT, size };
}

/** @returns {{table: import("./zstd_fse.js").FseTable, size: number}} the table and the bytes of its description */
function readTable({ mostAccuracyBits, lastSymbol, predefined }, mode, bytes, previous) {
  if (mode === PREDEFINED) return { table: predefined, size: 0 };
  if (mode === DESCRIBED) return readFseTable(bytes, mostAccuracyBits, lastSymbol);
  if (mode === CONSTANT) {
    if (bytes.length === 0) throw endsEarly();
    if (bytes[0] > lastSymbol) throw damaged("a table has an unknown symbol");
    return { table: constantFseTable(bytes[0]), size: 1 };
  }
  if (!previous) throw damaged("the first sequences refer to a table of earlier ones");
  return { table: previous, size: 0 };
}

/** What a block is written to: literals and copies of earlier output, neither beyond its limit. */
class Target {
  constructor(output, position, limit, literals) {
    this.output = output;
    this.position = position;
    this.limit = limit;
    this.literals = literals;
    this.literalsUsed = 0;
  }

  copyLiterals(count) {
    const { output, position, literals, literalsUsed: start } = this;
    if (count > literals.length - start) throw damaged("a block has too few literals");
    this.#makeRoom(count);
    if (count < SHORT_LITERALS) for (let i = 0; i < count; i += 1) output[position + i] = literals[start + i];
    else output.set(literals.subarray(start, start + count), position);
    this.literalsUsed += count;
  }

  copyMatch(offset, length, windowBytes) {
    if (offset < 1 || offset > this.position || offset > windowBytes) throw damaged("an offset is out of range");
    const { position } = this;
    this.#makeRoom(length);
    copyMatch(this.output, position, offset, length);
  }

  #makeRoom(count) {
    if (count > this.limit - this.position) throw damaged("a block makes more bytes than it may");
    this.position += count;
  }
}

function repeat(count, value) {
  return new Array(count).fill(value);
}
