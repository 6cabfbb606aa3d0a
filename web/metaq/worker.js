/** The worker of in_worker.js: `{ task, input }` in; `{ isThere }`, `{ progress }`, `{ result }` or `{ error }` out. */
import { PASSING } from "./passing.js";
import { sentenceOf, TASKS } from "./tasks.js";
import { wasmModule } from "./wasm.js";

addEventListener("message", async ({ data: { task, input } }) => {
  try {
    const found = await TASKS[task](input, (progress) => postMessage({ progress }));
    const [result, buffers] = PASSING[task].packed(found);
    postMessage({ result }, buffers);
  } catch (error) {
    postMessage({ error: sentenceOf(error) });
  }
});
postMessage({ isThere: true });
// It is compiled while the file is on its way.
wasmModule();
