/** The worker of viewer.js: the bytes of a file in, `{ progress }`, then `{ figures, metadata }` or `{ error }` out. */
import { decodeInWorker, MetaqError } from "./metaq/index.js";
import { figuresOf } from "./tensor_figures.js";

addEventListener("message", async ({ data }) => {
  try {
    const onProgress = (progress) => postMessage({ progress });
    const { tensors, metadata } = await decodeInWorker(data, { onProgress });
    postMessage({ figures: [...tensors.values()].map(figuresOf), metadata: [...metadata] });
  } catch (error) {
    postMessage({ error: error instanceof MetaqError ? error.message : `The file cannot be shown: ${error.message}.` });
  }
});
