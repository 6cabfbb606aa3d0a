/**
 * What a coder is told of a tensor or a piece of one.
 * @typedef {object} Stream
 * @property {number} owner number of the tensor; bases come before all tensors, as numbers below 0
 * @property {number} start number of its first symbol in the order of the scan
 * @property {number} count of symbols
 * @property {number} alphabetSize
 * @property {number} trellisBits
 * @property {number} rowLength
 * @property {Int8Array} [hints] what the base of an update tells of every symbol
 */

/**
 * A tensor in planes, or a piece of one.
 * @typedef {object} Piece
 * @property {number} owner number of the tensor
 * @property {number} count of elements
 * @property {number} rowLength
 */

/**
 * @typedef {object} Chunk
 * @property {number} [coder] of bucket indices
 * @property {number} [owner] number of the exact tensor that the chunk is
 * @property {Stream[]} streams of bucket indices
 * @property {Piece[]} pieces of tensors in planes
 */

/**
 * Which chunks a file has, and what they hold.
 * @param {import("./header.js").Header} header
 * @returns {Chunk[]}
 */
export function planChunks({ entries, bases, coder, chunkLimit }) {
  const planner = new Planner(chunkLimit);
  bases.forEach((basis, i) => planner.addQuantized(i - bases.length, basisEntry(basis, coder)));
  entries.forEach((entry, i) => {
    if (entry.storage === "quantized" && entry.elements > 0) planner.addQuantized(i, entry);
    if (entry.storage === "raw" || entry.storage === "zstd") planner.addWhole(i);
    if (entry.storage === "planes") planner.addPlanes(i, entry);
  });
  return planner.chunks.map(({ key, owner, held }) => {
    return key === PLANES ? { streams: [], pieces: held } : { coder: key, owner, streams: held, pieces: [] };
  });
}

/** A basis as if it were a tensor. @returns {Partial<import("./header.js").Entry>} */
function basisEntry({ size, grid }, coder) {
  return { shape: [size, size], elements: size * size, grid, coder, byColumns: false, trellisBits: 0 };
}

/** In place of the number of a coder. */
const PLANES = "planes";

class Planner {
  constructor(limit) {
    this.limit = limit;
    this.chunks = [];
    this.open = new Map();
  }

  addWhole(owner) {
    this.chunks.push({ owner, held: [] });
  }

  addPlanes(owner, entry) {
    const symbolsPerElement = Math.max(Math.floor(entry.type.size / 2), 1);
    this.#add(PLANES, { owner, count: entry.elements, rowLength: rowLengthOf(entry) }, symbolsPerElement);
  }

  addQuantized(owner, entry) {
    const { coder, elements, grid, relation } = entry;
    const isGiven = relation === "given";
    const stream = {
      owner,
      start: 0,
      count: elements,
      alphabetSize: isGiven ? 2 * grid.count - 1 : grid.count,
      trellisBits: isGiven ? 0 : entry.trellisBits,
      rowLength: rowLengthOf(entry),
    };
    this.#add(coder, stream, 1);
  }

  /** Tensors with the same key share chunks. */
  #add(key, tensor, symbolsPerElement) {
    const symbols = tensor.count * symbolsPerElement;
    if (symbols > this.limit) this.#cut(key, tensor, Math.max(Math.floor(this.limit / symbolsPerElement), 1));
    else this.#join(key, tensor, symbols);
  }

  #join(key, tensor, symbols) {
    let chunk = this.open.get(key);
    if (!chunk || chunk.symbols + symbols > this.limit) {
      chunk = { key, held: [], symbols: 0 };
      this.open.set(key, chunk);
      this.chunks.push(chunk);
    }
    chunk.symbols += symbols;
    chunk.held.push(tensor);
  }

  #cut(key, tensor, most) {
    this.open.delete(key);
    const keepsRows = tensor.rowLength > 0 && tensor.rowLength <= most;
    const rowLength = keepsRows ? tensor.rowLength : 0;
    const pieceSize = keepsRows ? Math.floor(most / rowLength) * rowLength : most;
    for (let start = 0; start < tensor.count; start += pieceSize) {
      const count = Math.min(pieceSize, tensor.count - start);
      this.chunks.push({ key, held: [{ ...tensor, start, count, rowLength }] });
    }
  }
}

function rowLengthOf({ shape, byColumns }) {
  if (byColumns) return shape.length > 0 ? shape[0] : 0;
  return shape.length > 1 ? shape.slice(1).reduce((product, size) => product * size, 1) : 0;
}
