import { MetaqError } from "../metaq/index.js";
import { loadOnnx } from "../metaq/onnx.js";
import { ranked } from "./ranking.js";
import { QUERIES, SENTENCES } from "./sentences.js";

const MODEL = new URL("model.metaq", import.meta.url);

/** Bytes of the same network in other forms, as benchmarks/browser_search.py measures them. */
const OTHER_SIZES = [
  ["ONNX of 8 bits", 22_741_341],
  ["ONNX of 16 bits", 45_192_254],
  ["ONNX of 32 bits", 90_322_630],
];
const SHOWN_AT_FIRST = 10;
const MOST_SENTENCES = 2000;

const byId = (id) => document.getElementById(id);
const inMegabytes = (count) => `${(count / 1e6).toFixed(1)} MB`;
const inTime = (milliseconds) =>
  milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;

/** The worker that runs the network. */
class Network {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #calls = 0;

  constructor() {
    this.#worker.addEventListener("message", ({ data: { id, progress, result, error } }) => {
      const { resolve, reject, onProgress } = this.#waiting.get(id);
      if (progress !== undefined) {
        onProgress(progress);
        return;
      }
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new MetaqError(error));
    });
    this.#worker.addEventListener("error", () => {
      this.close(new MetaqError("The worker that runs the network did not start or broke down."));
    });
  }

  /** @returns {Promise<unknown>} what the worker answers */
  call(name, value, { onProgress = () => {}, transfer = [] } = {}) {
    this.#calls += 1;
    const id = this.#calls;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onProgress });
      this.#worker.postMessage({ id, call: name, value }, transfer);
    });
  }

  /** Ends it; whoever waits for an answer gets the reason. */
  close(reason) {
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }
}

/** Fetches the model when it is first needed, and keeps the vectors of all sentences. */
class Searcher {
  #network;
  #vectors = new Map();
  #stopping = new AbortController();

  get isReady() {
    return this.#network !== undefined;
  }

  /** Whatever goes on ends with an AbortError; the next search opens the model again. */
  stop() {
    this.#stopping.abort();
    this.#stopping = new AbortController();
    this.#network = undefined;
  }

  /** @param {string} query @param {string[]} sentences @returns {Promise<{place: number, cosine: number}[]>} */
  async search(query, sentences) {
    const network = this.#network ?? (await opened(this.#stopping.signal));
    this.#network = network;
    await this.#read(
      network,
      [...new Set(sentences)].filter((sentence) => !this.#vectors.has(sentence)),
    );
    const [vector] = await network.call("embed", [query]);
    return ranked(
      vector,
      sentences.map((sentence) => this.#vectors.get(sentence)),
    );
  }

  async #read(network, sentences) {
    if (sentences.length === 0) return;
    const begun = performance.now();
    const onProgress = (done) => showProgress("Reading the sentences …", done, sentences.length);
    onProgress(0);
    const vectors = await network.call("embed", sentences, { onProgress });
    sentences.forEach((sentence, i) => this.#vectors.set(sentence, vectors[i]));
    showTime("sentences read", performance.now() - begun);
  }
}

/** A network with the model of the file. */
async function opened(signal) {
  // It loads onnxruntime-web while the file is fetched and decoded.
  const network = new Network();
  signal.addEventListener("abort", () => network.close(signal.reason));
  try {
    showProgress("Fetching …");
    const begun = performance.now();
    let fetched = begun;
    const onProgress = (done, total) => {
      showProgress(`Fetching: ${inMegabytes(done)}${total ? ` of ${inMegabytes(total)}` : ""}`, done, total);
      if (done !== total) return;
      fetched = performance.now();
      showSizes(done);
      showProgress("Restoring the weights …");
    };
    const model = await loadOnnx(MODEL, { onProgress, signal });
    const restored = performance.now();
    showProgress("Opening the network …");
    await network.call("open", model, { transfer: [model.bytes.buffer] });
    showTime("fetched", fetched - begun);
    showTime("restored", restored - fetched);
    showTime("opened", performance.now() - restored);
    return network;
  } catch (error) {
    network.close(error);
    throw error;
  }
}

function start() {
  byId("live").hidden = false;
  byId("sentences").value = SENTENCES.join("\n");
  byId("query").value = QUERIES[0];
  for (const query of QUERIES) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = query;
    button.addEventListener("click", () => {
      byId("query").value = query;
      byId("search").requestSubmit();
    });
    byId("queries").append(button);
  }
  showSizes();
  showCount();
  byId("sentences").addEventListener("input", showCount);
  listen(new Searcher());
}

