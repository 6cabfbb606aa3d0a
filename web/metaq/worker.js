/** The worker of onnx.js: fetches a file, tells how far it is, and hands over the model that it decodes. */
import { MetaqError } from "./errors.js";
import { decodeOnnx } from "./onnx.js";

const TELLING_INTERVAL_MS = 50;
const MOST_FILE_BYTES = 2 ** 31;

addEventListener("message", async ({ data: { url, path } }) => {
  try {
    const model = owned(decodeOnnx(await fetched(url), { path }));
    postMessage({ model }, buffersOf(model));
  } catch (error) {
    postMessage({ error: sentenceOf(error) });
  }
});

async function fetched(url) {
  const response = await fetch(url).catch(() => {
    throw new MetaqError(`${url} cannot be fetched: there is no connection, or the server does not allow it.`);
  });
  if (!response.ok) throw new MetaqError(`${url} cannot be fetched: the server answers ${response.status}.`);
  const parts = [];
  let [done, told] = [0, 0];
  // Of a compressed transfer the header tells another size than that of the file.
  const length = Number(response.headers.get("Content-Length"));
  const total = response.headers.has("Content-Encoding") || !length ? undefined : length;
  const reader = response.body.getReader();
  for (;;) {
    const part = await reader.read().catch(() => {
      throw new MetaqError(`${url} cannot be fetched: the connection broke after ${done} bytes.`);
    });
    if (part.done) break;
    parts.push(part.value);
    done += part.value.length;
    if (done > MOST_FILE_BYTES) throw new MetaqError(`${url} has more than ${MOST_FILE_BYTES} bytes.`);
    const now = performance.now();
    if (now - told < TELLING_INTERVAL_MS) continue;
    told = now;
    postMessage({ progress: { done, total } });
  }
  postMessage({ progress: { done, total: done } });
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** A model whose files have memory of their own, so that they do not keep all of the .metaq file. */
function owned(model) {
  return { ...model, files: new Map([...model.files].map(([path, bytes]) => [path, bytes.slice()])) };
}

function buffersOf({ bytes, externalData, files }) {
  return [bytes, ...externalData.map(({ data }) => data), ...files.values()].map(({ buffer }) => buffer);
}

function sentenceOf(error) {
  if (error instanceof MetaqError) return error.message;
  if (error instanceof RangeError) return "There is not enough memory here to decode the file.";
  return `The file cannot be decoded: ${error.message}.`;
}
