import { compareBytes } from "./byte_order.js";
import { ELEMENT_TYPES } from "./element_types.js";
import { MetaqError } from "./errors.js";
import { fits, readGrids } from "./grids.js";
import { readScales } from "./scales.js";

const MOST_TENSORS = 2 ** 18;
const MOST_ELEMENTS = 2 ** 33;
const MOST_NAME_BYTES = 2 ** 24;
const MOST_DIMENSIONS = 32;
const MOST_INLINE_BYTES = 64;
const MOST_BASIS_SIZE = 2 ** 14;
const LARGEST_CHUNK_LIMIT_BITS = 22;
const NAME_ENDINGS = ["", ".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked"];
const [EXACT, NEW_GRID, LAST_GRID, EARLIER_GRID] = [0, 1, 2, 3];
const [INLINE, TIED, DIFFERENCE] = [2, 3, 5];
const EXACT_STORAGES = ["raw", "zstd", "inline", "tied", "planes"];
const RELATIONS = ["alone", "given", "added"];

/**
 * What a header says of a tensor.
 * @typedef {object} Entry
 * @property {string} name
 * @property {import("./element_types.js").ElementType} type
 * @property {number[]} shape
 * @property {number} elements
 * @property {"raw" | "zstd" | "inline" | "tied" | "planes" | "quantized"} storage
 * @property {Uint8Array} [inline] elements of an inline tensor
 * @property {number} [tiedTo] number of the tensor with the same elements
 * @property {import("./grids.js").Grid} [grid]
 * @property {number} [coder]
 * @property {boolean} [byColumns] order of the scan
 * @property {number} [trellisBits] binary logarithm of the number of states, or 0
 * @property {number} [basis] number of the basis
 * @property {import("./scales.js").Scales} [scales] of rows and columns
 * @property {"alone" | "given" | "added"} [relation] to the tensor of the same name in the base, "alone" if there is none
 */

/**
 * @typedef {object} Header
 * @property {Entry[]} entries of all tensors
 * @property {{size: number, grid: import("./grids.js").Grid}[]} bases
 * @property {number} coder of all tensors that name none
 * @property {number} chunkLimit largest number of symbols of a chunk of several tensors
 * @property {import("./cursor.js").Cursor} cursor before the sizes of the chunks
 * @property {number} metadataCount
 * @property {number[]} removed numbers of tensors of the base of an update, ascending
 */

/**
 * Read a header up to the sizes of its chunks.
 * @param {import("./cursor.js").Cursor} cursor
 * @param {boolean} isUpdate whether the file is one
 * @returns {Header}
 */
export function readHeader(cursor, isUpdate) {
  const tensorCount = cursor.varintUpTo(MOST_TENSORS, "the number of tensors");
  const metadataCount = cursor.varint();
  const removed = isUpdate ? readRemoved(cursor) : [];
  const coderAndLimit = cursor.byte();
  const [coder, chunkLimitBits] = [coderAndLimit >>> 5, coderAndLimit & 31];
  if (chunkLimitBits > LARGEST_CHUNK_LIMIT_BITS) throw new MetaqError("The header allows chunks that are too large.");
  const names = readNames(cursor, tensorCount);
  const kinds = names.map((name) => ({ name, ...readKind(cursor, name) }));
  const elements = kinds.reduce(
    (sum, { shape }) => sum + shape.reduce((product, size) => product * Math.max(size, 1), 1),
    0,
  );
  if (elements > MOST_ELEMENTS) throw new MetaqError("The tensors have more elements than a file may hold.");
  const storage = new StorageReader(cursor, coder, isUpdate);
  for (const kind of kinds) storage.read(kind);
  const { entries, bases } = storage.finish();
  return { entries, bases, coder, chunkLimit: 2 ** chunkLimitBits, cursor, metadataCount, removed };
}

/** Numbers of tensors that an update takes away, as gaps between them. */
function readRemoved(cursor) {
  const removed = [];
  const count = cursor.varintUpTo(MOST_TENSORS, "the number of removed tensors");
  for (let last = -1; removed.length < count; last = removed[removed.length - 1]) {
    removed.push(last + 1 + cursor.varintUpTo(MOST_TENSORS, "a gap between removed tensors"));
  }
  return removed;
}

/**
 * Read metadata, which end the header.
 * @param {import("./cursor.js").Cursor} cursor
 * @param {number} count
 * @returns {Map<string, string | number | bigint>}
 */
