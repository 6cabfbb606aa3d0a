/** Runs the network beside the page: `{ id, call, value }` in, `{ id, progress }`, `{ id, result }` or `{ id, error }` out. */
import { MetaqError } from "../metaq/errors.js";
import { Engine, loadRuntime } from "./engine.js";

const runtime = loadRuntime();
// Whoever asks for it is told; here nobody has asked yet.
runtime.catch(() => {});
let engine;

const CALLS = {
  open: async (model) => {
    engine = await Engine.create(await runtime, model);
  },
  embed: (texts, onProgress) => engine.embed(texts, onProgress),
};

addEventListener("message", async ({ data: { id, call, value } }) => {
  try {
    postMessage({ id, result: await CALLS[call](value, (progress) => postMessage({ id, progress })) });
  } catch (error) {
    postMessage({
      id,
      error: error instanceof MetaqError ? error.message : `The network broke down: ${error.message}.`,
    });
  }
});
