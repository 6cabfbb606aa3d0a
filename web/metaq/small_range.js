import { MetaqError } from "./errors.js";
import { clipped } from "./small_arithmetic.js";

const TWO_32 = 2 ** 32;
const LEAST_WIDTH = 2 ** 24;
const EVEN = 32768;
const LONGEST_NUMBER_BITS = 40;

/** Decodes decisions of given probabilities. */
export class RangeDecoder {
  /** @param {Uint8Array} payload */
  constructor(payload) {
    this.payload = payload;
    this.taken = 0;
    this.low = 0;
    this.width = TWO_32;
    this.code = 0;
    for (let i = 0; i < 4; i += 1) this.code = this.code * 256 + this.#next();
  }

  /** @param {number} probability of a 1, in units of 2^-16, 2 to 65534 @returns {number} 0 or 1 */
  decide(probability) {
    const bound = Math.floor((this.width * probability) / 65536);
    const offset = this.code >= this.low ? this.code - this.low : this.code - this.low + TWO_32;
    const decision = offset < bound ? 1 : 0;
    if (decision) {
      this.width = bound;
    } else {
      this.low = (this.low + bound) % TWO_32;
      this.width -= bound;
    }
    while (this.width < LEAST_WIDTH) {
      this.low = (this.low << 8) >>> 0;
      this.width *= 256;
      this.code = ((this.code << 8) | this.#next()) >>> 0;
    }
    return decision;
  }

  /** A decision by a slot, which learns it. @param {import("./small_arithmetic.js").Slots} slots @param {number} slot */
  decideBy(slots, slot) {
    const decision = this.decide(clipped(slots.probability(slot)));
    slots.learn(slot, decision);
    return decision;
  }

  plainBit() {
    return this.decide(EVEN);
  }

  /** @param {number} count at most 53 */
  plainBits(count) {
    let value = 0;
    for (let i = 0; i < count; i += 1) value = 2 * value + this.plainBit();
    return value;
  }

  plainNumber() {
    let digits = 0;
    while (this.plainBit() === 1) {
      digits += 1;
      if (digits > LONGEST_NUMBER_BITS)
        throw new MetaqError("A chunk of the coder small has a number that is too large.");
    }
    return 2 ** digits + this.plainBits(digits) - 1;
  }

  /** 0, -1, 1, -2, 2, … */
  signedPlainNumber() {
    const folded = this.plainNumber();
    return folded % 2 === 0 ? folded / 2 : -(folded + 1) / 2;
  }

  /** Refuses an ending that no encoder writes. */
  finish() {
    for (let missing = 4; missing >= 0; missing -= 1) {
      const unit = 256 ** missing;
      const least = Math.ceil(this.low / unit) * unit;
      if (least < this.low + this.width) {
        if (this.code === least % TWO_32 && this.payload.length === this.taken - missing) return;
        break;
      }
    }
    throw new MetaqError("A chunk of the coder small does not end as it should.");
  }

  #next() {
    this.taken += 1;
    return this.payload[this.taken - 1] ?? 0;
  }
}
