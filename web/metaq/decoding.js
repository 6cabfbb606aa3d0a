/** Decoding by WebAssembly or, where that is not allowed, by JavaScript, of files that may still be on their way. */
import { Arriving, Ranges } from "./arriving.js";
import { decode } from "./decode.js";
import { MetaqError } from "./errors.js";
import { DEFAULT_MAX_BYTES, openFile, VERSION } from "./file.js";
import { IS_UPDATE, OK, tensorOf, TOO_LARGE, UNREADABLE, WasmReader, wasmModule } from "./wasm.js";

/** Bytes that are hoped to have the header, and are asked for first. */
const FIRST_BYTES = 2 ** 16;
const LEAST_BYTES = 2 ** 12;
/** How long others, and the network, wait for their turn. */
const PAUSE_INTERVAL_MS = 16;

/**
 * Decode a file, from its first bytes on.
 * @param {Arriving} file
 * @param {{maxBytes?: number, onDecoded?: (done: number, total: number) => void, signal?: AbortSignal}} [options]
 *   `onDecoded` is told the bytes of tensors
 * @returns {Promise<import("./decode.js").Model>}
 */
export async function decodeArriving(file, { maxBytes = DEFAULT_MAX_BYTES, onDecoded, signal } = {}) {
  try {
    const module = await wasmModule();
    const reader = module && new WasmReader(module, file, maxBytes);
    const isPartial = reader ? await isOpenedEarly(reader, file) : false;
    const status = reader && (isPartial ? OK : await openedWhole(reader, file));
    if (!reader || status === TOO_LARGE) return decode(await file.whole(), { maxBytes });
    if (status !== OK) throw reader.error(status);
    reader.checkSize();
    reader.prepare();
    const model = { version: VERSION, tensors: new Map(), metadata: reader.metadata() };
    model.tensors = await allTensors(reader, file, new Pauses(signal), onDecoded);
    if (isPartial) await refuseDamaged(reader, file);
    return model;
  } catch (error) {
    if (!(error instanceof MetaqError)) throw error;
    const bytes = await file.whole();
    if (file.wasMisannounced) return await decodeArriving(Arriving.of(bytes), { maxBytes, onDecoded, signal });
    refuseAsJavaScript(bytes, maxBytes);
    throw error;
  } finally {
    file.cancel();
  }
}

/**
 * Decode one tensor of a file on a server that sends parts of files.
 * @param {string} url
 * @param {string} name
 * @param {{maxBytes?: number, signal?: AbortSignal}} [options]
 * @returns {Promise<import("./tensor.js").Tensor>}
 */
export async function decodeTensor(url, name, { maxBytes = DEFAULT_MAX_BYTES, signal } = {}) {
  const file = await Ranges.fetch(url, FIRST_BYTES, signal);
  const module = await wasmModule();
  const reader = module && new WasmReader(module, file, maxBytes);
  if (!reader) return found(decode(await all(file), { maxBytes }).tensors, name);
  const status = await openedByRanges(reader, file);
  if (status !== OK) throw reader.error(status);
  const byName = new Map(reader.tensors().map((facts) => [facts.name, facts]));
  const facts = found(byName, name);
  reader.checkSize([facts]);
  if (facts.hasBasis) await file.need(...reader.basisRange);
  await file.need(facts.start, facts.end);
  const bytes = new Uint8Array(facts.bytes);
  await finished(reader.decode(facts, bytes), new Pauses(signal));
  return tensorOf(facts, bytes);
}

/** Opens a file once its header is there, if the whole of it is not; only several chunks can be checked one by one. */
async function isOpenedEarly(reader, file) {
  await file.until(LEAST_BYTES);
  for (let wanted = 2 * LEAST_BYTES; !file.isWhole && file.size !== undefined; wanted *= 2) {
    const status = reader.open(file.size, true);
    if (status === OK && reader.chunkCount > 1) return true;
    if (status === OK || status === IS_UPDATE || status === TOO_LARGE) return false;
    if (status !== UNREADABLE) throw reader.error(status);
    await file.until(wanted);
  }
  return false;
}

async function openedWhole(reader, file) {
  const { length } = await file.whole();
  return reader.open(length, false);
}

/** All checksums of a file of which only the last bytes were not compared yet. */
async function refuseDamaged(reader, file) {
  const status = await openedWhole(reader, file);
  if (status !== OK) throw reader.error(status);
}

/** Refuses a file by a sentence that says more, if what is wrong is not inside its chunks. */
function refuseAsJavaScript(bytes, maxBytes) {
  if (openFile(bytes, maxBytes).update) decode(bytes, { maxBytes });
}

async function openedByRanges(reader, file) {
  for (let wanted = FIRST_BYTES; wanted < file.size; wanted = Math.min(2 * wanted, file.size)) {
    await file.need(0, wanted);
    const status = reader.open(file.size, true);
    if (status === OK && reader.chunkCount > 1) return OK;
    if (status !== UNREADABLE && status !== OK) return status;
    if (status === OK) break;
  }
  // What has one chunk has one checksum.
  await file.need(0, file.size);
  return reader.open(file.size, false);
}

async function all(file) {
  await file.need(0, file.size);
  const bytes = new Uint8Array(file.size);
  file.read(0, bytes);
  return bytes;
}

async function allTensors(reader, file, pauses, onDecoded) {
  const tensors = reader.tensors();
  const untied = tensors.filter(({ tiedTo }) => tiedTo < 0);
  const total = untied.reduce((sum, { bytes }) => sum + bytes, 0);
  const elements = new Map();
  let before = 0;
  onDecoded?.(0, total);
  // As they are in the file.
  for (const facts of untied.sort((left, right) => left.start - right.start || left.number - right.number)) {
    await file.until(facts.end);
    const bytes = new Uint8Array(facts.bytes);
    await finished(reader.decode(facts, bytes), pauses, (done) => onDecoded?.(before + done, total));
    before += facts.bytes;
    elements.set(facts.number, bytes);
  }
  const bytesOf = ({ number, tiedTo }) => elements.get(tiedTo < 0 ? number : tiedTo);
  return new Map(tensors.map((facts) => [facts.name, tensorOf(facts, bytesOf(facts))]));
}

async function finished(steps, pauses, onStep) {
  for (const done of steps) {
    onStep?.(done);
    await pauses.perhaps();
  }
}

class Pauses {
  #signal;
  #last = performance.now();

  constructor(signal) {
    this.#signal = signal;
  }

  /** Let others have their turn, if they have waited for long. */
  async perhaps() {
    if (performance.now() - this.#last < PAUSE_INTERVAL_MS) return;
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    });
    this.#signal?.throwIfAborted();
    this.#last = performance.now();
  }
}

function found(tensors, name) {
  const tensor = tensors.get(name);
  if (!tensor) throw new MetaqError(`The file has no tensor ${name}.`);
  return tensor;
}
