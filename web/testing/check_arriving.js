/**
 * Decodes files from servers in Node.js: `node check_arriving.js FILE SINGLE DAMAGED TENSOR…`. FILE has several chunks,
 * SINGLE has one, and DAMAGED is FILE with one of its last four bytes changed. The result is JSON: `streamed`, what
 * FILE holds, of which the last bytes come only once decoding has begun, with the `steps` of progress; `unsized`, the
 * same from a server that does not tell sizes; `single`, what SINGLE holds; by names, `tensors` of FILE one by one with
 * the `ranges` that were asked for; `tensorOfSingle`, the first of SINGLE; the name of the error when it is `aborted`;
 * and `sentences`: of DAMAGED, of a server without ranges, of what is not there, and of too small a bound.
 */
import { decodeInWorker, fetchTensor, MetaqError } from "../metaq/index.js";
import { factsOf, tensorFacts } from "./model_facts.js";
import { serveParts } from "./serve_parts.js";

const HELD_BYTES = 2000;
const [file, single, damaged, ...names] = process.argv.slice(2);
const files = { "/file": file, "/single": single, "/damaged": damaged };
const found = { tensors: {}, sentences: {} };

await served({ held: HELD_BYTES }, async ({ url, release }) => {
  const steps = [];
  const onProgress = ({ done, total }) => {
    steps.push([done, total]);
    // Nothing would come otherwise.
    if (done > 0) release();
  };
  found.streamed = await factsOf(await decodeInWorker(`${url}file`, { onProgress }));
  found.steps = steps;
});
await served({ tellsSize: false }, async ({ url }) => {
  found.unsized = await factsOf(await decodeInWorker(`${url}file`));
});
await served({}, async ({ url, requests }) => {
  found.single = await factsOf(await decodeInWorker(`${url}single`));
  for (const name of names) {
    requests.length = 0;
    const facts = await tensorFacts(await fetchTensor(`${url}file`, name));
    found.tensors[name] = { facts, ranges: requests.map(({ range }) => range) };
  }
  const [first] = found.single.tensors;
  found.tensorOfSingle = await tensorFacts(await fetchTensor(`${url}single`, first.name));
  await refused("damaged", () => decodeInWorker(`${url}damaged`));
  await refused("noTensor", () => fetchTensor(`${url}file`, "nothing of this name"));
  await refused("noFile", () => decodeInWorker(`${url}nowhere`));
  await refused("noFileOfTensor", () => fetchTensor(`${url}nowhere`, names[0]));
  await refused("bound", () => decodeInWorker(`${url}file`, { maxBytes: 1000 }));
  await refused("boundOfTensor", () => fetchTensor(`${url}file`, names[0], { maxBytes: 10 }));
});
await served({ hasRanges: false }, async ({ url }) => {
  await refused("noRanges", () => fetchTensor(`${url}file`, names[0]));
});
await served({ held: HELD_BYTES }, async ({ url }) => {
  const stop = new AbortController();
  const decoding = decodeInWorker(`${url}file`, { signal: stop.signal, onProgress: () => stop.abort() });
  found.aborted = await decoding.catch((error) => error.name);
});
await refused("noServer", () => decodeInWorker("http://127.0.0.1:9/file"));
console.log(JSON.stringify(found));

async function served(options, use) {
  const server = await serveParts(files, options);
  await use(server);
  server.close();
}

async function refused(what, attempt) {
  try {
    await attempt();
  } catch (error) {
    if (!(error instanceof MetaqError)) throw error;
    found.sentences[what] = error.message;
  }
}
