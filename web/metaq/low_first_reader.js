import { MetaqError } from "./errors.js";

/** Reads fields of bits from a cursor, least significant bit first. */
export class LowFirstReader {
  /**
   * @param {import("./cursor.js").Cursor} cursor
   * @param {string} what names the bits in errors
   */
  constructor(cursor, what) {
    this.cursor = cursor;
    this.what = what;
    this.waiting = 0;
    this.waitingBits = 0;
  }

  /** @param {number} count at most 53 @returns {number} */
  bits(count) {
    let value = 0;
    for (let got = 0; got < count;) {
      if (this.waitingBits === 0) {
        this.waiting = this.cursor.byte();
        this.waitingBits = 8;
      }
      const now = Math.min(count - got, this.waitingBits);
      value += (this.waiting & ((1 << now) - 1)) * 2 ** got;
      this.waiting >>>= now;
      this.waitingBits -= now;
      got += now;
    }
    return value;
  }

  /** Passes over fewer than eight zero bits and a bit 1. */
  skipMarker() {
    for (let i = 0; i < 8; i += 1) if (this.bits(1) === 1) return;
    throw new MetaqError(`${this.what} has a code without a beginning.`);
  }

  isAtByte() {
    return this.waitingBits === 0;
  }

  /** Refuses bits up to the end of the byte that are not zero. */
  align() {
    if (this.waiting !== 0) throw new MetaqError(`${this.what} has bits set where zeros fill up a byte.`);
  }
}
