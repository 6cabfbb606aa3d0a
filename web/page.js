import { drawLayers } from "./activations.js";
import { makeBars, makeCard } from "./answers.js";
import { byId, inBytes, inMilliseconds } from "./elements.js";
import { writtenDigit } from "./examples.js";
import { startFile } from "./file_bytes.js";
import { loadModel } from "./loading.js";
import { MetaqError } from "./metaq/index.js";
import { MODELS } from "./models.js";
import { digitOf, NetworkError } from "./network.js";
import { listenToPen, redraw } from "./pen.js";
import { listenToPictures, showCode } from "./qr_code.js";
import { pictureOf } from "./strokes.js";
import { showOwn, startViewer } from "./viewer.js";

const DIGITS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

const makeCanvas = () => document.createElement("canvas");
const hasCanvas = Boolean(makeCanvas().getContext?.("2d"));

const showFile = startFile(judged);
/** Networks that read what is drawn, each with its card. */
const readers = [];
let chosen;
let strokes = [];

function start() {
  byId("live").hidden = false;
  startViewer();
  if (!hasCanvas) {
    for (const id of ["drawing", "sizes", "layers", "code-reading"]) byId(id).hidden = true;
    byId("no-canvas").hidden = false;
    showModel(loadModel(bytesOf(MODELS[0])));
    return;
  }
  listenToPictures(useCode);
  startDrawing();
  for (const { accuracy, base64 } of MODELS) {
    // One at a time, so that the page answers in between.
    setTimeout(() => addReader(loadModel(bytesOf({ base64 })), { accuracy }));
  }
}

function bytesOf({ base64 }) {
  return Uint8Array.from(atob(base64.replace(/\s/g, "")), (letter) => letter.charCodeAt(0));
}

/** Everything about one file. */
function showModel(model) {
  byId("network-size").textContent = inBytes(model.bytes.length);
  byId("decode-time").textContent = inMilliseconds(model.decodeMs);
  showFile(model);
  showCode(model.bytes);
}

/** Another network beside the others. @returns its card */
function addReader(model, facts) {
  const reader = { model };
  reader.card = makeCard(model, facts, () => {
    chosen = reader;
    showModel(model);
    read();
  });
  readers.push(reader);
  if (chosen) read();
  else reader.card.choose();
  return reader.card;
}

const drawBars = makeBars();
let isDue = false;

/** Let all networks read what is drawn; what the chosen one reads is told by an event `digitread`. */
function read() {
  isDue = false;
  const canvas = byId("paper");
  redraw(canvas, strokes);
  const picture = pictureOf(strokes, makeCanvas);
  const isDrawn = strokes.length > 0;
  for (const reader of readers) {
    const begin = performance.now();
    const { layers, probabilities } = reader.model.network.run(picture);
    const readMs = performance.now() - begin;
    reader.card.show(isDrawn ? probabilities : undefined, readMs);
    if (reader === chosen) {
      drawLayers(byId("figures"), layers);
      drawBars(isDrawn ? probabilities : undefined);
      byId("read-time").textContent = isDrawn ? inMilliseconds(readMs) : "–";
      document.dispatchEvent(new CustomEvent("digitread", { detail: { picture, probabilities } }));
    }
  }
  canvas.toBlob((blob) => {
    byId("picture-size").textContent = isDrawn && blob ? inBytes(blob.size) : "–";
  }, "image/png");
}

function readSoon() {
  if (!isDue) requestAnimationFrame(read);
  isDue = true;
}

function startDrawing() {
  const canvas = byId("paper");
  const replace = (drawn) => {
    strokes = drawn;
    read();
  };
  listenToPen(canvas, () => strokes, readSoon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readSoon);
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
  drawBars();
  read();
}

/** How a network reads the ten digits that the page draws, in a sentence. */
function judged(network) {
  if (!hasCanvas) return "";
  const answers = DIGITS.map((digit) => {
    const picture = pictureOf(writtenDigit(digit, byId("paper").width), makeCanvas);
    return digitOf(network.run(picture).probabilities);
  });
  const right = answers.filter((answer, digit) => answer === digit).length;
  const texts = answers.map((answer) => (answer < 0 ? "–" : answer));
  return `Of the ten digits that this page draws, 0 to 9, that network reads ${right} right: ${texts.join(" ")}.`;
}

/** Let a file that came as a QR code read what is drawn, or show it if it is no network of handwriting. */
function useCode(bytes) {
  const what = `${inBytes(bytes.length)} read from the picture`;
  try {
    const model = loadModel(bytes);
    addReader(model, { origin: "from a QR code" }).choose();
    return `${what}: ${model.network.title}, which now reads what you draw.`;
  } catch (error) {
    if (error instanceof MetaqError) return `${what}. ${error.message}`;
    if (!(error instanceof NetworkError)) throw error;
    showOwn(new File([bytes], "from a QR code"));
    return `${what}. ${error.message}`;
  }
}

start();
