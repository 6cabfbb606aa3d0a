/**
 * Decoder of `.metaq` files, version 1, as docs/format.md describes them.
 *
 *     import { decodeInWorker } from "./metaq/index.js";
 *     const { tensors, metadata } = await decodeInWorker("model.metaq");
 *     const weight = tensors.get("conv1.weight");
 *     weight.dtype; weight.shape; weight.values();
 *
 * The same at once, of bytes that are there:
 *
 *     import { decode } from "./metaq/index.js";
 *     const { tensors, metadata } = decode(new Uint8Array(await (await fetch("model.metaq")).arrayBuffer()));
 *
 * An update tells a model by another one:
 *
 *     import { applyUpdate, decode } from "./metaq/index.js";
 *     const { tensors, metadata } = applyUpdate(decode(bytes), updateBytes);
 */
export { decode } from "./decode.js";
export { MetaqError } from "./errors.js";
export { decodeInWorker, fetchTensor } from "./in_worker.js";
export { Tensor } from "./tensor.js";
export { applyUpdate } from "./updates.js";

/** @typedef {import("./decode.js").Model} Model */
