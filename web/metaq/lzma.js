import { MetaqError } from "./errors.js";
import { allocateOutput, copyMatch } from "./generic_output.js";
import { damaged, endsEarly, RangeDecoder, newProbabilities } from "./lzma_range.js";

const MOST_LITERAL_BITS = 4;
const MOST_POSITION_BITS = 4;
const STATES = 12;
const FIRST_STATE_AFTER_MATCH = 7;
const LEAST_MATCH_BYTES = 2;
const DISTANCE_CONTEXTS = 4;
const DISTANCE_SLOT_BITS = 6;
const FIRST_SLOT_WITH_BITS = 4;
const FIRST_SLOT_WITH_ALIGNMENT = 14;
const ALIGNMENT_BITS = 4;
const CODED_DISTANCES = 128;
const END_MARKER = 2 ** 32 - 1;

/**
 * Decode raw LZMA1 with an end marker, after which nothing follows.
 * @param {Uint8Array} bytes
 * @param {number} size in bytes of what comes out
 * @param {{lc: number, lp: number, pb: number, dictionarySize: number}} properties bits of the last byte and of the
 *   position that literals depend on, bits of the position that all else depends on, and the largest distance
 * @returns {Uint8Array}
 */
export function decodeLzma(bytes, size, { lc, lp, pb, dictionarySize }) {
  if (lc + lp > MOST_LITERAL_BITS || pb > MOST_POSITION_BITS) {
    throw new MetaqError(`lzma: lc = ${lc}, lp = ${lp} and pb = ${pb} are not permitted.`);
  }
  const range = new RangeDecoder(bytes);
  const decoder = new LzmaDecoder(range, allocateOutput(size, "lzma"), { lc, lp, pb, dictionarySize });
  decoder.decode();
  range.finish();
  if (decoder.position !== size) {
    throw new MetaqError(`lzma: ${decoder.position} bytes were found where ${size} are promised.`);
  }
  return decoder.output;
}

/** Decodes literals and matches into `output`, with probabilities that depend on what came last. */
class LzmaDecoder {
  constructor(range, output, { lc, lp, pb, dictionarySize }) {
    this.range = range;
    this.output = output;
    this.position = 0;
    this.dictionarySize = dictionarySize;
    this.positionMask = (1 << pb) - 1;
    this.state = 0;
    /** The last four distances, the latest first, each less one. */
    this.distances = [0, 0, 0, 0];
    this.literals = new LiteralDecoder(lc, lp);
    this.matchLengths = new LengthDecoder();
    this.repeatLengths = new LengthDecoder();
    this.distanceDecoder = new DistanceDecoder();
    this.isMatch = newProbabilities(STATES << MOST_POSITION_BITS);
    this.isRepeat = newProbabilities(STATES);
    this.isNotLast = newProbabilities(STATES);
    this.isNotSecond = newProbabilities(STATES);
    this.isNotThird = newProbabilities(STATES);
    this.isLong = newProbabilities(STATES << MOST_POSITION_BITS);
  }

  /** Decodes up to the end marker. */
  decode() {
    for (;;) {
      const place = this.position & this.positionMask;
      if (this.range.bit(this.isMatch, (this.state << MOST_POSITION_BITS) + place) === 0) {
        this.#literal();
      } else if (this.range.bit(this.isRepeat, this.state) === 1) {
        this.#repeat(place);
      } else if (this.#match(place) === END_MARKER) {
        return;
      }
    }
  }

