import { MetaqError } from "./errors.js";

const LONGEST_GOLOMB_BITS = 53;

/** Reads fields of bits, most significant bit first. */
export class BitReader {
  /**
   * @param {Uint8Array} bytes
   * @param {string} what names them in errors
   */
  constructor(bytes, what) {
    this.bytes = bytes;
    this.what = what;
    this.bitPosition = 0;
  }

  /** @returns {number} 0 or 1 */
  bit() {
    const byte = this.bytes[this.bitPosition >>> 3];
    if (byte === undefined) throw new MetaqError(`${this.what} ends too early.`);
    const bit = (byte >>> (7 - (this.bitPosition & 7))) & 1;
    this.bitPosition += 1;
    return bit;
  }

  /** @param {number} count at most 53 @returns {number} */
  bits(count) {
    let value = 0;
    for (let i = 0; i < count; i += 1) value = 2 * value + this.bit();
    return value;
  }

  /** @param {number} order @returns {number} a number in the Golomb code of this order */
  golomb(order) {
    let zeros = 0;
    while (this.bit() === 0) {
      zeros += 1;
      if (zeros + order >= LONGEST_GOLOMB_BITS) throw new MetaqError(`${this.what} has a number that is too large.`);
    }
    return 2 ** (zeros + order) + this.bits(zeros + order) - 2 ** order;
  }

  /** Refuses bits up to the end of the byte that are not zero. @returns {number} position of the next byte */
  align() {
    while (this.bitPosition & 7) {
      if (this.bit() !== 0) throw new MetaqError(`${this.what} has bits set where zeros fill up a byte.`);
    }
    return this.bitPosition >>> 3;
  }
}