export function readMetadata(cursor, count) {
  const metadata = new Map();
  let last;
  for (let i = 0; i < count; i += 1) {
    const keyBytes = cursor.take(cursor.varint());
    const key = decodedText(keyBytes, "a key of the metadata");
    if (last && compareBytes(last, keyBytes) >= 0)
      throw new MetaqError("The metadata are not in the order of their keys.");
    metadata.set(key, readMetadatum(cursor, key));
    last = keyBytes;
  }
  cursor.finish();
  return metadata;
}

function readMetadatum(cursor, key) {
  const kind = cursor.byte();
  if (kind === 0) return decodedText(cursor.take(cursor.varint()), `metadata ${key}`);
  if (kind === 1) {
    const folded = cursor.bigVarint();
    const value = folded & 1n ? -((folded + 1n) >> 1n) : folded >> 1n;
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  if (kind === 2) {
    const bytes = cursor.take(8);
    return new DataView(bytes.buffer, bytes.byteOffset, 8).getFloat64(0, true);
  }
  throw new MetaqError(`Metadata ${key} are of an unknown kind; the file needs a newer reader.`);
}

function readNames(cursor, count) {
  const names = [];
  let last = new Uint8Array(0);
  let totalBytes = 0;
  for (let i = 0; i < count; i += 1) {
    const shared = cursor.varintUpTo(last.length, "the start that a name shares");
    const field = cursor.varint();
    const ending = NAME_ENDINGS[field % 8];
    if (ending === undefined) throw new MetaqError("A name has an unknown ending; the file needs a newer reader.");
    const middle = cursor.take(Math.floor(field / 8));
    const name = joined(last.subarray(0, shared), middle, new TextEncoder().encode(ending));
    if (i > 0 && compareBytes(last, name) >= 0)
      throw new MetaqError("The tensors are not in the order of their names.");
    totalBytes += name.length;
    if (totalBytes > MOST_NAME_BYTES) throw new MetaqError("The names of the tensors are too long.");
    names.push(decodedText(name, "the name of a tensor"));
    last = name;
  }
  return names;
}

function readKind(cursor, name) {
  const byte = cursor.byte();
  const type = ELEMENT_TYPES[byte & 31];
  if (!type) throw new MetaqError(`${name} is of an unknown element type; the file needs a newer reader.`);
  const dimensions = byte >>> 5 < 7 ? byte >>> 5 : cursor.varintUpTo(MOST_DIMENSIONS, "the number of dimensions");
  if (byte >>> 5 === 7 && dimensions < 7)
    throw new MetaqError(`${name} does not give its dimensions in the shortest form.`);
  const shape = Array.from({ length: dimensions }, () => cursor.varintUpTo(MOST_ELEMENTS, "a size"));
  const elements = shape.reduce((product, size) => product * size, 1);
  return { type, shape, elements };
}

/** Reads the storage of all tensors, then their grids and bases. */
class StorageReader {
  constructor(cursor, coder, isUpdate) {
    Object.assign(this, { cursor, coder, isUpdate });
    this.entries = [];
    this.gridNumbers = [];
    this.gridCount = 0;
    this.basisCount = 0;
    this.lastGrid = undefined;
  }

  read(kind) {
    const byte = this.cursor.byte();
    const entry = (byte & 3) === EXACT ? this.#exact(kind, byte >>> 2) : this.#quantized(kind, byte);
    this.entries.push({ ...kind, ...entry });
  }

  finish() {
    const sizes = Array.from({ length: this.basisCount }, () =>
      this.cursor.varintUpTo(MOST_BASIS_SIZE, "the size of a basis"),
    );
    const grids = readGrids(this.cursor, this.gridCount + this.basisCount);
    const bases = sizes.map((size, i) => checkedBasis({ size, grid: grids[this.gridCount + i] }));
    const entries = this.entries.map((entry, i) => {
      if (entry.storage !== "quantized") return entry;
      const scales = entry.isScaled ? readScales(this.cursor, entry) : undefined;
      return checkedQuantized({ ...entry, scales, grid: grids[this.gridNumbers[i]] }, bases);
    });
    return { entries, bases };
  }

  #exact(kind, way) {
    const { name, type, elements } = kind;
    if (way === TIED) return this.#tied(kind);
    const isDifference = this.isUpdate && way === DIFFERENCE;
    const storage = isDifference ? "planes" : EXACT_STORAGES[way];
    if (!storage) throw new MetaqError(`${name} is stored in an unknown way; the file needs a newer reader.`);
    if (elements === 0 && way !== INLINE) throw new MetaqError(`${name} has no elements, but a chunk.`);
    if (isDifference && (type.name === "bool" || type.name.startsWith("complex")))
      throw new MetaqError(`${name} is of type ${type.name}, whose elements have no differences.`);
    if (way !== INLINE) return { storage, relation: isDifference ? "added" : "alone" };
    if (elements * type.size > MOST_INLINE_BYTES) throw new MetaqError(`${name} is too large for the header.`);
    return { storage, inline: this.cursor.take(elements * type.size) };
  }

  #tied({ name, type, shape }) {
    const tiedTo = this.cursor.varint();
    const other = this.entries[tiedTo];
    const isAlike = other && other.storage !== "tied" && other.type === type && String(other.shape) === String(shape);
    if (!isAlike) throw new MetaqError(`${name} is tied to a tensor that is not there or is another kind of tensor.`);
    return { storage: "tied", tiedTo };
  }

  #quantized({ name, type }, byte) {
    if (!type.isQuantizable)
      throw new MetaqError(`${name} is of type ${type.name}, which cannot be quantised.`);
    const trellis = (byte >>> 3) & 7;
    const coder = byte & 64 ? this.cursor.varint() : this.coder;
    this.gridNumbers[this.entries.length] = this.#gridNumber(name, byte & 3);
    const entry = {
      storage: "quantized",
      coder,
      byColumns: (byte & 4) !== 0,
      trellisBits: trellis === 1 ? 8 : trellis,
    };
    if ((byte & 128) === 0) return entry;
    const more = this.cursor.varint() + 1;
    const [isScaled, rest] = [more % 2 === 1, Math.floor(more / 2)];
    const relations = this.isUpdate ? RELATIONS : RELATIONS.slice(0, 1);
    const relation = relations[rest % relations.length];
    const basisAndOne = Math.floor(rest / relations.length);
    if (basisAndOne === 0) return { ...entry, isScaled, relation };
    if (relation === "given") throw new MetaqError(`${name} has a basis, but takes the place of a tensor of the base.`);
    return { ...entry, isScaled, relation, basis: this.#basisNumber(name, basisAndOne - 1) };
  }

  #gridNumber(name, kind) {
    if (kind === NEW_GRID) {
      this.lastGrid = this.gridCount;
      this.gridCount += 1;
    } else if (kind === EARLIER_GRID) {
      this.lastGrid = this.cursor.varint();
    }
    if (this.lastGrid === undefined || this.lastGrid >= this.gridCount)
      throw new MetaqError(`${name} is on a grid that is not there.`);
    return this.lastGrid;
  }

  #basisNumber(name, number) {
    if (number > this.basisCount) throw new MetaqError(`${name} names a basis that is not there.`);
    this.basisCount = Math.max(this.basisCount, number + 1);
    return number;
  }
}

