/** The bytes of a file: its frame, its header and its chunks, and tensors from them. */
import { Base } from "./base.js";
import { planChunks } from "./chunks.js";
import { decodeChunk } from "./coders.js";
import { crc32 } from "./crc32.js";
import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";
import { decodeHeaderBytes } from "./header_bytes.js";
import { readHeader, readMetadata } from "./header.js";
import { decodePlanes } from "./planes.js";
import { basisNumerators, restoredBytes } from "./restoring.js";
import { Tensor } from "./tensor.js";
import { decodeZstdFrame } from "./zstd.js";

export const VERSION = 1;
export const DEFAULT_MAX_BYTES = 2 ** 31;
const MAGIC = [0x8f, 0x4d, 0x54];
const [FILE, UPDATE] = [0x51, 0x44];
const PREAMBLE_BYTES = MAGIC.length + 2;
const [IDENTITY_BYTES, RESULT_BYTES] = [8, 4];
const CHECKSUM_BYTES = 4;
const MOST_HEADER_BYTES = 2 ** 28;

/**
 * What an update says of itself.
 * @typedef {object} UpdateFacts
 * @property {Uint8Array} base identity of the model that it is to be applied to
 * @property {Uint8Array} result last bytes of the identity of the model that it gives
 */

/**
 * A file whose chunks are not decoded yet.
 * @typedef {object} File
 * @property {UpdateFacts} [update] if it is one
 * @property {import("./header.js").Header} header
 * @property {import("./chunks.js").Chunk[]} chunks
 * @property {Uint8Array[]} payloads of the chunks
 * @property {Map<string, string | number | bigint>} metadata
 */

/**
 * Read all of a file but what is in its chunks; all checksums are compared.
 * @param {Uint8Array} bytes
 * @param {number} maxBytes largest sum of the sizes of its tensors
 * @returns {File}
 */
export function openFile(bytes, maxBytes) {
  checkFrame(bytes);
  const cursor = new Cursor(bytes.subarray(0, bytes.length - CHECKSUM_BYTES), "The file");
  const preamble = cursor.take(PREAMBLE_BYTES);
  const isUpdate = preamble[MAGIC.length] === UPDATE;
  const update = isUpdate ? { base: cursor.take(IDENTITY_BYTES), result: cursor.take(RESULT_BYTES) } : undefined;
  const header = readHeader(new Cursor(headerBytes(cursor), "The header"), isUpdate);
  refuseTooLarge(header, maxBytes);
  const chunks = planChunks(header);
  const sizes = chunks.map(() => header.cursor.varint());
  const metadata = readMetadata(header.cursor, header.metadataCount);
  return { update, header, chunks, payloads: takePayloads(cursor, sizes), metadata };
}

/**
 * Decode and restore the tensors of a file.
 * @param {File} file
 * @param {Map<string, Tensor>} [baseTensors] of the base of an update, by their names
 * @returns {Map<string, Tensor>} in the order of their names
 */
export function decodedTensors({ update, header, chunks, payloads }, baseTensors) {
  const base = update && new Base(header.entries, baseTensors);
  const symbols = decodeSymbols(header, chunks, payloads, base);
  return restoredTensors(header, chunks, payloads, symbols, base);
}

/** Refuses what is no file of this version, or damaged. */
function checkFrame(bytes) {
  if (MAGIC.some((byte, i) => bytes[i] !== byte) || ![FILE, UPDATE].includes(bytes[MAGIC.length]))
    throw new MetaqError("This is not a .metaq file.");
  const version = bytes[PREAMBLE_BYTES - 1];
  if (version === undefined) throw new MetaqError("The file ends after its first bytes.");
  if (version !== VERSION) throw new MetaqError(`The file is of version ${version}, which needs a newer reader.`);
  const end = bytes.length - CHECKSUM_BYTES;
  if (end < PREAMBLE_BYTES || checksumAt(bytes, end) !== crc32(bytes.subarray(0, end))) {
    throw new MetaqError("The file is damaged or cut short: its checksum is wrong.");
  }
}

function checksumAt(bytes, position) {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(position, true);
}

function headerBytes(cursor) {
  const code = new Cursor(cursor.take(cursor.varint()), "The header");
  const size = code.varintUpTo(MOST_HEADER_BYTES, "its size");
  return decodeHeaderBytes(code.rest(), size);
}

