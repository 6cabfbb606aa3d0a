import { MetaqError } from "./errors.js";

const LONGEST_VARINT_BYTES = 9;

/** Reads bytes, varints and fields of them one after the other, and refuses to read past the end. */
export class Cursor {
  /**
   * @param {Uint8Array} bytes
   * @param {string} what names them in errors, for example "the header"
   */
  constructor(bytes, what) {
    this.bytes = bytes;
    this.what = what;
    this.position = 0;
  }

  /** Bytes not read yet. */
  get left() {
    return this.bytes.length - this.position;
  }

  /** @returns {number} */
  byte() {
    if (this.left < 1) throw new MetaqError(`${this.what} ends too early.`);
    return this.bytes[this.position++];
  }

  /** @param {number} count @returns {Uint8Array} a view of so many bytes */
  take(count) {
    if (count > this.left)
      throw new MetaqError(`${this.what} ends too early: ${count} bytes are needed, ${this.left} are left.`);
    this.position += count;
    return this.bytes.subarray(this.position - count, this.position);
  }

  /** @returns {Uint8Array} a view of all that is left */
  rest() {
    return this.take(this.left);
  }

  /** @returns {bigint} an unsigned integer below 2^63 */
  bigVarint() {
    let value = 0n;
    for (let group = 0; group < LONGEST_VARINT_BYTES; group += 1) {
      const byte = this.byte();
      value |= BigInt(byte & 127) << BigInt(7 * group);
      if (byte < 128) {
        if (byte === 0 && group > 0)
          throw new MetaqError(`${this.what} has a number that is not in its shortest form.`);
        return value;
      }
    }
    throw new MetaqError(`${this.what} has a number of more than 63 bits.`);
  }

  /** @returns {number} an unsigned integer that a double holds exactly */
  varint() {
    const value = this.bigVarint();
    if (value > BigInt(Number.MAX_SAFE_INTEGER))
      throw new MetaqError(`${this.what} has a number that is too large: ${value}.`);
    return Number(value);
  }

  /** @returns {number} a varint that is at most `most` */
  varintUpTo(most, name) {
    const value = this.varint();
    if (value > most) throw new MetaqError(`${this.what}: ${name} is ${value}, which is more than ${most}.`);
    return value;
  }

  /** Refuses bytes that nobody has read. */
  finish() {
    if (this.left > 0) throw new MetaqError(`${this.what} has ${this.left} bytes too many.`);
  }
}
