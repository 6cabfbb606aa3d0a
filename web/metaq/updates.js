import { inByteOrder } from "./byte_order.js";
import { crc32OfAll } from "./crc32.js";
import { MetaqError } from "./errors.js";
import { decodedTensors, DEFAULT_MAX_BYTES, openFile, VERSION } from "./file.js";
import { isCarried } from "./frames.js";
import { bytesOf, refuseUndecoded } from "./given.js";
import { identityOf, inDigits, varint } from "./identity.js";

const FILES = "files";
/** What a file was made of, by its metadata. */
const KEYS = ["folder", "file", "weights", "key", "prefix", "parts"];

/**
 * The model that an update makes of another one, its base.
 *
 * It comes out to the bit, as it does everywhere. Tensors in which both are alike are shared with the base. Whatever is wrong with
 * the update, or with a base that is not its own, is a {@link MetaqError}.
 *
 * @param {import("./index.js").Model} base as {@link decode} or this function returned it
 * @param {import("./given.js").Bytes} bytes of the update
 * @param {{maxBytes?: number}} [options] largest sum of the sizes of the tensors of the update in bytes, 2 GiB by default
 * @returns {import("./index.js").Model}
 */
export function applyUpdate(base, bytes, { maxBytes = DEFAULT_MAX_BYTES } = {}) {
  refuseUndecoded(base);
  const file = openFile(bytesOf(bytes), maxBytes);
  if (!file.update) throw new MetaqError("The file is no update but a model; decode it without a base.");
  const [baseTensors, baseFiles] = withoutFiles(base);
  refuseOtherBase(file.update, inDigits(identityOf(baseTensors)));
  const kept = withoutRemoved(baseTensors, file.header.removed);
  const [ownTensors, ownFiles] = withoutFiles({
    tensors: decodedTensors(file, baseTensors),
    metadata: file.metadata,
  });
  const tensors = new Map([...kept, ...ownTensors]);
  if (!inDigits(identityOf(tensors)).endsWith(inDigits(file.update.result)))
    throw new MetaqError("The update gives another model than it says; it was not made by metaq.");
  const { files, metadata } = withFiles(base.metadata, baseFiles, file.metadata, ownFiles);
  return { version: VERSION, tensors: inByteOrder(new Map([...tensors, ...files])), metadata: inByteOrder(metadata) };
}

/** Carried files of the result, which the update may tell by their checksum, and its metadata. */
function withFiles(baseMetadata, baseFiles, ownMetadata, ownFiles) {
  const metadata = new Map([...baseMetadata, ...ownMetadata]);
  const all = new Map([...baseFiles, ...ownFiles]);
  if (!metadata.has(FILES)) return { files: all, metadata };
  for (const key of [FILES, ...KEYS]) if (key === FILES || !ownMetadata.has(key)) metadata.delete(key);
  const files = [all, ownFiles].find((each) => checksumOf(each) === Number(ownMetadata.get(FILES)));
  if (files) return { files, metadata };
  throw new MetaqError("The base has other files beside its tensors than the one that the update was made of.");
}

function checksumOf(files) {
  const encoder = new TextEncoder();
  const parts = [...inByteOrder(files)].flatMap(([name, { bytes }]) => [encoder.encode(name), bytes]);
  return crc32OfAll(parts.flatMap((part) => [Uint8Array.from(varint(part.length)), part]));
}

/** Tensors of a model, and the files that are carried beside them, both in the order of their names. */
function withoutFiles({ tensors, metadata }) {
  const [own, files] = [new Map(), new Map()];
  for (const [name, tensor] of inByteOrder(tensors)) (isCarried(name, metadata) ? files : own).set(name, tensor);
  return [own, files];
}

function refuseOtherBase(update, found) {
  const expected = inDigits(update.base);
  if (found === expected) return;
  if (found.endsWith(inDigits(update.result)))
    throw new MetaqError(`The update has been applied already: the base is the model ${found}, which it gives.`);
  throw new MetaqError(
    `The update is of the model ${expected}, but the base is the model ${found}; apply it to the one that it was made of.`,
  );
}

/** Tensors but for those of some numbers in the order of their names. */
function withoutRemoved(tensors, removed) {
  const beyond = removed.find((number) => number >= tensors.size);
  if (beyond !== undefined)
    throw new MetaqError(`The update removes tensor ${beyond} of the base, which has ${tensors.size}.`);
  const numbers = new Set(removed);
  return new Map([...tensors].filter((_, number) => !numbers.has(number)));
}
