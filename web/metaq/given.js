/** What callers give, checked where it comes in. */
import { MetaqError } from "./errors.js";

const FORMS = "an ArrayBuffer or a view of one, such as a Uint8Array";

/**
 * Bytes in memory.
 * @typedef {ArrayBuffer | ArrayBufferView} Bytes
 */

/**
 * @param {Bytes} source
 * @returns {Uint8Array} the same memory
 */
export function bytesOf(source) {
  if (!isInMemory(source)) refuse(source, `Give the bytes of a .metaq file as ${FORMS}`);
  // What was handed over to a worker has no bytes any more, and no view can be made of it.
  if (source.byteLength === 0) return new Uint8Array(0);
  return ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : new Uint8Array(source);
}

/**
 * @param {string | URL | Bytes | Blob} source
 * @returns {Promise<{url: string} | {bytes: Uint8Array}>} as a task of tasks.js needs it
 */
export async function inputOf(source) {
  if (isUrl(source)) return { url: absolute(source) };
  if (isInMemory(source)) return { bytes: bytesOf(source) };
  if (!["Blob", "File"].includes(kindOf(source)))
    refuse(source, `Give the URL of a .metaq file as a string or a URL, or its bytes as a Blob, ${FORMS}`);
  try {
    return { bytes: new Uint8Array(await source.arrayBuffer()) };
  } catch (error) {
    throw new MetaqError(`The file cannot be read: ${error.message}.`);
  }
}

/** @param {string | URL} url @returns {string} as a worker needs it, which has another address than the page */
export function absolute(url) {
  if (!isUrl(url)) refuse(url, "Give the URL of a .metaq file as a string or a URL");
  try {
    return new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href).href;
  } catch {
    throw new MetaqError(
      `${url} is no whole URL, such as https://example.org/model.metaq; give one, or decode the bytes of the file.`,
    );
  }
}

/** @param {import("./decode.js").Model} base */
export function refuseUndecoded(base) {
  if ([base?.tensors, base?.metadata].some((each) => kindOf(each) !== "Map"))
    refuse(base, "The base is to be a model: decode its file first, by decode or await decodeInWorker");
}

function isUrl(source) {
  return ["String", "URL"].includes(kindOf(source));
}

function isInMemory(source) {
  return ArrayBuffer.isView(source) || kindOf(source) === "ArrayBuffer";
}

/** Of values from other windows, too, of which `instanceof` knows nothing. */
function kindOf(value) {
  return Object.prototype.toString.call(value).slice("[object ".length, -1);
}

function refuse(value, wanted) {
  throw new MetaqError(`${wanted}; what was given is of the kind ${kindOf(value)}.`);
}