/** Searches when asked to and, once the network is there, as one types; every ranking is told by an event `searched`. */
function listen(searcher) {
  let [isBusy, isDue] = [false, false];
  let shown = SHOWN_AT_FIRST;

  const searchOnce = async () => {
    const [query, { sentences }] = [byId("query").value.trim(), listed()];
    showProblem();
    if (!query || sentences.length === 0) {
      byId("status").textContent = query ? "There are no sentences to search." : "Type what you are looking for.";
      return;
    }
    const begun = performance.now();
    try {
      const ranking = await searcher.search(query, sentences);
      showRanking(ranking, sentences, shown);
      byId("status").textContent = `Searched in ${inTime(performance.now() - begun)}.`;
      document.dispatchEvent(new CustomEvent("searched", { detail: { query, ranking } }));
    } catch (error) {
      const isStopped = error.name === "AbortError";
      byId("status").textContent = isStopped ? "Stopped." : "";
      if (!isStopped) showProblem(error);
    }
    byId("course").hidden = true;
  };
  const search = async () => {
    isDue = true;
    if (isBusy) return;
    isBusy = true;
    while (isDue) {
      isDue = false;
      await searchOnce();
    }
    isBusy = false;
  };

  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    shown = SHOWN_AT_FIRST;
    search();
  });
  byId("query").addEventListener("input", () => searcher.isReady && search());
  byId("sentences").addEventListener("change", () => searcher.isReady && search());
  byId("stop").addEventListener("click", () => searcher.stop());
  byId("more").addEventListener("click", () => {
    shown = Infinity;
    search();
    // The button goes away, and with it the focus.
    byId("results").focus();
  });
}

/** The sentences to search, and whether there are more than that. */
function listed() {
  const lines = byId("sentences")
    .value.split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  return { sentences: lines.slice(0, MOST_SENTENCES), isCut: lines.length > MOST_SENTENCES };
}

function showCount() {
  const { sentences, isCut } = listed();
  byId("count").textContent = `${isCut ? "The first " : ""}${sentences.length.toLocaleString("en")} sentences`;
}

function showProgress(what, done, total) {
  byId("course").hidden = false;
  byId("status").textContent = what;
  const progress = byId("progress");
  if (total) Object.assign(progress, { max: total, value: done });
  else progress.removeAttribute("value");
}

/** Say what went wrong, or nothing. */
function showProblem(error) {
  byId("problem").hidden = !error;
  byId("problem").textContent = error instanceof MetaqError ? error.message : error ? `Something broke: ${error}.` : "";
}

function showRanking(ranking, sentences, most) {
  byId("found").hidden = false;
  byId("results").replaceChildren(
    ...ranking.slice(0, most).map(({ place, cosine }) =>
      barItem([
        ["sentence", sentences[place]],
        ["track", Math.max(cosine, 0)],
        ["cosine", cosine.toFixed(3)],
      ]),
    ),
  );
  byId("more").hidden = ranking.length <= most;
  byId("more").textContent = `Show all ${ranking.length.toLocaleString("en")}`;
}

/** Sizes as bars. @param {number} [fetched] bytes of the .metaq file */
function showSizes(fetched) {
  const sizes = [["this .metaq file", fetched], ...OTHER_SIZES];
  const largest = Math.max(...sizes.map(([, size]) => size ?? 0));
  byId("sizes").replaceChildren(
    ...sizes.map(([name, size], i) => {
      const item = barItem([
        ["name", name],
        ["track", (size ?? 0) / largest],
        ["size", size === undefined ? "–" : inMegabytes(size)],
      ]);
      item.classList.toggle("own", i === 0);
      return item;
    }),
  );
}

/** An item of a list: texts, and in `track` a bar of some share. */
function barItem(parts) {
  const item = document.createElement("li");
  for (const [name, content] of parts) {
    const part = document.createElement("span");
    part.className = name;
    if (name === "track") {
      const bar = document.createElement("span");
      bar.className = "bar";
      bar.style.width = `${100 * content}%`;
      part.append(bar);
    } else part.textContent = content;
    item.append(part);
  }
  return item;
}

function showTime(name, milliseconds) {
  const entry = document.createElement("div");
  const [term, value] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  value.textContent = inTime(milliseconds);
  entry.append(term, value);
  const known = [...byId("times").children].find(({ firstChild }) => firstChild.textContent === name);
  if (known) known.replaceWith(entry);
  else byId("times").append(entry);
}

start();
