import { decodeChunk } from "./coders.js";
import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";
import { LowFirstReader } from "./low_first_reader.js";
import { decodeZstdFrame } from "./zstd.js";

const WHAT = "A chunk of planes";
const [RAW, ZSTD, PLANES, PALETTE] = [0, 1, 2, 3];
const [SIGN_LAST, SIGN_FLIPPED] = [1, 2];
const [RAW_FIELD, CODED_FIELD] = [1, 2];
const MOST_RAW_BITS = 56;
const MOST_CODED_BITS = 16;
const MOST_CODED_FIELDS = 8;
const MOST_PALETTE = 2 ** 16;
/** Coders that may code fields: small and fast. */
const FIELD_CODERS = [1, 2];

/**
 * How a piece is stored.
 * @typedef {object} Form
 * @property {number} way
 * @property {number} count of elements, complex ones counting twice
 * @property {number} size of an element in bytes
 * @property {number} [length] bytes of a Zstandard frame, or elements of a palette
 * @property {number} [turn]
 * @property {{kind: number, width: number, shift: number}[]} [fields] from the highest bits down
 * @property {number} [rowLength]
 * @property {boolean} [byColumns]
 */

/**
 * Decode a chunk of exact tensors in planes.
 * @param {Uint8Array} payload
 * @param {{count: number, rowLength: number, type: import("./element_types.js").ElementType}[]} pieces
 * @returns {Uint8Array[]} little-endian elements of every piece
 */
export function decodePlanes(payload, pieces) {
  const cursor = new Cursor(payload, WHAT);
  const coder = cursor.byte();
  const forms = pieces.map((piece) => readForm(cursor, piece));
  const bodies = forms.map((form) => cursor.take(bodySize(form)));
  const streams = forms.flatMap(streamsOf);
  if (streams.length > 0 ? !FIELD_CODERS.includes(coder) : coder !== 0)
    throw new MetaqError(`${WHAT} has ${streams.length} coded fields, which the coder ${coder} is not for.`);
  const symbols = streams.length > 0 ? decodeChunk(coder, cursor.rest(), streams) : [];
  cursor.finish();
  let taken = 0;
  return forms.map((form, i) => {
    const own = symbols.slice(taken, taken + streamsOf(form).length);
    taken += own.length;
    return restored(form, bodies[i], own);
  });
}

/** @returns {Form} */
function readForm(cursor, { count, rowLength, type }) {
  const parts = type.name.startsWith("complex") ? 2 : 1;
  const shape = { count: parts * count, size: type.size / parts };
  const first = cursor.byte();
  const [way, turn, byColumns] = [first & 3, (first >>> 2) & 3, first >>> 4 === 1];
  const isPlain = way === RAW || way === ZSTD;
  if (first > 31 || turn > SIGN_FLIPPED || (way !== PLANES && turn > 0) || (isPlain && first > 3))
    throw new MetaqError(`${WHAT} has elements in an unknown form.`);
  const length = way === ZSTD || way === PALETTE ? cursor.varint() : 0;
  if (way === PALETTE && (length < 1 || length > MOST_PALETTE)) throw new MetaqError(`${WHAT} has too large a palette.`);
  if (isPlain) return { ...shape, way, length };
  const told = cursor.varintUpTo(shape.count + 1, "the length of a row");
  const form = { ...shape, way, length, turn, byColumns, rowLength: told === 0 ? parts * rowLength : told - 1 };
  if (way === PLANES) form.fields = readFields(cursor, 8 * shape.size);
  if (byColumns && (form.rowLength === 0 || form.count % form.rowLength !== 0))
    throw new MetaqError(`${WHAT} has columns of a matrix that is none.`);
  return form;
}

function readFields(cursor, bits) {
  const fields = [];
  for (let shift = bits; shift > 0;) {
    const byte = cursor.byte();
    const [kind, width] = [byte >>> 6, byte & 63];
    if (kind > CODED_FIELD || width < 1 || width > shift || (kind === CODED_FIELD && width > MOST_CODED_BITS))
      throw new MetaqError(`${WHAT} has an unknown field of bits.`);
    shift -= width;
    fields.push({ kind, width, shift });
  }
  if (rawWidth(fields) > MOST_RAW_BITS || coded(fields).length > MOST_CODED_FIELDS)
    throw new MetaqError(`${WHAT} has elements of too many fields.`);
  return fields;
}

function rawWidth(fields) {
  return fields.reduce((sum, { kind, width }) => sum + (kind === RAW_FIELD ? width : 0), 0);
}

function coded(fields) {
  return fields.filter(({ kind }) => kind === CODED_FIELD);
}

