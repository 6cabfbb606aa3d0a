import { MetaqError } from "./errors.js";
import { allocateOutput } from "./zstd_output.js";
import { damaged, endsEarly } from "./zstd_errors.js";
import { LiteralsDecoder } from "./zstd_literals.js";
import { SequencesDecoder } from "./zstd_sequences.js";

const LARGEST_BLOCK_BYTES = 2 ** 17;
const LARGEST_WINDOW_BYTES = 2 ** 27;
const BLOCK_HEADER_BYTES = 3;
const DICTIONARY_ID_BYTES = [0, 1, 2, 4];
const [RAW, REPEATED, COMPRESSED] = [0, 1, 2];

/**
 * Decode one Zstandard frame (RFC 8878) without magic number, content size and checksum that ends where `bytes` end.
 * @param {Uint8Array} bytes
 * @param {number} size in bytes of what comes out
 * @returns {Uint8Array}
 */
export function decodeZstdFrame(bytes, size) {
  const header = readFrameHeader(bytes);
  const decoder = new BlockDecoder(allocateOutput(size), header.windowBytes);
  let next = header.end;
  for (let last = false; !last;) {
    const block = readBlockHeader(bytes, next, decoder.largestBlockBytes);
    decoder.decode(block.type, bytes.subarray(block.start, block.end), block.size);
    next = block.end;
    last = block.isLast;
  }
  if (next < bytes.length) {
    throw new MetaqError(`zstd: ${bytes.length - next} bytes follow where the compressed bytes should end.`);
  }
  if (decoder.position !== size) {
    throw new MetaqError(`zstd: ${decoder.position} bytes were found where ${size} are promised.`);
  }
  return decoder.output;
}

/** @returns {{windowBytes: number, end: number}} */
function readFrameHeader(bytes) {
  if (bytes.length < 2) throw endsEarly();
  const descriptor = bytes[0];
  if (descriptor & 0b1110_0000) {
    throw new MetaqError("zstd: the frame names its own size, which this format does not allow.");
  }
  if (descriptor & 0b100) throw new MetaqError("zstd: the frame has a checksum, which this format does not allow.");
  if (descriptor & 0b1000) throw damaged("a reserved bit is set");
  const end = 2 + DICTIONARY_ID_BYTES[descriptor & 3];
  if (end > bytes.length) throw endsEarly();
  if (bytes.subarray(2, end).some((byte) => byte > 0)) {
    throw new MetaqError("zstd: the frame needs a dictionary, which this format does not allow.");
  }
  return { windowBytes: windowBytes(bytes[1]), end };
}

function windowBytes(byte) {
  const size = 2 ** (10 + (byte >> 3)) * (1 + (byte & 7) / 8);
  if (size > LARGEST_WINDOW_BYTES) {
    throw new MetaqError(`zstd: the frame has a window of ${size} bytes; at most ${LARGEST_WINDOW_BYTES} are allowed.`);
  }
  return size;
}

/**
 * @returns {{type: number, isLast: boolean, start: number, end: number, size: number}} where its bytes are, and a size
 *   from its header: that of its bytes or, if one byte is repeated, of what comes out
 */
function readBlockHeader(bytes, at, largestBlockBytes) {
  const start = at + BLOCK_HEADER_BYTES;
  if (start > bytes.length) throw endsEarly();
  const header = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
  const type = (header >> 1) & 3;
  const size = header >> 3;
  if (type > COMPRESSED) throw damaged("a block has an unknown type");
  if (size > largestBlockBytes) throw damaged("a block is larger than the frame allows");
  const end = start + (type === REPEATED ? 1 : size);
  if (end > bytes.length) throw endsEarly();
  return { type, isLast: (header & 1) === 1, start, end, size };
}

/** Decodes block after block into `output`, and keeps what later blocks refer to. */
class BlockDecoder {
  constructor(output, windowBytes) {
    this.output = output;
    this.position = 0;
    this.largestBlockBytes = Math.min(windowBytes, LARGEST_BLOCK_BYTES);
    this.literals = new LiteralsDecoder(Math.min(this.largestBlockBytes, output.length));
    this.sequences = new SequencesDecoder(windowBytes);
  }

  decode(type, block, size) {
    if (type === COMPRESSED) {
      this.position = this.#decodeCompressed(block);
      return;
    }
    if (size > this.output.length - this.position) throw new MetaqError("zstd: there are more bytes than promised.");
    if (type === RAW) this.output.set(block, this.position);
    else this.output.fill(block[0], this.position, this.position + size);
    this.position += size;
  }

  #decodeCompressed(block) {
    const { literals, end } = this.literals.decode(block);
    const limit = Math.min(this.output.length, this.position + this.largestBlockBytes);
    return this.sequences.decode(block.subarray(end), literals, this.output, this.position, limit);
  }
}