function checkedBasis(basis) {
  if (basis.size < 1 || basis.grid.center !== 0 || basis.grid.count % 2 === 0) {
    throw new MetaqError("A basis has no columns, or a grid that is not centred on a bucket at zero.");
  }
  return basis;
}

function checkedQuantized(entry, bases) {
  const { name, type, grid, shape, scales, trellisBits } = entry;
  // How far combinations reach is known only once their basis is decoded.
  if (entry.basis === undefined && !fits(grid, type, scales?.largest))
    throw new MetaqError(`${name} has reference values that are too large for ${type.name}.`);
  if (trellisBits > 0 && grid.count % 2 === 0)
    throw new MetaqError(`${name} has a trellis, but an even number of buckets.`);
  if (entry.relation === "added" && grid.center !== 0)
    throw new MetaqError(`${name} is added to a tensor of the base, but its grid has the centre ${grid.center}.`);
  if (entry.basis === undefined) return entry;
  const basis = bases[entry.basis];
  const isSound =
    shape.length === 2 && shape[1] === basis.size && !entry.byColumns && grid.center === 0 && grid.count % 2 === 1;
  if (!isSound) throw new MetaqError(`${name} does not fit its basis.`);
  if (grid.count * basis.grid.count * basis.size >= 2 ** 53)
    throw new MetaqError(`${name} has too many buckets for its basis.`);
  return entry;
}

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}

function decodedText(bytes, what) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new MetaqError(`${what} is not UTF-8.`);
  }
}
