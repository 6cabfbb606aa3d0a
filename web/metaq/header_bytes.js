import { MetaqError } from "./errors.js";
import { HEADER_DICTIONARY } from "./header_dictionary.js";
import { logistic, logit } from "./logistic.js";

const ORDERS = 5;
const BUCKET = 16;
const BUCKET_BITS = 14;
const OF_CONTEXT = 625341585;
const OF_HALF = 2654435761;
const FIRST_WEIGHT = 22000;
const LARGEST_COUNT = 30;
const MOST_BYTES_PER_CODED_BYTE = 400;
const ALLOWANCE_BYTES = 8;

/**
 * Decode the bytes of a header.
 * @param {Uint8Array} code
 * @param {number} size of the header in bytes
 * @returns {Uint8Array}
 */
export function decodeHeaderBytes(code, size) {
  if (size > MOST_BYTES_PER_CODED_BYTE * (code.length + ALLOWANCE_BYTES)) {
    throw new MetaqError(`The header is said to have ${size} bytes, which ${code.length} coded bytes cannot hold.`);
  }
  const model = new ByteModel();
  for (const byte of HEADER_DICTIONARY) model.learnByte(byte);
  const decoder = new BinaryDecoder(code);
  const header = new Uint8Array(size);
  for (let i = 0; i < size; i += 1) header[i] = model.decodeByte(decoder);
  decoder.finish();
  return header;
}

/** Probabilities of the bits of the next byte after the four bytes before it. */
class ByteModel {
  constructor() {
    this.history = 0;
    this.probabilities = Array.from({ length: ORDERS }, () => new Int32Array(BUCKET << BUCKET_BITS).fill(2 ** 21));
    this.counts = Array.from({ length: ORDERS }, () => new Uint8Array(BUCKET << BUCKET_BITS));
    this.weightSets = Array.from({ length: ORDERS }, () => new Array(ORDERS).fill(FIRST_WEIGHT));
    this.buckets = new Array(ORDERS).fill(0);
    this.slots = new Array(ORDERS).fill(0);
    this.inputs = new Array(ORDERS).fill(0);
    this.weights = this.weightSets[0];
    this.prediction = 0;
  }

  learnByte(byte) {
    this.#overBits((node, bit) => {
      const decision = (byte >>> bit) & 1;
      this.#predict(node);
      return decision;
    });
  }

  decodeByte(decoder) {
    return this.#overBits((node) => decoder.decide(this.#predict(node)));
  }

  #overBits(decide) {
    let byte = 0;
    let node = 0;
    for (let bit = 7; bit >= 0; bit -= 1) {
      if (bit % 4 === 3) {
        this.#chooseBuckets(node);
        node = 1;
      }
      const decision = decide(node, bit);
      this.#learn(decision);
      node = 2 * node + decision;
      byte = 2 * byte + decision;
    }
    this.history = ((this.history << 8) | byte) >>> 0;
    return byte;
  }

  /** Buckets of half a byte; `first` is 0 for the first half, and 16 and that half for the second. */
  #chooseBuckets(first) {
    for (let order = 0; order < ORDERS; order += 1) {
      const mixed = Math.imul(this.history % 256 ** order, OF_CONTEXT) + Math.imul(first, OF_HALF);
      this.buckets[order] = BUCKET * ((mixed | 0) >>> (32 - BUCKET_BITS));
    }
  }

  #predict(node) {
    let sum = 0;
    let set = 0;
    for (let order = 0; order < ORDERS; order += 1) {
      const slot = this.buckets[order] + node;
      this.slots[order] = slot;
      this.inputs[order] = logit(this.probabilities[order][slot] >> 6);
      if (this.counts[order][slot] > 0) set = order;
    }
    this.weights = this.weightSets[set];
    for (let order = 0; order < ORDERS; order += 1) sum += this.weights[order] * this.inputs[order];
    this.prediction = Math.max(128, Math.min(65408, logistic(Math.floor(sum / 65536))));
    return this.prediction;
  }

  #learn(decision) {
    const error = 4 * (65536 * decision - this.prediction);
    for (let order = 0; order < ORDERS; order += 1) {
      this.weights[order] += Math.floor((this.inputs[order] * error + 2 ** 15) / 65536);
      const [probabilities, counts, slot] = [this.probabilities[order], this.counts[order], this.slots[order]];
      const rate = Math.floor(131072 / (2 * counts[slot] + 3));
      probabilities[slot] += Math.floor(((decision * (2 ** 22 - 1) - probabilities[slot]) * rate) / 65536);
      counts[slot] = Math.min(counts[slot] + 1, LARGEST_COUNT);
    }
  }
}

/** Decodes decisions between the bounds `low` and `high`, both included. */
class BinaryDecoder {
  constructor(bytes) {
    this.bytes = bytes;
    this.low = 0;
    this.high = 2 ** 32 - 1;
    this.code = 0;
    this.taken = 0;
    for (let i = 0; i < 4; i += 1) this.code = this.code * 256 + this.#next();
  }

  decide(probability) {
    const middle = this.low + Math.floor(((this.high - this.low) * probability) / 65536);
    const decision = this.code <= middle ? 1 : 0;
    if (decision) this.high = middle;
    else this.low = middle + 1;
    while ((this.low ^ this.high) >>> 24 === 0) {
      this.low = (this.low << 8) >>> 0;
      this.high = ((this.high << 8) | 255) >>> 0;
      this.code = ((this.code << 8) | this.#next()) >>> 0;
    }
    return decision;
  }

  /** Refuses an ending that no encoder writes. */
  finish() {
    for (let bytes = 0; bytes <= 4; bytes += 1) {
      const unit = 256 ** (4 - bytes);
      const least = Math.ceil(this.low / unit) * unit;
      if (least <= this.high) {
        const written = this.taken - 4 + bytes;
        if (this.code === least && this.bytes.length === written) return;
        break;
      }
    }
    throw new MetaqError("The header's code does not end as it should.");
  }

  #next() {
    this.taken += 1;
    return this.bytes[this.taken - 1] ?? 0;
  }
}