  #literal() {
    const { output, position } = this;
    if (position >= output.length) throw tooMany();
    const before = position > 0 ? output[position - 1] : 0;
    const offset = this.literals.offset(before, position);
    if (this.state < FIRST_STATE_AFTER_MATCH) {
      output[position] = this.literals.plain(this.range, offset);
    } else {
      output[position] = this.literals.matched(this.range, offset, output[position - this.distances[0] - 1]);
    }
    this.position += 1;
    this.state = stateAfterLiteral(this.state);
  }

  /** @returns {number} the distance less one, or the end marker */
  #match(place) {
    const length = this.matchLengths.decode(this.range, place);
    const distance = this.distanceDecoder.decode(this.range, length);
    this.state = this.state < FIRST_STATE_AFTER_MATCH ? 7 : 10;
    if (distance !== END_MARKER) {
      this.#use(distance, 3);
      this.#copy(length + LEAST_MATCH_BYTES);
    }
    return distance;
  }

  #repeat(place) {
    const afterLiteral = this.state < FIRST_STATE_AFTER_MATCH;
    const which = this.#whichDistance(place);
    if (which < 0) {
      this.state = afterLiteral ? 9 : 11;
      this.#copy(1);
      return;
    }
    this.#use(this.distances[which], which);
    const length = this.repeatLengths.decode(this.range, place);
    this.state = afterLiteral ? 8 : 11;
    this.#copy(length + LEAST_MATCH_BYTES);
  }

  /** @returns {number} index of the distance that is repeated; -1 for a single byte at the last one */
  #whichDistance(place) {
    if (this.range.bit(this.isNotLast, this.state) === 0) {
      return this.range.bit(this.isLong, (this.state << MOST_POSITION_BITS) + place) - 1;
    }
    if (this.range.bit(this.isNotSecond, this.state) === 0) return 1;
    return this.range.bit(this.isNotThird, this.state) + 2;
  }

  /** Puts a distance first, before those that were before the one with the index `which`. */
  #use(distance, which) {
    for (let i = which; i > 0; i -= 1) this.distances[i] = this.distances[i - 1];
    this.distances[0] = distance;
  }

  #copy(length) {
    const distance = this.distances[0] + 1;
    if (distance > this.position) throw damaged("a distance reaches before the first byte");
    if (distance > this.dictionarySize) throw damaged("a distance is larger than the dictionary");
    if (length > this.output.length - this.position) throw tooMany();
    copyMatch(this.output, this.position, distance, length);
    this.position += length;
  }
}

function stateAfterLiteral(state) {
  if (state < 4) return 0;
  return state < 10 ? state - 3 : state - 6;
}

const LITERAL_SIZE = 0x300;

/** Literals, by the highest bits of the last byte and the lowest of the position. */
class LiteralDecoder {
  constructor(lc, lp) {
    this.contextBits = lc;
    this.positionMask = (1 << lp) - 1;
    this.probabilities = newProbabilities(LITERAL_SIZE << (lc + lp));
  }

  /** @returns {number} where the probabilities of a literal begin */
  offset(before, position) {
    return LITERAL_SIZE * (((position & this.positionMask) << this.contextBits) + (before >> (8 - this.contextBits)));
  }

  plain(range, offset) {
    return range.tree(this.probabilities, offset, 8);
  }

  /** A literal after a match is probably not the byte that would go on with it; up to there that byte tells. */
  matched(range, offset, expected) {
    let node = 1;
    for (let shift = 7; shift >= 0; shift -= 1) {
      const bit = (expected >> shift) & 1;
      const decoded = range.bit(this.probabilities, offset + ((1 + bit) << 8) + node);
      node = 2 * node + decoded;
      if (decoded !== bit) return range.treeFrom(node, this.probabilities, offset, 256) & 255;
    }
    return node & 255;
  }
}

/** Lengths of matches, each less two. */
class LengthDecoder {
  constructor() {
    this.choices = newProbabilities(2);
    this.short = newProbabilities(8 << MOST_POSITION_BITS);
    this.middle = newProbabilities(8 << MOST_POSITION_BITS);
    this.long = newProbabilities(256);
  }

  decode(range, place) {
    if (range.bit(this.choices, 0) === 0) return range.tree(this.short, 8 * place, 3);
    if (range.bit(this.choices, 1) === 0) return 8 + range.tree(this.middle, 8 * place, 3);
    return 16 + range.tree(this.long, 0, 8);
  }
}

/** Distances of matches, each less one: the number of bits and the highest two make a slot, the lowest ones follow. */
class DistanceDecoder {
  constructor() {
    this.slots = newProbabilities(DISTANCE_CONTEXTS << DISTANCE_SLOT_BITS);
    this.low = newProbabilities(CODED_DISTANCES);
    this.alignment = newProbabilities(1 << ALIGNMENT_BITS);
  }

  decode(range, length) {
    const context = Math.min(length, DISTANCE_CONTEXTS - 1);
    const slot = range.tree(this.slots, context << DISTANCE_SLOT_BITS, DISTANCE_SLOT_BITS);
    if (slot < FIRST_SLOT_WITH_BITS) return slot;
    const bits = (slot >> 1) - 1;
    const first = (2 + (slot & 1)) * 2 ** bits;
    if (slot < FIRST_SLOT_WITH_ALIGNMENT) return first + range.reverseTree(this.low, first - slot, bits);
    const middle = range.direct(bits - ALIGNMENT_BITS) * 2 ** ALIGNMENT_BITS;
    return first + middle + range.reverseTree(this.alignment, 0, ALIGNMENT_BITS);
  }
}

function tooMany() {
  return new MetaqError("lzma: there are more bytes than promised.");
}
