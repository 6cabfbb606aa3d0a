/**
 * Decodes files in a page: `node check_decoding.js CHROMIUM FILE DAMAGED TENSOR`. FILE has several chunks; DAMAGED is
 * another one that is refused. The result is JSON: by the name of what the page may do, what came out (`facts`),
 * `steps` of progress, the TENSOR alone, what is said of DAMAGED, the same from bytes (`ofBytes`), the name of the
 * error when it is `aborted`, what `thrown` becomes of an error of the page's own, and the paths of `requests`; and of
 * FILE on another origin that compresses it (`elsewhere`) the `facts` and what is said where TENSOR is asked for.
 */
import { launch, open } from "./browser.js";
import { serveParts } from "./serve_parts.js";

const HELD_BYTES = 2000;
const POLICIES = {
  all: undefined,
  withoutWasm: "default-src 'self'; img-src data:",
  withoutWorkers: "worker-src 'none'",
  withoutBoth: "default-src 'self'; worker-src 'none'; img-src data:",
};
const [chromium, file, damaged, tensor] = process.argv.slice(2);
const browser = await launch(chromium);
const found = {};
for (const [name, policy] of Object.entries(POLICIES)) {
  const headers = policy ? { "Content-Security-Policy": policy } : {};
  found[name] = await served({ headers }, (page) => page.evaluate(decodeAll, tensor));
}
// The last bytes come when the first have been decoded.
found.held = await served({ held: HELD_BYTES }, async (page, { release }) => {
  await page.exposeFunction("release", release);
  return page.evaluate(decodeHeld);
});
const other = await serveParts(
  { "/file": file },
  { headers: { "Access-Control-Allow-Origin": "*" }, isCompressed: true },
);
found.elsewhere = await served({}, (page) => page.evaluate(decodeElsewhere, [`${other.url}file`, tensor]));
other.close();
console.log(JSON.stringify(found));
await browser.close();

async function served(options, use) {
  const server = await serveParts({ "/file": file, "/damaged": damaged }, options);
  const { page } = await open(browser, `${server.url}blank`);
  const result = await use(page, server);
  await page.context().close();
  server.close();
  return { ...result, requests: server.requests.map(({ path }) => path) };
}

/** Runs in the page. */
async function decodeAll(name) {
  const { decodeInWorker, fetchTensor, MetaqError } = await import("/metaq/index.js");
  const { factsOf, tensorFacts } = await import("/testing/model_facts.js");
  const steps = [];
  const onProgress = ({ done, total }) => steps.push([done, total]);
  const facts = await factsOf(await decodeInWorker("file", { onProgress }));
  const bytes = new Uint8Array(await (await fetch("file")).arrayBuffer());
  const ofBytes = await factsOf(await decodeInWorker(bytes));
  const isKept = bytes.length > 0;
  const single = await tensorFacts(await fetchTensor("file", name));
  const sentence = await decodeInWorker("damaged").catch((error) => error instanceof MetaqError && error.message);
  const stop = new AbortController();
  const decoding = decodeInWorker("file", { signal: stop.signal });
  stop.abort();
  const aborted = await decoding.catch((error) => error.name);
  const throwing = {
    onProgress: () => {
      throw new TypeError("of the page");
    },
  };
  const thrown = await decodeInWorker("file", throwing).catch(String);
  return { facts, steps, ofBytes, isKept, single, sentence, aborted, thrown };
}

/** Runs in the page. */
async function decodeHeld() {
  const { decodeInWorker } = await import("/metaq/index.js");
  const { factsOf } = await import("/testing/model_facts.js");
  const onProgress = ({ done }) => done > 0 && globalThis.release();
  return { facts: await factsOf(await decodeInWorker("file", { onProgress })) };
}

/** Runs in the page. */
async function decodeElsewhere([url, name]) {
  const { decodeInWorker, fetchTensor } = await import("/metaq/index.js");
  const { factsOf } = await import("/testing/model_facts.js");
  const sentence = await fetchTensor(url, name).catch(({ message }) => message);
  return { facts: await factsOf(await decodeInWorker(url)), sentence };
}