function bodySize({ way, count, size, length, fields }) {
  if (way === RAW) return count * size;
  if (way === ZSTD) return length;
  return way === PALETTE ? length * size : Math.ceil((count * rawWidth(fields)) / 8);
}

/** @returns {import("./chunks.js").Stream[]} */
function streamsOf({ way, count, length, fields, rowLength, byColumns }) {
  if (way === RAW || way === ZSTD) return [];
  const alphabets = way === PALETTE ? [length] : coded(fields).map(({ width }) => 2 ** width);
  const told = byColumns ? count / rowLength : rowLength;
  return alphabets.map((alphabetSize) => ({ count, alphabetSize, trellisBits: 0, rowLength: told }));
}

function restored(form, body, symbols) {
  const { way, count, size } = form;
  if (way === RAW) return body;
  if (way === ZSTD) return decodeZstdFrame(body, count * size);
  const bytes = way === PALETTE ? fromPalette(form, body, symbols[0]) : fromFields(form, body, symbols);
  return form.byColumns ? byRows(form, bytes) : bytes;
}

function fromPalette({ count, size }, body, symbols) {
  const bytes = new Uint8Array(count * size);
  for (let i = 0; i < count; i += 1) {
    for (let k = 0; k < size; k += 1) bytes[i * size + k] = body[symbols[i] * size + k];
  }
  return bytes;
}

function fromFields({ count, size, turn, fields }, body, symbols) {
  const keys = new Keys(count, size);
  coded(fields).forEach(({ shift }, j) => {
    for (let i = 0; i < count; i += 1) keys.put(i, symbols[j][i], shift);
  });
  readRawBits(keys, count, body, fields);
  if (turn === SIGN_LAST) keys.signFirst();
  if (turn === SIGN_FLIPPED) keys.flipSign();
  return keys.bytes();
}

/** The lowest bits of an element come first. */
function readRawBits(keys, count, body, fields) {
  const pieces = fields
    .filter(({ kind }) => kind === RAW_FIELD)
    .reverse()
    .flatMap(inPieces);
  const reader = new LowFirstReader(new Cursor(body, WHAT), WHAT);
  for (let i = 0; i < count; i += 1) {
    for (const { width, shift } of pieces) keys.put(i, reader.bits(width), shift);
  }
  reader.align();
}

/** A field as pieces of at most 16 bits, the lowest first. */
function inPieces({ width, shift }) {
  const pieces = [];
  for (let done = 0; done < width; done += MOST_CODED_BITS) {
    pieces.push({ width: Math.min(MOST_CODED_BITS, width - done), shift: shift + done });
  }
  return pieces;
}

/** Elements as unsigned integers of up to 64 bits, in two halves. */
class Keys {
  constructor(count, size) {
    this.size = size;
    this.low = new Uint32Array(count);
    this.high = new Uint32Array(size > 4 ? count : 0);
  }

  /** Sets bits `shift` and above of element `i`, which are zero, to a value of at most 16 bits. */
  put(i, value, shift) {
    if (shift >= 32) {
      this.high[i] |= value << (shift - 32);
      return;
    }
    this.low[i] |= value << shift;
    if (shift > 16 && this.size > 4) this.high[i] |= value >>> (32 - shift);
  }

  /** The lowest bit becomes the highest, and all others move down. */
  signFirst() {
    const { low, high } = this;
    for (let i = 0; i < low.length; i += 1) {
      const sign = low[i] & 1;
      if (this.size > 4) {
        low[i] = (low[i] >>> 1) | (high[i] << 31);
        high[i] = (high[i] >>> 1) | (sign << 31);
      } else {
        low[i] = (low[i] >>> 1) | (sign << (8 * this.size - 1));
      }
    }
  }

  flipSign() {
    const [words, bit] = this.size > 4 ? [this.high, 1 << 31] : [this.low, 1 << (8 * this.size - 1)];
    for (let i = 0; i < words.length; i += 1) words[i] ^= bit;
  }

  bytes() {
    const { low, high, size } = this;
    const bytes = new Uint8Array(low.length * size);
    for (let i = 0; i < low.length; i += 1) {
      for (let k = 0; k < Math.min(size, 4); k += 1) bytes[i * size + k] = low[i] >>> (8 * k);
      for (let k = 4; k < size; k += 1) bytes[i * size + k] = high[i] >>> (8 * (k - 4));
    }
    return bytes;
  }
}

/** Elements that come column by column, row by row. */
function byRows({ count, size, rowLength }, bytes) {
  const rows = count / rowLength;
  const found = new Uint8Array(bytes.length);
  for (let i = 0; i < count; i += 1) {
    const place = (i % rows) * rowLength + Math.floor(i / rows);
    for (let k = 0; k < size; k += 1) found[place * size + k] = bytes[i * size + k];
  }
  return found;
}
