/** The decoder of c/metaq.c, compiled to WebAssembly by c/build_wasm.sh. */
import { ELEMENT_TYPES } from "./element_types.js";
import { MetaqError } from "./errors.js";
import { Tensor } from "./tensor.js";
import { decodeZstdFrame } from "./zstd.js";

/** Statuses of c/metaq.h that are more than a sentence. */
export const [OK, DAMAGED, TOO_LARGE, MEMORY, UNREADABLE, IS_UPDATE] = [0, 4, 5, 6, 7, 8];
const FIRST_BLOCK_BYTES = 2 ** 22;
/** Beside the file and its tensors, and constants: tables of the coders, and what the header says. */
const FURTHER_BYTES = 2 ** 28 - 2 ** 20;
const MOST_MEMORY_BYTES = 2 ** 32 - 2 ** 16;
/** Elements that are decoded without a pause. */
const PART = 2 ** 15;
const NUMBERS_OF_FACTS = 12;

let compiled;

/**
 * The compiled decoder.
 * @returns {Promise<WebAssembly.Module | undefined>} nothing where WebAssembly is not there, not allowed, or too old
 */
export function wasmModule() {
  compiled ??= compile().catch(() => undefined);
  return compiled;
}

async function compile() {
  const url = new URL("decoder.wasm", import.meta.url);
  if (url.protocol !== "file:") return WebAssembly.compile(await (await fetch(url)).arrayBuffer());
  // Node.js; the name is told so that no bundler looks for it.
  const files = "node:fs/promises";
  return WebAssembly.compile(await (await import(/* @vite-ignore */ files)).readFile(url));
}

/**
 * What a header says of a tensor.
 * @typedef {object} Facts
 * @property {number} number in the order of the names
 * @property {string} name
 * @property {import("./element_types.js").ElementType} type
 * @property {number[]} shape
 * @property {number} elements
 * @property {number} bytes of the elements
 * @property {number} tiedTo number of the tensor that has its elements, or -1
 * @property {boolean} isWhole whether it can be read only as a whole
 * @property {boolean} hasBasis
 * @property {number} start of its bytes in the file
 * @property {number} end
 */

/** A file that is being decoded. Its memory is at most that of the file, `maxBytes` and 256 MiB, and 4 GiB in all. */
export class WasmReader {
  #exports;
  #source;
  #maxBytes;
  #blockBytes = 0;
  #opened = [0, false];
  #zstdError;

