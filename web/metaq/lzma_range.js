import { MetaqError } from "./errors.js";

const PROBABILITY_BITS = 11;
const ADAPTATION_SHIFT = 5;
const LEAST_RANGE = 2 ** 24;
const STATE_BYTES = 5;

/** @param {number} count @returns {Uint16Array} probabilities of zero, in 2^-11, all one half */
export function newProbabilities(count) {
  return new Uint16Array(count).fill(1 << (PROBABILITY_BITS - 1));
}

/** The range decoder of LZMA, whose probabilities adapt to the bits that it decodes. */
export class RangeDecoder {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    if (bytes.length < STATE_BYTES) throw endsEarly();
    if (bytes[0] !== 0) throw damaged("the first byte is not zero");
    this.bytes = bytes;
    this.next = STATE_BYTES;
    this.range = 2 ** 32 - 1;
    this.code = ((bytes[1] << 24) | (bytes[2] << 16) | (bytes[3] << 8) | bytes[4]) >>> 0;
  }

  /** @param {Uint16Array} probabilities @param {number} index of the bit's own @returns {number} 0 or 1 */
  bit(probabilities, index) {
    if (this.range < LEAST_RANGE) this.#normalize();
    const probability = probabilities[index];
    const bound = (this.range >>> PROBABILITY_BITS) * probability;
    if (this.code < bound) {
      this.range = bound;
      probabilities[index] = probability + (((1 << PROBABILITY_BITS) - probability) >> ADAPTATION_SHIFT);
      return 0;
    }
    this.range -= bound;
    this.code -= bound;
    probabilities[index] = probability - (probability >> ADAPTATION_SHIFT);
    return 1;
  }

  /** @returns {number} an integer of so many bits, the highest first, each with a probability after those before it */
  tree(probabilities, offset, bits) {
    return this.treeFrom(1, probabilities, offset, 1 << bits) - (1 << bits);
  }

  /** @returns {number} the first node, going down from `node`, that is not below `end` */
  treeFrom(node, probabilities, offset, end) {
    let at = node;
    while (at < end) at = 2 * at + this.bit(probabilities, offset + at);
    return at;
  }

  /** @returns {number} as of `tree`, the lowest bit first */
  reverseTree(probabilities, offset, bits) {
    let node = 1;
    let value = 0;
    for (let i = 0; i < bits; i += 1) {
      const bit = this.bit(probabilities, offset + node);
      node = 2 * node + bit;
      value |= bit << i;
    }
    return value;
  }

  /** @returns {number} an integer of so many bits, at most 26, the highest first, ones and zeros being as probable */
  direct(bits) {
    let value = 0;
    for (let i = 0; i < bits; i += 1) {
      if (this.range < LEAST_RANGE) this.#normalize();
      this.range >>>= 1;
      const bit = this.code >= this.range ? 1 : 0;
      if (bit) this.code -= this.range;
      value = 2 * value + bit;
    }
    return value;
  }

  /** Refuses bytes that nobody has read, and an end that the encoder cannot have written. */
  finish() {
    if (this.range < LEAST_RANGE) this.#normalize();
    if (this.code !== 0) throw damaged("the end is not what it should be");
    const left = this.bytes.length - this.next;
    if (left > 0) throw new MetaqError(`lzma: ${left} bytes follow where the compressed bytes should end.`);
  }

  #normalize() {
    if (this.next >= this.bytes.length) throw endsEarly();
    this.range = this.range * 256;
    this.code = ((this.code << 8) | this.bytes[this.next++]) >>> 0;
  }
}

/** @param {string} why @returns {MetaqError} */
export function damaged(why) {
  return new MetaqError(`lzma: the compressed bytes are damaged (${why}).`);
}

/** @returns {MetaqError} */
export function endsEarly() {
  return new MetaqError("lzma: the compressed bytes end too early.");
}
