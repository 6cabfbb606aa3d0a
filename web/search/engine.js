/** Sentences as vectors, by an ONNX model that was loaded from a `.metaq` file. */
import { MetaqError } from "../metaq/errors.js";
import { WordPieceTokenizer } from "./wordpiece.js";

/** Where onnxruntime-web is: `npm ci` in web/ puts it here. */
const ONNXRUNTIME = new URL("../node_modules/onnxruntime-web/dist/", import.meta.url);

/** Sentences that run through the network together. */
const BATCH = 8;

/** Load onnxruntime-web, for processors, on one thread, so that the page needs no special headers. */
export async function loadRuntime() {
  const runtime = await import(new URL("ort.wasm.bundle.min.mjs", ONNXRUNTIME).href).catch(() => {
    throw new MetaqError("onnxruntime-web is not there; run npm ci in the folder web.");
  });
  runtime.env.wasm.wasmPaths = ONNXRUNTIME.href;
  runtime.env.wasm.numThreads = 1;
  return runtime;
}

export class Engine {
  #runtime;
  #session;
  #tokenizer;

  /** @param {typeof import("onnxruntime-web")} runtime @param {import("../metaq/onnx.js").OnnxModel} model */
  static async create(runtime, { bytes, externalData, files }) {
    const engine = new Engine();
    const tokenizer = files.get("tokenizer.json");
    if (!tokenizer) throw new MetaqError("The file carries no tokenizer.json, so that nothing can be read with it.");
    engine.#runtime = runtime;
    engine.#tokenizer = new WordPieceTokenizer(tokenizer);
    engine.#session = await runtime.InferenceSession.create(bytes, { externalData }).catch((error) => {
      throw new MetaqError(`The network cannot be run: ${error.message}.`);
    });
    return engine;
  }

  /**
   * Vectors of length 1, in the order of the texts.
   * @param {string[]} texts
   * @param {(done: number) => void} [onProgress]
   * @returns {Promise<Float32Array[]>}
   */
  async embed(texts, onProgress) {
    const vectors = new Array(texts.length);
    const encoded = texts.map((text, place) => ({ place, ids: this.#tokenizer.encode(text) }));
    // Those of like length go together, so that little is computed for padding.
    encoded.sort((left, right) => left.ids.length - right.ids.length);
    for (let start = 0; start < encoded.length; start += BATCH) {
      const batch = encoded.slice(start, start + BATCH);
      const found = await this.#run(batch.map(({ ids }) => ids));
      batch.forEach(({ place }, i) => (vectors[place] = found[i]));
      onProgress?.(start + batch.length);
    }
    return vectors;
  }

  async #run(rows) {
    const length = Math.max(...rows.map((ids) => ids.length));
    const [ids, mask] = [0, 1].map(() => new BigInt64Array(rows.length * length));
    rows.forEach((row, i) => {
      row.forEach((id, j) => (ids[i * length + j] = BigInt(id)));
      mask.fill(1n, i * length, i * length + row.length);
    });
    const tensor = (numbers) => new this.#runtime.Tensor("int64", numbers, [rows.length, length]);
    const outputs = await this.#session.run({ input_ids: tensor(ids), attention_mask: tensor(mask) });
    const { data, dims } = outputs.sentence_embedding;
    return rows.map((_, i) => data.slice(i * dims[1], (i + 1) * dims[1]));
  }
}