  /**
   * @param {WebAssembly.Module} module
   * @param {{read: (position: number, into: Uint8Array) => number}} source
   * @param {number} maxBytes
   */
  constructor(module, source, maxBytes) {
    this.#source = source;
    this.#maxBytes = maxBytes;
    const env = {
      read: (position, out, size) => source.read(position >>> 0, this.#view(out, size)),
      zstd: (frame, size, out, outSize) => this.#decodeFrame(frame, size, out, outSize),
    };
    this.#exports = new WebAssembly.Instance(module, { env }).exports;
  }

  /**
   * Read the header.
   * @param {number} size of the file
   * @param {boolean} isPartial whether the file need not be there as a whole; its last checksum is not compared then
   * @returns {number} the status
   */
  open(size, isPartial) {
    if (size >= MOST_MEMORY_BYTES) return TOO_LARGE;
    if (this.#blockBytes === 0) this.#reserve(FIRST_BLOCK_BYTES, size);
    this.#opened = [size, isPartial];
    let status;
    do {
      status = this.#exports.open(size, Number(isPartial));
    } while (status === MEMORY && this.#hasGrown(Infinity));
    return status;
  }

  /** Make room for all tensors of a file that is opened, so that no tensor is begun anew. */
  prepare() {
    if (this.#needed <= this.#blockBytes) return;
    this.#reserve(this.#needed, this.#opened[0]);
    const status = this.open(...this.#opened);
    if (status !== OK) throw this.error(status);
  }

  /** Of a file that is opened. */
  get chunkCount() {
    return this.#exports.chunks() >>> 0;
  }

  /** Bytes of the file that hold the bases. */
  get basisRange() {
    return [this.#exports.basis_start() >>> 0, this.#exports.basis_end() >>> 0];
  }

  /** Refuses tensors, tied ones included, and bases that take more than `maxBytes`. @param {Facts[]} [tensors] */
  checkSize(tensors) {
    const bytes = tensors ? tensors.reduce((sum, tensor) => sum + tensor.bytes, 0) : this.bytes();
    const hasBasis = tensors ? tensors.some((tensor) => tensor.hasBasis) : true;
    this.#refuseTooLarge(bytes + (hasBasis ? this.#exports.basis_bytes() : 0));
  }

  /** @returns {Facts[]} in the order of the names */
  tensors() {
    return Array.from({ length: this.#exports.tensors() >>> 0 }, (_, number) => this.#facts(number));
  }

  /** Sum of the bytes of all tensors. */
  bytes() {
    return this.tensors().reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** @returns {Map<string, string | number | bigint>} */
  metadata() {
    const found = new Map();
    for (let number = 0; ; number += 1) {
      const place = this.#exports.metadatum(number) >>> 0;
      if (place === 0) return found;
      const view = new DataView(this.#memory, place);
      const [key, keySize, kind, text, textSize] = [0, 4, 8, 12, 16].map((offset) => view.getUint32(offset, true));
      const integer = view.getBigInt64(24, true);
      const whole = Number.isSafeInteger(Number(integer)) ? Number(integer) : integer;
      const values = [() => this.#text(text, textSize), () => whole, () => view.getFloat64(32, true)];
      found.set(this.#text(key, keySize), values[kind]());
    }
  }

  /**
   * Decode the elements of a tensor part by part.
   * @param {Facts} tensor
   * @param {Uint8Array} into all of its bytes
   * @returns {Generator<number>} how many bytes are there
   */
  *decode(tensor, into) {
    let status = yield* this.#attempt(tensor, into);
    while (status === MEMORY && this.#hasGrown(this.#needed)) {
      status = this.open(...this.#opened);
      if (status === OK) status = yield* this.#attempt(tensor, into);
    }
    if (status !== OK) throw this.error(status);
  }

  /** What a status says. @param {number} status */
  error(status) {
    if (this.#zstdError) return this.#zstdError;
    if (status === UNREADABLE) return this.error(DAMAGED);
    const place = this.#exports.sentence(status) >>> 0;
    const bytes = new Uint8Array(this.#memory, place);
    return new MetaqError(this.#text(place, bytes.indexOf(0)));
  }

  *#attempt(tensor, into) {
    let status = this.#exports.select(tensor.number);
    const part = tensor.isWhole ? tensor.elements : Math.min(PART, tensor.elements);
    const partBytes = part * tensor.type.size;
    for (let done = 0; done < into.length && status === OK;) {
      const bytes = Math.min(partBytes, into.length - done);
      const out = this.#reserve(this.#blockBytes, this.#opened[0], partBytes);
      status = tensor.isWhole ? this.#exports.read_all(out) : this.#exports.read_next(out, bytes / tensor.type.size);
      if (status !== OK) break;
      into.set(this.#view(out, bytes), done);
      done += bytes;
      yield done;
    }
    return status;
  }

  /** Twice as much room for the decoder, or enough, if the file needs more; it has to be opened again then. */
  #hasGrown(enough) {
    if (this.#needed <= this.#blockBytes) return false;
    const [size] = this.#opened;
    const most = this.#limit(size);
    this.#reserve(this.#needed > most ? this.#needed : Math.min(2 * this.#blockBytes, enough, most), size);
    return true;
  }

  /** What the decoder needed up to now or, after the header, what is enough for all tensors. */
  get #needed() {
    return this.#exports.needed() >>> 0;
  }

  get #memory() {
    return this.#exports.memory.buffer;
  }

  #view(place, size) {
    return new Uint8Array(this.#memory, place >>> 0, size >>> 0);
  }

  #text(place, size) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.#view(place, size));
  }

  #facts(number) {
    const place = this.#exports.tensor(number) >>> 0;
    const values = new Uint32Array(this.#memory, place, NUMBERS_OF_FACTS);
    const [name, nameSize, type, size, dimensions, shape, elements, tiedTo, isWhole, hasBasis, start, taken] = values;
    return {
      number,
      name: this.#text(name, nameSize),
      type: ELEMENT_TYPES[type],
      shape: dimensions > 0 ? Array.from(new Uint32Array(this.#memory, shape, dimensions)) : [],
      elements,
      bytes: elements * size,
      tiedTo: tiedTo | 0,
      isWhole: isWhole === 1,
      hasBasis: hasBasis === 1,
      start,
      end: start + taken,
    };
  }

  #limit(size) {
    return Math.min(size + this.#maxBytes + FURTHER_BYTES, MOST_MEMORY_BYTES);
  }

  #refuseTooLarge(bytes) {
    if (bytes > this.#maxBytes)
      throw new MetaqError(`The tensors need ${bytes} bytes, but maxBytes is ${this.#maxBytes}.`);
  }

  /** Room for the decoder, and for output behind it. @returns {number} where the output begins */
  #reserve(block, size, output = 0) {
    if (block + output > this.#limit(size))
      throw new MetaqError(`The file needs more memory to be decoded than ${this.#maxBytes} bytes of tensors should.`);
    const out = this.#exports.reserve(block, output) >>> 0;
    if (out === 0) throw new MetaqError("There is not enough memory here to decode the file.");
    this.#blockBytes = block;
    return out;
  }

  #decodeFrame(frame, size, out, outSize) {
    try {
      // It may be called before memory grows, so that nothing of it is kept.
      this.#view(out, outSize).set(decodeZstdFrame(this.#view(frame, size), outSize >>> 0));
      return 0;
    } catch (error) {
      if (!(error instanceof MetaqError)) throw error;
      this.#zstdError = error;
      return 1;
    }
  }
}

/** @param {Facts} facts @param {Uint8Array} bytes */
export function tensorOf({ name, type, shape }, bytes) {
  return new Tensor({ name, type, shape }, bytes);
}
