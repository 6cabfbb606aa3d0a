/**
 * What there is to compare of a model, in JSON: `version`, `tensors` (name, dtype, shape, SHA-256 of the bytes) and
 * `metadata` as in decode_files.js.
 * @param {import("../metaq/index.js").Model} model
 */
export async function factsOf({ version, tensors, metadata }) {
  const facts = [...tensors.values()].map(tensorFacts);
  const pairs = [...metadata].map(([key, value]) => [key, typeof value, textOf(value)]);
  return { version, tensors: await Promise.all(facts), metadata: pairs };
}

/** @param {import("../metaq/index.js").Tensor} tensor */
export async function tensorFacts({ name, dtype, shape, bytes }) {
  return { name, dtype, shape, sha256: inDigits(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))) };
}

/** The text of a value, or the bytes of a number. */
function textOf(value) {
  if (typeof value !== "number") return String(value);
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setFloat64(0, value);
  return inDigits(bytes);
}

function inDigits(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
