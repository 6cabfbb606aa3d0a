import { MetaqError } from "./errors.js";
import { allocateOutput, copyMatch } from "./generic_output.js";
import { startsOfRanges } from "./ranges.js";

const LONGEST_CODE_BITS = 15;
const LOOKUP_BITS = 10;
const LOOKUP_SIZE = 1 << LOOKUP_BITS;
const END_OF_BLOCK = 256;
const MOST_LITERAL_CODES = 286;
const MOST_DISTANCE_CODES = 30;

const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BITS = [0, 0, 0, 0, ...Array.from({ length: 26 }, (_, i) => (i >> 1) + 1)];
const LENGTH_BASES = [...startsOfRanges(3, LENGTH_BITS.slice(0, -1)), 258];
const DISTANCE_BASES = startsOfRanges(1, DISTANCE_BITS);
const ORDER_OF_CODE_LENGTHS = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/**
 * Decode raw DEFLATE (RFC 1951) that ends exactly where `bytes` end.
 * @param {Uint8Array} bytes
 * @param {number} size in bytes of what comes out
 * @returns {Uint8Array}
 */
export function inflateRaw(bytes, size) {
  const bits = new ForwardBits(bytes);
  const output = allocateOutput(size, "gzip");
  let position = 0;
  let last = 0;
  while (!last) {
    last = bits.take(1);
    position = decodeBlock(bits, output, position);
  }
  if (position !== size) throw new MetaqError(`gzip: ${position} bytes were found where ${size} are promised.`);
  bits.finish();
  return output;
}

/** @returns {number} position after the block */
function decodeBlock(bits, output, position) {
  const type = bits.take(2);
  if (type === 0) return copyStored(bits, output, position);
  if (type === 1) return decodeSymbols(bits, fixedCodes(), output, position);
  if (type === 2) return decodeSymbols(bits, readCodes(bits), output, position);
  throw damaged("a block has an unknown type");
}

function copyStored(bits, output, position) {
  bits.align();
  const count = bits.take(16);
  if (bits.take(16) !== (count ^ 0xffff)) throw damaged("the two lengths of a stored block do not agree");
  if (count > output.length - position) throw tooMany();
  bits.copy(output, position, count);
  return position + count;
}

function decodeSymbols(bits, { literals, distances }, output, start) {
  let position = start;
  for (;;) {
    const symbol = literals.decode(bits);
    if (symbol < END_OF_BLOCK) {
      if (position >= output.length) throw tooMany();
      output[position++] = symbol;
    } else if (symbol === END_OF_BLOCK) {
      return position;
    } else {
      position += copyBack(bits, symbol - END_OF_BLOCK - 1, distances, output, position);
    }
  }
}

/** @returns {number} bytes copied */
function copyBack(bits, lengthCode, distances, output, position) {
  if (lengthCode >= LENGTH_BASES.length) throw damaged("a length has an unknown code");
  const length = LENGTH_BASES[lengthCode] + bits.take(LENGTH_BITS[lengthCode]);
  const code = distances.decode(bits);
  if (code >= MOST_DISTANCE_CODES) throw damaged("a distance has an unknown code");
  const distance = DISTANCE_BASES[code] + bits.take(DISTANCE_BITS[code]);
  if (distance > position) throw damaged("a distance reaches before the first byte");
  if (length > output.length - position) throw tooMany();
  copyMatch(output, position, distance, length);
  return length;
}

let fixed = null;

function fixedCodes() {
  if (fixed === null) {
    const lengths = new Uint8Array(288).fill(8).fill(9, 144, 256).fill(7, 256, 280);
    fixed = { literals: new PrefixCode(lengths), distances: new PrefixCode(new Uint8Array(32).fill(5)) };
  }
  return fixed;
}

function readCodes(bits) {
  const literalCount = bits.take(5) + 257;
  const distanceCount = bits.take(5) + 1;
  if (literalCount > MOST_LITERAL_CODES || distanceCount > MOST_DISTANCE_CODES) {
    throw damaged("a block has too many codes");
  }
  const lengths = readCodeLengths(bits, literalCount + distanceCount);
  if (lengths[END_OF_BLOCK] === 0) throw damaged("a block has no code for its end");
  const literals = new PrefixCode(lengths.subarray(0, literalCount));
  const distances = new PrefixCode(lengths.subarray(literalCount));
  if (!literals.isComplete && !literals.isSingle) throw damaged("a literal code is incomplete");
  if (!distances.isComplete && !distances.isSingle && !distances.isEmpty) {
    throw damaged("a distance code is incomplete");
  }
  return { literals, distances };
}

function readCodeLengths(bits, count) {
  const ofLengths = new Uint8Array(ORDER_OF_CODE_LENGTHS.length);
  const given = bits.take(4) + 4;
  for (let i = 0; i < given; i += 1) ofLengths[ORDER_OF_CODE_LENGTHS[i]] = bits.take(3);
  const code = new PrefixCode(ofLengths);
  if (!code.isComplete) throw damaged("a code of code lengths is incomplete");
  const lengths = new Uint8Array(count);
  for (let i = 0; i < count;) {
    const symbol = code.decode(bits);
    if (symbol < 16) {
      lengths[i++] = symbol;
      continue;
    }
    if (symbol === 16 && i === 0) throw damaged("the first code length repeats one before it");
    const value = symbol === 16 ? lengths[i - 1] : 0;
    const repeats = readRepeats(bits, symbol);
    if (repeats > count - i) throw damaged("a block has too many code lengths");
    lengths.fill(value, i, i + repeats);
    i += repeats;
  }
  return lengths;
}

