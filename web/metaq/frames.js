/** Files that travel inside a `.metaq` file: whole ones, and frames, which are files around the tensors that lie in them. */
import { crc32 } from "./crc32.js";
import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";

const [WHOLE, FRAME] = ["file:", "frame:"];
const CHECKSUM_BYTES = 4;
const [NUMBERS_PER_HOLE, NUMBERS_PER_CHECKSUM] = [2, 3];
/** Archives keep checksums of every record at two places; whatever needs far more work than that is no model file. */
const MOST_SUMMED_TIMES = 4;
const DEFAULT_MAX_BYTES = 2 ** 31;

/**
 * Fill all frames of a decoded file. Paths are as the file gives them: check them before they become names on a disk.
 * @param {{tensors: Map<string, import("./tensor.js").Tensor>, metadata: Map<string, unknown>}} decoded
 * @param {{maxBytes?: number}} [options] largest sum of the sizes of filled frames in bytes, 2 GiB by default
 * @returns {{files: Map<string, Uint8Array>, framed: Map<string, Uint8Array>}} whole files and filled frames by their
 *   paths, both empty if the file was made of a state dict
 */
export function carriedFiles({ tensors, metadata }, { maxBytes = DEFAULT_MAX_BYTES } = {}) {
  const [files, framed] = [new Map(), new Map()];
  if (!hasFiles(metadata)) return { files, framed };
  const elements = Array.from(tensors.values(), ({ bytes }) => bytes);
  let left = maxBytes;
  for (const tensor of tensors.values()) {
    const prefix = [WHOLE, FRAME].find((each) => tensor.name.startsWith(each));
    if (prefix === undefined) continue;
    const path = tensor.name.slice(prefix.length);
    if (tensor.dtype !== "uint8" || tensor.shape.length !== 1)
      throw new MetaqError(`${tensor.name} is no run of bytes.`);
    if (files.has(path) || framed.has(path)) throw new MetaqError(`${tensor.name} has the name of another file.`);
    if (prefix === WHOLE) files.set(path, tensor.bytes);
    else {
      framed.set(path, filled(tensor, elements, left));
      left -= framed.get(path).length;
    }
  }
  return { files, framed };
}

/**
 * Whether a tensor of a file with such metadata is a carried file.
 * @param {string} name
 * @param {Map<string, unknown>} metadata
 */
export function isCarried(name, metadata) {
  return hasFiles(metadata) && [WHOLE, FRAME].some((prefix) => name.startsWith(prefix));
}

function hasFiles(metadata) {
  return metadata.has("folder") || metadata.has("file");
}

/** A file with its tensors in their places and its checksums right. */
function filled({ name, bytes }, elements, maxBytes) {
  const cursor = new Cursor(bytes, name);
  const holes = readHoles(cursor, elements.length);
  const checksums = readChecksums(cursor);
  const gaps = holes.reduce((sum, { gap }) => sum + gap, 0);
  if (gaps > cursor.left) throw new MetaqError(`${name}: its holes lie behind its end.`);
  const size = cursor.left + holes.reduce((sum, { number }) => sum + elements[number].length, 0);
  if (size > maxBytes) throw new MetaqError(`${name} takes ${size} bytes, but ${maxBytes} are left of maxBytes.`);
  refuseOutside(name, checksums, size);
  const file = new Uint8Array(size);
  let position = 0;
  const put = (part) => {
    file.set(part, position);
    position += part.length;
  };
  for (const { gap, number } of holes) {
    put(cursor.take(gap));
    put(elements[number]);
  }
  put(cursor.rest());
  const view = new DataView(file.buffer);
  for (const { at, start, length } of checksums) view.setUint32(at, crc32(file.subarray(start, start + length)), true);
  return file;
}

function readHoles(cursor, tensorCount) {
  const used = new Set();
  return readRecords(cursor, NUMBERS_PER_HOLE, () => {
    const [gap, number] = [cursor.varint(), cursor.varint()];
    if (number >= tensorCount || used.has(number))
      throw new MetaqError(`${cursor.what}: tensor ${number} is missing or fills another hole.`);
    used.add(number);
    return { gap, number };
  });
}

function readChecksums(cursor) {
  return readRecords(cursor, NUMBERS_PER_CHECKSUM, () => {
    return { at: cursor.varint(), start: cursor.varint(), length: cursor.varint() };
  });
}

/** As many records as a varint says, of so many numbers each. */
function readRecords(cursor, numbers, readRecord) {
  const count = cursor.varint();
  if (count * numbers > cursor.left)
    throw new MetaqError(`${cursor.what}: ${count} records are promised, but there are too few bytes.`);
  return Array.from({ length: count }, readRecord);
}

function refuseOutside(name, checksums, size) {
  if (checksums.some(({ at, start, length }) => Math.max(at + CHECKSUM_BYTES, start + length) > size))
    throw new MetaqError(`${name}: a checksum is of bytes behind its end.`);
  if (checksums.reduce((sum, { length }) => sum + length, 0) > MOST_SUMMED_TIMES * size)
    throw new MetaqError(`${name}: its checksums are of far more bytes than it has.`);
}
