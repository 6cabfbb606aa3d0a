/** Decoding beside the page. */
import { MetaqError } from "./errors.js";
import { absolute, inputOf } from "./given.js";
import { PASSING } from "./passing.js";
import { sentenceOf, TASKS } from "./tasks.js";

/**
 * Decode a file in a worker, by WebAssembly.
 *
 * Of a URL, decoding begins while the file is arriving, if it has several chunks and the server tells its size. Where
 * WebAssembly is not allowed, it is JavaScript that decodes, with the same bits; where workers are not, as in Node.js,
 * the page does it itself, and WebAssembly lets others have their turn. The memory of WebAssembly never has more bytes
 * than the file, `maxBytes` and 256 MiB together.
 *
 * @param {string | URL | import("./given.js").Bytes | Blob} source where the file is, or its bytes, which are copied
 * @param {object} [options]
 * @param {number} [options.maxBytes] largest sum of the sizes of all tensors in bytes, 2 GiB by default
 * @param {(progress: {done: number, total: number}) => void} [options.onProgress] is told the bytes of tensors decoded,
 *   and of all; by WebAssembly alone; what it throws ends decoding
 * @param {AbortSignal} [options.signal] ends it
 * @returns {Promise<import("./decode.js").Model>} rejected with a {@link MetaqError} if it cannot be fetched or read,
 *   and with what `onProgress` throws
 */
export async function decodeInWorker(source, { maxBytes, onProgress, signal } = {}) {
  return inWorker("model", { ...(await inputOf(source)), maxBytes }, { onTold: onProgress, signal });
}

/**
 * Decode one tensor of a file on a server, of which only the header and what the tensor needs are fetched. Where the
 * file has but one chunk, or WebAssembly is not allowed, that is the whole file.
 *
 * @param {string | URL} url
 * @param {string} name
 * @param {object} [options]
 * @param {number} [options.maxBytes] largest size of the tensor in bytes, with the bases of the file if it has one; 2
 *   GiB by default
 * @param {AbortSignal} [options.signal] ends it
 * @returns {Promise<import("./tensor.js").Tensor>} rejected with a {@link MetaqError} if it cannot be fetched or read,
 *   or if the server does not send parts of files
 */
export async function fetchTensor(url, name, { maxBytes, signal } = {}) {
  return inWorker("tensor", { url: absolute(url), name, maxBytes }, { signal });
}

/**
 * Do a task of tasks.js.
 * @param {string} task
 * @param {object} input
 * @param {{onTold?: (progress: object) => void, signal?: AbortSignal}} options
 * @returns {Promise<object>} rejected with what `onTold` throws, if it does
 */
export async function inWorker(task, input, { onTold, signal } = {}) {
  signal?.throwIfAborted();
  const ending = new AbortController();
  const end = () => ending.abort(signal.reason);
  const tell = (progress) => {
    if (ending.signal.aborted) return;
    try {
      onTold?.(progress);
    } catch (error) {
      ending.abort(error);
    }
  };
  signal?.addEventListener("abort", end);
  try {
    return await begun({ task, input }, tell, ending.signal);
  } finally {
    signal?.removeEventListener("abort", end);
  }
}

async function begun(message, tell, signal) {
  const worker = await startedWorker(signal);
  if (worker) return doneBy(worker, message, tell, signal);
  try {
    const found = await TASKS[message.task](message.input, tell, signal);
    signal.throwIfAborted();
    return found;
  } catch (error) {
    signal.throwIfAborted();
    throw new MetaqError(sentenceOf(error));
  }
}

/** A worker that has loaded its code, or nothing where that is not allowed. @returns {Promise<Worker | undefined>} */
function startedWorker(signal) {
  return new Promise((resolve, reject) => {
    let worker;
    try {
      worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    } catch {
      resolve(undefined);
      return;
    }
    const stop = () => {
      worker.terminate();
      reject(signal.reason);
    };
    signal.addEventListener("abort", stop, { once: true });
    const settle = (found) => {
      signal.removeEventListener("abort", stop);
      resolve(found);
    };
    worker.addEventListener("message", () => settle(worker), { once: true });
    worker.addEventListener(
      "error",
      (event) => {
        event.preventDefault();
        worker.terminate();
        settle(undefined);
      },
      { once: true },
    );
  });
}

function doneBy(worker, message, tell, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => finish(() => reject(signal.reason));
    const finish = (settle) => {
      worker.terminate();
      signal.removeEventListener("abort", stop);
      settle();
    };
    signal.addEventListener("abort", stop);
    worker.addEventListener("message", ({ data: { progress, result, error } }) => {
      if (progress) tell(progress);
      else if (error !== undefined) finish(() => reject(new MetaqError(error)));
      else finish(() => resolve(PASSING[message.task].unpacked(result)));
    });
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      finish(() => reject(new MetaqError("The worker that decodes .metaq files broke down.")));
    });
    // Of bytes that are a part of more memory, that part alone goes over.
    const bytes = message.input.bytes?.slice();
    worker.postMessage({ ...message, input: { ...message.input, bytes } }, bytes ? [bytes.buffer] : []);
    if (signal.aborted) stop();
  });
}
