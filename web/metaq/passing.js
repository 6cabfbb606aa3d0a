/** How what a task finds goes from a worker to its page: without copies, as memory changes hands. */
import { ELEMENT_TYPES } from "./element_types.js";
import { Tensor } from "./tensor.js";

const TYPES = new Map(ELEMENT_TYPES.map((type) => [type.name, type]));

/**
 * By the name of the task, how its result is packed for `postMessage` and unpacked.
 * @type {Record<string, {packed: (result: object) => [object, ArrayBuffer[]], unpacked: (message: object) => object}>}
 */
export const PASSING = {
  model: {
    packed({ version, tensors, metadata }) {
      const owned = ownedOnce();
      const plain = [...tensors.values()].map((tensor) => plainTensor(tensor, owned));
      return [{ version, tensors: plain, metadata }, buffersOf(plain.map(({ bytes }) => bytes))];
    },
    unpacked({ version, tensors, metadata }) {
      return { version, tensors: new Map(tensors.map((plain) => [plain.name, tensorFrom(plain)])), metadata };
    },
  },

  tensor: {
    packed(tensor) {
      const plain = plainTensor(tensor, ownedOnce());
      return [plain, buffersOf([plain.bytes])];
    },
    unpacked: tensorFrom,
  },

  onnx: {
    packed(model) {
      const owned = ownedOnce();
      const files = new Map([...model.files].map(([path, bytes]) => [path, owned(bytes)]));
      const externalData = model.externalData.map(({ path, data }) => ({ path, data: owned(data) }));
      const result = { ...model, bytes: owned(model.bytes), externalData, files };
      return [result, buffersOf([result.bytes, ...externalData.map(({ data }) => data), ...files.values()])];
    },
    unpacked: (model) => model,
  },
};

function plainTensor({ name, dtype, shape, bytes }, owned) {
  return { name, dtype, shape, bytes: owned(bytes) };
}

function tensorFrom({ name, dtype, shape, bytes }) {
  return new Tensor({ name, type: TYPES.get(dtype), shape }, bytes);
}

/** Bytes in memory of their own, so that they do not keep all of the file; the same ones for the same ones. */
function ownedOnce() {
  const copies = new Map();
  return (bytes) => {
    if (bytes.length === bytes.buffer.byteLength) return bytes;
    if (!copies.has(bytes)) copies.set(bytes, bytes.slice());
    return copies.get(bytes);
  };
}

function buffersOf(arrays) {
  return [...new Set(arrays.map(({ buffer }) => buffer))];
}
