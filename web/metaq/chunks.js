/**
 * What a coder is told of a tensor or a piece of one.
 * @typedef {object} Stream
 * @property {number} owner number of the tensor; bases come before all tensors, as numbers below 0
 * @property {number} count of symbols
 * @property {number} alphabetSize
 * @property {number} trellisBits
 * @property {number} rowLength
 */

/**
 * @typedef {object} Chunk
 * @property {number} [coder] of bucket indices
 * @property {number} [owner] number of the exact tensor that the chunk is
 * @property {Stream[]} streams
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
    if (entry.storage === "raw" || entry.storage === "zstd") planner.addExact(i);
  });
  return planner.chunks;
}

/** A basis as if it were a tensor. @returns {Partial<import("./header.js").Entry>} */
function basisEntry({ size, grid }, coder) {
  return { shape: [size, size], elements: size * size, grid, coder, byColumns: false, trellisBits: 0 };
}

class Planner {
  constructor(limit) {
    this.limit = limit;
    this.chunks = [];
    this.open = new Map();
  }

  addExact(owner) {
    this.chunks.push({ owner, streams: [] });
  }

  addQuantized(owner, entry) {
    const { coder, elements } = entry;
    const stream = {
      owner,
      count: elements,
      alphabetSize: entry.grid.count,
      trellisBits: entry.trellisBits,
      rowLength: rowLengthOf(entry),
    };
    if (elements > this.limit) this.#cut(coder, stream);
    else this.#join(coder, stream);
  }

  #join(coder, stream) {
    let chunk = this.open.get(coder);
    if (!chunk || chunk.symbols + stream.count > this.limit) {
      chunk = { coder, streams: [], symbols: 0 };
      this.open.set(coder, chunk);
      this.chunks.push(chunk);
    }
    chunk.symbols += stream.count;
    chunk.streams.push(stream);
  }

  #cut(coder, stream) {
    this.open.delete(coder);
    const keepsRows = stream.rowLength > 0 && stream.rowLength <= this.limit;
    const rowLength = keepsRows ? stream.rowLength : 0;
    const pieceSize = keepsRows ? Math.floor(this.limit / rowLength) * rowLength : this.limit;
    for (let start = 0; start < stream.count; start += pieceSize) {
      const count = Math.min(pieceSize, stream.count - start);
      this.chunks.push({ coder, streams: [{ ...stream, count, rowLength }] });
    }
  }
}

function rowLengthOf({ shape, byColumns }) {
  if (byColumns) return shape.length > 0 ? shape[0] : 0;
  return shape.length > 1 ? shape.slice(1).reduce((product, size) => product * size, 1) : 0;
}
