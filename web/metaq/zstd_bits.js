import { damaged, endsEarly } from "./zstd_errors.js";

const MOST_BITS_AT_ONCE = 24;

/** Bits of bytes from the last to the first, highest bit first, after zeros and a one in the last byte. */
export class BackwardBits {
  /** @param {Uint8Array} bytes all of the stream */
  constructor(bytes) {
    const last = bytes.length > 0 ? bytes[bytes.length - 1] : 0;
    if (last === 0) throw damaged("a stream of bits has no mark at its end");
    this.bytes = bytes;
    this.next = bytes.length - 1;
    this.buffer = last;
    this.held = 31 - Math.clz32(last);
  }

  /** Bits not read yet. */
  get left() {
    return 8 * this.next + this.held;
  }

  /** @param {number} count at most 31 @returns {number} these bits, the first being the highest */
  take(count) {
    if (count <= MOST_BITS_AT_ONCE) return this.#takeFew(count);
    const high = this.#takeFew(count - MOST_BITS_AT_ONCE);
    return high * 2 ** MOST_BITS_AT_ONCE + this.#takeFew(MOST_BITS_AT_ONCE);
  }

  #takeFew(count) {
    while (this.held < count) {
      if (this.next === 0) throw damaged("a stream of bits ends too early");
      this.next -= 1;
      this.buffer = (this.buffer << 8) | this.bytes[this.next];
      this.held += 8;
    }
    this.held -= count;
    return (this.buffer >>> this.held) & ((1 << count) - 1);
  }

  /** Refuses bits that nobody has read. */
  finish() {
    if (this.left > 0) throw damaged("a stream of bits goes on where it should end");
  }
}

/** Bits of bytes from the first to the last, lowest bit first; of a description of a table only, hence not fast. */
export class ForwardBits {
  /** @param {Uint8Array} bytes the stream and what follows it */
  constructor(bytes) {
    this.bytes = bytes;
    this.position = 0;
  }

  /** Bytes read, the last one perhaps in part. */
  get bytesRead() {
    return (this.position + 7) >> 3;
  }

  /** @returns {number} 0 or 1 */
  bit() {
    const index = this.position >> 3;
    if (index >= this.bytes.length) throw endsEarly();
    const bit = (this.bytes[index] >> (this.position & 7)) & 1;
    this.position += 1;
    return bit;
  }

  /** @param {number} count @returns {number} these bits, the first being the lowest */
  take(count) {
    let value = 0;
    for (let i = 0; i < count; i += 1) value |= this.bit() << i;
    return value;
  }
}
