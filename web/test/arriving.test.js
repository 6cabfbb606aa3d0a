import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

import { Arriving } from "../metaq/arriving.js";
import { decode, decodeInWorker, fetchTensor, MetaqError } from "../metaq/index.js";
import { loadOnnx } from "../metaq/onnx.js";

const URL_OF_FILE = "https://other.example/file.metaq";
const PIECE_BYTES = 5000;
const bytes = new Uint8Array(await readFile(new URL("../../tests/golden/v1-planes.metaq", import.meta.url)));
const damaged = bytes.map((byte, i) => (i === bytes.length - 100 ? byte ^ 1 : byte));
const names = [...decode(bytes).tensors.keys()];
/** In bytes: of a compressed transfer, whose compression another origin does not see; of one that has grown by it. */
const ANNOUNCED = [100, 4500, bytes.length - 1, bytes.length + 1, 2 * bytes.length];

/** Answers as a server does that is of another origin and says so many bytes, and sends piece by piece. */
function answer(t, content, announced) {
  t.mock.method(globalThis, "fetch", async () => {
    let sent = 0;
    const pull = async (controller) => {
      await new Promise((resolve) => setTimeout(resolve));
      controller.enqueue(content.slice(sent, (sent += PIECE_BYTES)));
      if (sent >= content.length) controller.close();
    };
    return new Response(new ReadableStream({ pull }), { headers: { "Content-Length": announced } });
  });
}

for (const announced of [...ANNOUNCED, bytes.length]) {
  test(`a file of which ${announced} bytes are announced is decoded`, async (t) => {
    answer(t, bytes, announced);
    assert.deepEqual([...(await decodeInWorker(URL_OF_FILE)).tensors.keys()], names);
    await assert.rejects(loadOnnx(URL_OF_FILE), /^MetaqError: The file was not made of an ONNX model/);
  });

  test(`damage is refused where ${announced} bytes are announced`, async (t) => {
    answer(t, damaged, announced);
    await assert.rejects(decodeInWorker(URL_OF_FILE), /^MetaqError: .*damaged/);
  });

  test(`no more has arrived than in all where ${announced} bytes are announced`, async (t) => {
    answer(t, bytes, announced);
    const told = [];
    const file = await Arriving.fetch(URL_OF_FILE, { onFetched: (done, total) => told.push([done, total]) });
    await file.whole();
    assert.ok(told.every(([done, total]) => total === undefined || done <= total));
    assert.deepEqual(told.at(-1), [bytes.length, bytes.length]);
  });
}

test("an answer without a body is no file", async (t) => {
  t.mock.method(globalThis, "fetch", async () => new Response(null, { status: 204 }));
  const sentence = /^MetaqError: .* cannot be fetched: the server answers 204, and sends no file\.$/;
  await assert.rejects(decodeInWorker(URL_OF_FILE), sentence);
  await assert.rejects(fetchTensor(URL_OF_FILE, names[0]), sentence);
});

test("a range that another origin may not read is refused by a sentence that names the header", async (t) => {
  t.mock.method(globalThis, "fetch", async () =>
    Object.defineProperty(new Response(bytes, { status: 206 }), "type", { value: "cors" }),
  );
  await assert.rejects(fetchTensor(URL_OF_FILE, names[0]), /Access-Control-Expose-Headers: Content-Range/);
  t.mock.method(globalThis, "fetch", async () => new Response(bytes, { status: 206 }));
  await assert.rejects(fetchTensor(URL_OF_FILE, names[0]), /does not tell which part of it it sends/);
});

test("what the caller's own function throws is what the promise is rejected with", async (t) => {
  for (const mine of [new TypeError("mine"), new RangeError("mine"), new MetaqError("mine"), { mine: true }]) {
    let calls = 0;
    const onProgress = () => {
      calls += 1;
      throw mine;
    };
    await assert.rejects(decodeInWorker(bytes, { onProgress }), (error) => error === mine);
    answer(t, bytes, bytes.length);
    await assert.rejects(decodeInWorker(URL_OF_FILE, { onProgress }), (error) => error === mine);
    await assert.rejects(loadOnnx(URL_OF_FILE, { onProgress }), (error) => error === mine);
    assert.equal(calls, 3);
  }
});