function refuseTooLarge({ entries, bases }, maxBytes) {
  const size = entries.reduce((sum, { elements, type }) => sum + elements * type.size, 0);
  const basisSize = bases.reduce((sum, basis) => sum + Float64Array.BYTES_PER_ELEMENT * basis.size ** 2, 0);
  if (size + basisSize > maxBytes)
    throw new MetaqError(`The tensors need ${size + basisSize} bytes, but maxBytes is ${maxBytes}.`);
}

/** The bytes of every chunk, checked one by one where there are several. */
function takePayloads(cursor, sizes) {
  const isOfSeveral = sizes.length > 1;
  const checksums = isOfSeveral ? new Cursor(cursor.take(CHECKSUM_BYTES * sizes.length), "The checksums") : undefined;
  if (isOfSeveral) {
    const before = cursor.position;
    if (readChecksum(cursor) !== crc32(cursor.bytes.subarray(0, before)))
      throw new MetaqError("The header is damaged.");
  }
  const payloads = sizes.map((size) => cursor.take(size));
  cursor.finish();
  payloads.forEach((payload, i) => {
    if (isOfSeveral && readChecksum(checksums) !== crc32(payload)) throw new MetaqError(`Chunk ${i} is damaged.`);
  });
  return payloads;
}

function readChecksum(cursor) {
  return checksumAt(cursor.take(CHECKSUM_BYTES), 0);
}

/** Bucket indices of all quantised tensors and bases, by their numbers. @returns {Map<number, Int32Array>} */
function decodeSymbols({ entries, bases }, chunks, payloads, base) {
  const symbols = new Map();
  const filled = new Map();
  chunks.forEach(({ coder, streams }, i) => {
    if (streams.length === 0) return;
    const told = base ? streams.map((stream) => base.told(stream)) : streams;
    decodeChunk(coder, payloads[i], told).forEach((coded, j) => {
      const { owner } = streams[j];
      const piece = base ? base.indices(coded, told[j]) : coded;
      const total = owner < 0 ? bases[owner + bases.length].size ** 2 : entries[owner].elements;
      if (piece.length === total) {
        symbols.set(owner, piece);
        return;
      }
      if (!symbols.has(owner)) symbols.set(owner, new Int32Array(total));
      symbols.get(owner).set(piece, filled.get(owner) ?? 0);
      filled.set(owner, (filled.get(owner) ?? 0) + piece.length);
    });
  });
  return symbols;
}

function restoredTensors({ entries, bases }, chunks, payloads, symbols, base) {
  const exact = new Map(chunks.flatMap(({ owner }, i) => (owner === undefined ? [] : [[owner, payloads[i]]])));
  const planes = decodedPlanes(entries, chunks, payloads);
  const decodedBases = bases.map(({ size, grid }, i) => {
    return { size, grid, numerators: basisNumerators(symbols.get(i - bases.length), grid) };
  });
  const found = [];
  entries.forEach((entry, i) => {
    if (entry.storage === "tied") found.push(found[entry.tiedTo]);
    else if (entry.storage !== "quantized") found.push(exactBytes(entry, exact.get(i) ?? planes.get(i)));
    else found.push(restoredBytes(entry, symbols.get(i) ?? new Int32Array(0), decodedBases[entry.basis]));
    if (entry.relation === "added") found[i] = base.plus(entry, found[i]);
  });
  return new Map(entries.map((entry, i) => [entry.name, new Tensor(entry, found[i])]));
}

/** Bytes of all tensors in planes, by their numbers. @returns {Map<number, Uint8Array>} */
function decodedPlanes(entries, chunks, payloads) {
  const found = new Map();
  const filled = new Map();
  chunks.forEach(({ pieces }, i) => {
    if (pieces.length === 0) return;
    const described = pieces.map((piece) => ({ ...piece, type: entries[piece.owner].type }));
    decodePlanes(payloads[i], described).forEach((bytes, j) => {
      const { owner } = pieces[j];
      const { elements, type } = entries[owner];
      if (!found.has(owner)) found.set(owner, new Uint8Array(elements * type.size));
      found.get(owner).set(bytes, filled.get(owner) ?? 0);
      filled.set(owner, (filled.get(owner) ?? 0) + bytes.length);
    });
  });
  return found;
}

function exactBytes(entry, payload) {
  const { name, type, elements, storage } = entry;
  const bytes = storage === "zstd" ? decodeZstdFrame(payload, elements * type.size) : (entry.inline ?? payload);
  if (bytes.length !== elements * type.size)
    throw new MetaqError(`${name} does not have as many bytes as its shape needs.`);
  if (type.name === "bool" && bytes.some((byte) => byte > 1))
    throw new MetaqError(`${name} has elements that are neither true nor false.`);
  return bytes;
}
