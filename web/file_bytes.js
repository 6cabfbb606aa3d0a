/** The bytes and tensors of the page's file, and what damage does to it. */
import { byId, inBytes, made } from "./elements.js";
import { loadModel, loadUnchecked } from "./loading.js";
import { MetaqError } from "./metaq/index.js";
import { NetworkError } from "./network.js";

const hex = (byte) => byte.toString(16).padStart(2, "0");

/**
 * @param {(network: import("./network.js").Network) => string | undefined} judged says how a network reads examples
 * @returns {(model: import("./loading.js").Model) => void} shows another file
 */
export function startFile(judged) {
  let model, damaged;
  byId("flip").addEventListener("click", () => {
    const bit = Math.floor(Math.random() * 8 * model.bytes.length);
    damaged = model.bytes.slice();
    damaged[bit >> 3] ^= 1 << (bit & 7);
    showBytes(damaged, bit >> 3);
    const [before, after] = [model.bytes[bit >> 3], damaged[bit >> 3]].map(hex);
    const what = `Bit ${bit & 7} of byte ${bit >> 3} flipped, ${before} became ${after}:`;
    const refusal = refusalOf(() => loadModel(damaged));
    byId("flipped").textContent = `${what} ${refusal ? `refused. ${refusal}` : "the file was read all the same."}`;
    byId("anyway-result").textContent = "";
    byId("anyway").hidden = false;
  });
  byId("anyway").addEventListener("click", () => {
    byId("anyway-result").textContent = unchecked(model, damaged, judged);
  });
  return (shown) => {
    model = shown;
    byId("anyway").hidden = true;
    for (const id of ["flipped", "anyway-result"]) byId(id).textContent = "";
    showBytes(model.bytes);
    showTensors(model);
  };
}

/** What would have been made of damaged bytes, had nothing been checked. */
function unchecked(model, damaged, judged) {
  let other;
  const refusal = refusalOf(() => {
    other = loadUnchecked(damaged);
  });
  if (refusal) return `Even without its checksum the file is refused. ${refusal}`;
  const [weights, changed] = differences(model.tensors, other.tensors).map((count) => count.toLocaleString("en"));
  return `Without checks, ${changed} of ${weights} weights would have been others. ${judged(other.network)}`;
}

/** The sentence with which something is refused, if it is. @param {() => void} attempt */
function refusalOf(attempt) {
  try {
    attempt();
    return undefined;
  } catch (error) {
    if (!(error instanceof MetaqError || error instanceof NetworkError)) throw error;
    return error.message;
  }
}

/** @returns {[number, number]} how many weights there are, and how many differ */
function differences(tensors, others) {
  let [weights, changed] = [0, 0];
  for (const [name, tensor] of tensors) {
    const [values, other] = [tensor.values(), others.get(name).values()];
    weights += values.length;
    values.forEach((value, i) => (changed += Object.is(value, other[i]) ? 0 : 1));
  }
  return [weights, changed];
}

/** All bytes in hexadecimal; the one that was flipped is marked and in sight. */
function showBytes(bytes, flipped) {
  const pairs = Array.from(bytes, hex);
  const strip = byId("bytes");
  if (flipped === undefined) {
    strip.textContent = pairs.join(" ");
    return;
  }
  const mark = made("mark", pairs[flipped]);
  const [before, after] = [pairs.slice(0, flipped), pairs.slice(flipped + 1)];
  strip.replaceChildren(before.map((pair) => `${pair} `).join(""), mark, after.map((pair) => ` ${pair}`).join(""));
  const view = strip.parentElement;
  view.scrollTop = mark.offsetTop - view.clientHeight / 2;
}

function showTensors({ bytes, tensors }) {
  const rows = [...tensors.values()].map(({ name, shape, dtype }) => {
    const row = document.createElement("tr");
    const weights = shape.reduce((product, size) => product * size, 1);
    row.append(...[name, shape.join(" × "), dtype, weights.toLocaleString("en")].map((text) => made("td", text)));
    return row;
  });
  byId("tensors").replaceChildren(...rows);
  const total = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes.length, 0);
  byId("file-size").textContent = inBytes(bytes.length);
  byId("float-size").textContent = inBytes(total);
  byId("ratio").textContent = `${Math.round(total / bytes.length).toLocaleString("en")} times`;
}
