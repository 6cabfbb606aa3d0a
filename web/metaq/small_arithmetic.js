import { logistic } from "./logistic.js";

/** Quotient rounded towards minus infinity, exact for integers below 2^53. */
export function floorDiv(dividend, divisor) {
  return Math.floor(dividend / divisor);
}

/** `(left * right) >> bits`, exact also where the product has more bits than a double. */
export function multiplyShift(left, right, bits) {
  const product = left * right;
  if (Math.abs(product) < Number.MAX_SAFE_INTEGER) return Math.floor(product / 2 ** bits);
  return Number((BigInt(left) * BigInt(right)) >> BigInt(bits));
}

/** How fast something that was seen `count` times learns, in units of 2^-22. */
export const RATES = Int32Array.from({ length: 4096 }, (_, count) => Math.floor(2 ** 23 / (2 * count + 3)));

/** Probability as it is used, in units of 2^-16. */
export function clipped(probability) {
  return Math.max(2, Math.min(65534, probability));
}

/** Probability of a weighted sum of logits. */
export function mixed(sum) {
  return clipped(logistic(Math.floor(sum / 65536)));
}

const LARGEST_LEVELLED = 4095;
const LEVELS = Uint8Array.from({ length: LARGEST_LEVELLED + 1 }, (_, value) => {
  const digits = value.toString(2);
  return value === 0 ? 0 : Math.min(2 * digits.length - 1 + Number(digits[1] ?? 0), 23);
});
const FINE_LEVELS = Uint8Array.from({ length: LARGEST_LEVELLED + 1 }, (_, value) => {
  const digits = value.toString(2).padEnd(3, "0");
  return value === 0 ? 0 : Math.max(4 * value.toString(2).length - 4 + parseInt(digits.slice(1, 3), 2), 1);
});

/** @param {number} value at least 0 @returns {number} 0 to 23, two levels for every doubling */
export function level(value) {
  return LEVELS[Math.min(value, LARGEST_LEVELLED)];
}

/** @param {number} value at least 0 @returns {number} 0 to 47, four levels for every doubling */
export function fineLevel(value) {
  return FINE_LEVELS[Math.min(value, LARGEST_LEVELLED)];
}

/** Probabilities of decisions that learn from what was decided. */
export class Slots {
  /** @param {number} size @param {number} limit of the counts */
  constructor(size, limit) {
    this.limit = limit;
    this.probabilities = new Int32Array(size).fill(2 ** 29);
    this.counts = new Uint16Array(size);
  }

  /** Probability of a 1, in units of 2^-16, not clipped. */
  probability(slot) {
    return this.probabilities[slot] >> 14;
  }

  learn(slot, decision) {
    const [before, count] = [this.probabilities[slot], this.counts[slot]];
    this.probabilities[slot] = before + Math.floor(((decision * (2 ** 30 - 1) - before) * RATES[count]) / 2 ** 22);
    if (count < this.limit) this.counts[slot] = count + 1;
  }
}
