import { makeFigures } from "./activations.js";
import { writtenDigit } from "./examples.js";
import { decode, MetaqError } from "./metaq/index.js";
import { LeNet5 } from "./network.js";
import { inkStrokes, pictureOf } from "./strokes.js";
import { startViewer } from "./viewer.js";

const DIGITS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const PEN_SHARE = 0.07;
const BYTES_PER_LINE = 24;

const byId = (id) => document.getElementById(id);
const makeCanvas = () => document.createElement("canvas");
const inBytes = (count) => `${count.toLocaleString("en")} bytes`;

const fileBytes = Uint8Array.from(atob(byId("model").textContent.replace(/\s/g, "")), (character) =>
  character.charCodeAt(0),
);

function start() {
  byId("live").hidden = false;
  startViewer();
  showFile();
  const { tensors } = decode(fileBytes);
  showTensors(tensors);
  if (!makeCanvas().getContext?.("2d")) {
    byId("drawing").hidden = true;
    byId("layers").hidden = true;
    byId("no-canvas").hidden = false;
    return;
  }
  startDrawing(new LeNet5(tensors));
}

/** Everything about drawing and reading a digit; whatever is read is told by an event `digitread`. */
function startDrawing(network) {
  const canvas = byId("paper");
  const drawLayers = makeFigures(byId("figures"));
  const drawBars = makeBars();
  let strokes = [];
  let isDue = false;

  const read = () => {
    isDue = false;
    redraw(canvas, strokes);
    const picture = pictureOf(strokes, makeCanvas);
    const { layers, probabilities } = network.run(picture);
    drawLayers(layers);
    drawBars(strokes.length > 0 ? probabilities : undefined);
    showPictureSize(canvas, strokes.length > 0);
    document.dispatchEvent(new CustomEvent("digitread", { detail: { picture, probabilities } }));
  };
  const readSoon = () => {
    if (!isDue) requestAnimationFrame(read);
    isDue = true;
  };
  const replace = (drawn) => {
    strokes = drawn;
    read();
  };

  listenToPen(canvas, () => strokes, readSoon);
  byId("clear").addEventListener("click", () => replace([]));
  byId("undo").addEventListener("click", () => replace(strokes.slice(0, -1)));
  for (const digit of DIGITS) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = digit;
    button.setAttribute("aria-label", `Draw the digit ${digit}`);
    button.addEventListener("click", () => replace(writtenDigit(digit, canvas.width)));
    byId("examples").append(button);
  }
  read();
}

/** Strokes by mouse, finger or pen. */
function listenToPen(canvas, strokes, changed) {
  const pens = new Map();
  const pointOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * canvas.width) / box.width,
      y: ((event.clientY - box.top) * canvas.height) / box.height,
    };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    const stroke = [pointOf(event)];
    pens.set(event.pointerId, stroke);
    strokes().push(stroke);
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    const stroke = pens.get(event.pointerId);
    if (!stroke) return;
    const events = event.getCoalescedEvents?.() ?? [];
    stroke.push(...(events.length > 0 ? events : [event]).map(pointOf));
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => pens.delete(event.pointerId));
  }
}

function redraw(canvas, strokes) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  inkStrokes(context, strokes, PEN_SHARE * canvas.width, "#111");
}

/** Ten bars. @returns {(probabilities?: number[]) => void} */
function makeBars() {
  const bars = DIGITS.map((digit) => {
    const item = document.createElement("li");
    item.innerHTML =
      '<span class="digit"></span><span class="track"><span class="bar"></span></span><span class="share"></span>';
    item.querySelector(".digit").textContent = digit;
    byId("probabilities").append(item);
    return item;
  });
  return (probabilities) => {
    const largest = probabilities && Math.max(...probabilities);
    bars.forEach((item, digit) => {
      const probability = probabilities?.[digit] ?? 0;
      item.dataset.probability = probability;
      item.classList.toggle("largest", probability === largest);
      item.querySelector(".bar").style.width = `${100 * probability}%`;
      item.querySelector(".share").textContent = probabilities ? `${(100 * probability).toFixed(1)} %` : "–";
    });
    byId("prediction").textContent = probabilities ? `I read a ${probabilities.indexOf(largest)}.` : "Draw a digit.";
  };
}

function showPictureSize(canvas, isDrawn) {
  canvas.toBlob((blob) => {
    byId("picture-size").textContent = isDrawn && blob ? inBytes(blob.size) : "–";
  }, "image/png");
}

function showFile() {
  byId("network-size").textContent = inBytes(fileBytes.length);
  byId("file-size").textContent = inBytes(fileBytes.length);
  const pairs = Array.from(fileBytes, (byte) => byte.toString(16).padStart(2, "0"));
  const lines = [];
  for (let at = 0; at < pairs.length; at += BYTES_PER_LINE) lines.push(pairs.slice(at, at + BYTES_PER_LINE).join(" "));
  byId("bytes").textContent = lines.join("\n");
  byId("flip").addEventListener("click", flipBit);
}

function showTensors(tensors) {
  for (const { name, shape, dtype } of tensors.values()) {
    const row = byId("tensors").insertRow();
    const weights = shape.reduce((product, size) => product * size, 1);
    for (const text of [name, shape.join(" × "), dtype, weights.toLocaleString("en")])
      row.insertCell().textContent = text;
  }
  const total = [...tensors.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
  byId("float-size").textContent = inBytes(total);
  byId("ratio").textContent = `${Math.round(total / fileBytes.length)} times`;
}

/** Decode the file with one bit of it changed. */
function flipBit() {
  const bit = Math.floor(Math.random() * 8 * fileBytes.length);
  const changed = Uint8Array.from(fileBytes);
  changed[bit >> 3] ^= 1 << (bit & 7);
  const what = `Bit ${bit & 7} of byte ${bit >> 3} flipped:`;
  try {
    decode(changed);
    byId("flipped").textContent = `${what} the file was read all the same.`;
  } catch (error) {
    if (!(error instanceof MetaqError)) throw error;
    byId("flipped").textContent = `${what} refused. ${error.message}`;
  }
}

start();
