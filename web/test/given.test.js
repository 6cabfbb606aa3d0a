import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";
import { runInNewContext } from "node:vm";

import { applyUpdate, decode, decodeInWorker, fetchTensor, MetaqError } from "../metaq/index.js";
import { decodeOnnx, loadOnnx } from "../metaq/onnx.js";

const bytes = new Uint8Array(await readFile(new URL("../../tests/golden/v1-small.metaq", import.meta.url)));
const names = [...decode(bytes).tensors.keys()];
const framed = new Uint8Array(bytes.length + 16);
framed.set(bytes, 8);
const elsewhere = runInNewContext("bytes => Uint8Array.from(bytes)", {})([...bytes]);

const FORMS = {
  "a Uint8Array": bytes,
  "a Buffer": Buffer.from(bytes),
  "an ArrayBuffer": bytes.slice().buffer,
  "a DataView of a part": new DataView(framed.buffer, 8, bytes.length),
  "a Uint16Array of a part": new Uint16Array(framed.buffer, 8, bytes.length / 2),
  "a Uint8Array of another realm": elsewhere,
  "an ArrayBuffer of another realm": elsewhere.buffer,
};

/** The sentence with which something is refused. */
async function refusalOf(attempt) {
  try {
    await attempt();
  } catch (error) {
    assert.ok(error instanceof MetaqError, error.stack);
    return error.message;
  }
  return assert.fail("it was taken");
}

for (const [form, source] of Object.entries(FORMS)) {
  test(`${form} is decoded`, async () => {
    assert.equal(bytes.length % 2, 0);
    assert.deepEqual([...decode(source).tensors.keys()], names);
    assert.deepEqual([...(await decodeInWorker(source)).tensors.keys()], names);
    // It is read, and found to be something else.
    assert.match(await refusalOf(() => applyUpdate(decode(bytes), source)), /no update but a model/);
    assert.match(await refusalOf(() => decodeOnnx(source)), /not made of an ONNX model/);
  });
}

test("a Blob is decoded in a worker", async () => {
  assert.deepEqual([...(await decodeInWorker(new Blob([bytes]))).tensors.keys()], names);
  assert.match(await refusalOf(() => decodeInWorker(new Blob([]))), /no \.metaq file|not a \.metaq file/);
});

test("bytes that were handed over are no file", async () => {
  const gone = bytes.slice();
  structuredClone(gone, { transfer: [gone.buffer] });
  assert.match(await refusalOf(() => decode(gone)), /not a \.metaq file/);
  assert.match(await refusalOf(() => decodeInWorker(gone)), /not a \.metaq file/);
});

test("anything else is refused by a sentence that says what to give", async () => {
  const model = decode(bytes);
  const others = { Undefined: undefined, Null: null, Number: 5, Array: [...bytes], Promise: Promise.resolve(bytes) };
  for (const [kind, other] of Object.entries(others)) {
    const takers = [decode, decodeOnnx, decodeInWorker, fetchTensor, loadOnnx, (given) => applyUpdate(model, given)];
    for (const taker of takers) {
      const sentence = await refusalOf(() => taker(other));
      assert.match(sentence, /^Give the (bytes|URL) of a \.metaq file as .*\.$/);
      assert.ok(sentence.includes(`kind ${kind}.`), sentence);
    }
  }
  for (const taker of [decode, decodeOnnx, (given) => applyUpdate(model, given)])
    assert.match(await refusalOf(() => taker("model.metaq")), /Give the bytes .* kind String\.$/);
  for (const base of [bytes, undefined, Promise.resolve(model), {}])
    assert.match(await refusalOf(() => applyUpdate(base, bytes)), /The base is to be a model: decode its file first/);
});

test("what Node.js cannot fetch is refused by a sentence that says what to give", async () => {
  const onDisk = new URL("../../tests/golden/v1-small.metaq", import.meta.url);
  for (const taker of [decodeInWorker, loadOnnx, (url) => fetchTensor(url, names[0])]) {
    assert.match(await refusalOf(() => taker("model.metaq")), /model\.metaq is no whole URL.*or decode the bytes/);
    for (const place of [onDisk, onDisk.href, "C:\\model.metaq"])
      assert.match(await refusalOf(() => taker(place)), /is a place on a disk; read the file and decode its bytes\.$/);
  }
});
