import { MetaqError } from "./errors.js";
import { ELEMENT_TYPES } from "./element_types.js";
import { placeInOrder } from "./restoring.js";
import { factorAt } from "./scales.js";

const [LOWEST_HINT, HIGHEST_HINT] = [-32, 31];

/** What an update is told by: tensors of its base, beside its own. */
export class Base {
  /**
   * @param {import("./header.js").Entry[]} entries of the update
   * @param {Map<string, import("./tensor.js").Tensor>} tensors of the base
   */
  constructor(entries, tensors) {
    this.entries = entries;
    this.tensors = tensors;
    this.lastValues = undefined;
    for (const entry of entries) if (isTold(entry)) refuseOther(entry, tensors.get(entry.name));
  }

  /**
   * A stream with what its coder is told of the base.
   * @param {import("./chunks.js").Stream} stream
   * @returns {import("./chunks.js").Stream & {nearest?: Int32Array}} with buckets nearest to the base, if they tell symbols
   */
  told(stream) {
    const entry = this.entries[stream.owner];
    if (stream.owner < 0 || !isTold(entry)) return stream;
    const { count } = entry.grid;
    const halves = this.#halves(entry, stream);
    if (entry.relation === "added")
      return { ...stream, hints: Int8Array.from(halves, (half) => hint(Math.floor((half + 1) / 2))) };
    const nearest = Int32Array.from(halves, (half) => clip(Math.floor((half + count) / 2), 0, count - 1));
    const middle = Math.floor((count - 1) / 2);
    return { ...stream, nearest, hints: Int8Array.from(nearest, (bucket) => hint(bucket - middle)) };
  }

  /**
   * Bucket indices of a stream that was decoded.
   * @param {Int32Array} symbols
   * @param {ReturnType<Base["told"]>} stream
   * @returns {Int32Array}
   */
  indices(symbols, { owner, nearest }) {
    if (!nearest) return symbols;
    const { name, grid } = this.entries[owner];
    const found = symbols.map((symbol, i) => symbol + nearest[i] - (grid.count - 1));
    if (found.some((index) => index < 0 || index >= grid.count))
      throw new MetaqError(`${name} has a symbol that leads outside its ${grid.count} buckets.`);
    return found;
  }

  /**
   * Elements of the base with what the update adds to them: values, or differences of bits.
   * @param {import("./header.js").Entry} entry
   * @param {Uint8Array} bytes what is added
   * @returns {Uint8Array}
   */
  plus({ name, type, storage }, bytes) {
    const base = this.tensors.get(name).bytes;
    return storage === "quantized" ? sumOfValues(type, base, bytes) : withDifferences(type.size, base, bytes);
  }

  /** The base in units of half a step from the centre of the grid, in the order of the scan. @returns {Float64Array} */
  #halves(entry, { owner, start, count }) {
    const { center, radius, count: buckets } = entry.grid;
    const values = this.#values(owner);
    const placeOf = placeInOrder(entry);
    const factorOf = entry.scales ? factorAt(entry.scales, entry) : () => 1;
    const halves = new Float64Array(count);
    for (let i = 0; i < count; i += 1) {
      const place = placeOf(start + i);
      const half = ((values[place] / factorOf(place) - center) * buckets) / radius;
      halves[i] = Number.isNaN(half) ? 0 : half;
    }
    return halves;
  }

  /** Values of the base of a tensor, kept for its next piece. */
  #values(owner) {
    if (this.lastValues?.owner !== owner) {
      const { name, type } = this.entries[owner];
      this.lastValues = { owner, values: valuesOf(type, this.tensors.get(name).bytes) };
    }
    return this.lastValues.values;
  }
}

function isTold({ relation }) {
  return relation === "given" || relation === "added";
}

function refuseOther({ name, type, shape }, tensor) {
  if (tensor?.dtype === type.name && String(tensor.shape) === String(shape)) return;
  throw new MetaqError(`The base has no tensor ${name} of type ${type.name} and shape [${shape.join(", ")}].`);
}

function hint(value) {
  return clip(value, LOWEST_HINT, HIGHEST_HINT);
}

function clip(value, lowest, highest) {
  return Math.max(lowest, Math.min(highest, value));
}

function valuesOf(type, bytes) {
  return type.read(Uint8Array.from(bytes).buffer);
}

/** Sums in float64, rounded to the type. */
function sumOfValues(type, base, added) {
  const [left, right] = [valuesOf(type, base), valuesOf(type, added)];
  const sums = new Uint8Array(base.length);
  const view = new DataView(sums.buffer);
  for (let i = 0; i < left.length; i += 1) {
    const sum = left[i] + right[i];
    if (Number.isNaN(sum)) putNaN(type, base, sums, i * type.size);
    else type.write(view, i * type.size, sum);
  }
  return sums;
}

/** What marks a NaN as quiet, by element type: a byte of it, and a bit of that. */
const QUIET = { float32: [2, 0x40], float16: [1, 0x02], bfloat16: [0, 0x40], float64: [6, 0x08] };

/** Of a NaN of the base, the sum is the same one, but quiet; in types of eight bits, the largest number with its sign. */
function putNaN(type, base, sums, offset) {
  if (type.size === 1) {
    type.write(new DataView(sums.buffer), offset, base[offset] & 0x80 ? -type.largest : type.largest);
    return;
  }
  sums.set(base.subarray(offset, offset + type.size), offset);
  const [byte, bit] = QUIET[type.name];
  sums[offset + byte] |= bit;
}

/** Elements of the base, as unsigned integers, with what is added to each modulo 2^(8 size): 0, -1, 1, -2, … as 0, 1, 2, 3, … */
function withDifferences(size, base, differences) {
  const sums = new Uint8Array(base.length);
  for (let start = 0; start < base.length; start += size) {
    const sign = differences[start] & 1 ? 0xff : 0;
    let carry = 0;
    for (let k = start; k < start + size; k += 1) {
      const higher = k + 1 < start + size ? differences[k + 1] : 0;
      const step = (((differences[k] >>> 1) | (higher << 7)) & 0xff) ^ sign;
      const sum = base[k] + step + carry;
      sums[k] = sum;
      carry = sum >>> 8;
    }
  }
  return sums;
}