function readRepeats(bits, symbol) {
  if (symbol === 16) return 3 + bits.take(2);
  return symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7);
}

/** A canonical prefix code: a table decodes short code words at once, a walk along the lengths the few long ones. */
class PrefixCode {
  /** @param {Uint8Array} lengths in bits of every symbol's code word, 0 for none */
  constructor(lengths) {
    this.counts = new Uint16Array(LONGEST_CODE_BITS + 1);
    for (const length of lengths) this.counts[length] += 1;
    this.used = lengths.length - this.counts[0];
    this.counts[0] = 0;
    this.free = this.#freeCodeSpace();
    this.symbols = this.#sortByLength(lengths);
    this.lookup = this.#makeLookup();
  }

  get isEmpty() {
    return this.used === 0;
  }

  /** Whether there is one code word only, of one bit: the other word is then allowed to mean nothing. */
  get isSingle() {
    return this.used === 1 && this.counts[1] === 1;
  }

  get isComplete() {
    return this.free === 0;
  }

  /** @param {ForwardBits} bits @returns {number} symbol */
  decode(bits) {
    bits.fill();
    const entry = this.lookup[bits.buffer & (LOOKUP_SIZE - 1)];
    if (entry === 0) return this.#walk(bits);
    bits.skip(entry & 15);
    return entry >> 4;
  }

  #freeCodeSpace() {
    let free = 1;
    for (let length = 1; length <= LONGEST_CODE_BITS; length += 1) {
      free = 2 * free - this.counts[length];
      if (free < 0) throw damaged("a code has too many code words");
    }
    return free;
  }

  #sortByLength(lengths) {
    const next = new Uint16Array(LONGEST_CODE_BITS + 2);
    for (let length = 1; length <= LONGEST_CODE_BITS; length += 1) {
      next[length + 1] = next[length] + this.counts[length];
    }
    const symbols = new Uint16Array(this.used);
    lengths.forEach((length, symbol) => {
      if (length > 0) symbols[next[length]++] = symbol;
    });
    return symbols;
  }

  /** Entries are 16 * symbol + length, at every index whose lowest bits are the code word, first bit lowest. */
  #makeLookup() {
    const lookup = new Uint16Array(LOOKUP_SIZE);
    let word = 0;
    let index = 0;
    for (let length = 1; length <= LOOKUP_BITS; length += 1) {
      for (let i = 0; i < this.counts[length]; i += 1, word += 1, index += 1) {
        const entry = (this.symbols[index] << 4) | length;
        for (let at = reverseBits(word, length); at < LOOKUP_SIZE; at += 1 << length) lookup[at] = entry;
      }
      word <<= 1;
    }
    return lookup;
  }

  #walk(bits) {
    let word = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length <= LONGEST_CODE_BITS; length += 1) {
      word |= (bits.buffer >>> (length - 1)) & 1;
      const count = this.counts[length];
      if (word - first < count) {
        bits.skip(length);
        return this.symbols[index + word - first];
      }
      index += count;
      first = (first + count) << 1;
      word <<= 1;
    }
    throw damaged("a code word means nothing");
  }
}

/** Bits of bytes, lowest first. What is missing at the end reads as zero, and is refused once any of it is used. */
class ForwardBits {
  constructor(bytes) {
    this.bytes = bytes;
    this.next = 0;
    this.buffer = 0;
    this.held = 0;
  }

  /** Makes at least 25 bits ready. */
  fill() {
    while (this.held <= 24) {
      if (this.next < this.bytes.length) this.buffer |= this.bytes[this.next] << this.held;
      else if (this.#isOverdrawn()) throw endsEarly();
      this.next += 1;
      this.held += 8;
    }
  }

  skip(count) {
    this.buffer >>>= count;
    this.held -= count;
  }

  /** @param {number} count at most 16 @returns {number} */
  take(count) {
    this.fill();
    const value = this.buffer & ((1 << count) - 1);
    this.skip(count);
    return value;
  }

  align() {
    this.skip(this.held & 7);
  }

  /** Copies whole bytes; only after `align`. */
  copy(output, position, count) {
    const start = this.next - (this.held >> 3);
    if (count > this.bytes.length - start) throw endsEarly();
    output.set(this.bytes.subarray(start, start + count), position);
    this.next = start + count;
    this.buffer = 0;
    this.held = 0;
  }

  /** Refuses whole bytes that nobody has read, and bits read that nobody has written. */
  finish() {
    if (this.#isOverdrawn()) throw endsEarly();
    const left = this.bytes.length - this.next + (this.held >> 3);
    if (left > 0) throw new MetaqError(`gzip: ${left} bytes follow where the compressed bytes should end.`);
  }

  #isOverdrawn() {
    return this.next - (this.held >> 3) > this.bytes.length;
  }
}

function reverseBits(word, count) {
  let reversed = 0;
  for (let i = 0; i < count; i += 1) reversed |= ((word >> i) & 1) << (count - 1 - i);
  return reversed;
}

function damaged(why) {
  return new MetaqError(`gzip: the compressed bytes are damaged (${why}).`);
}

function endsEarly() {
  return new MetaqError("gzip: the compressed bytes end too early.");
}

function tooMany() {
  return new MetaqError("gzip: there are more bytes than promised.");
}
