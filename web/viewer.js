/** Shows what is in a `.metaq` file of the visitor's own, which does not leave the browser. */
import { byId, inBytes, made } from "./elements.js";
import { startWorker } from "./start_worker.js";
import { BINS } from "./tensor_figures.js";

const HEIGHT = 32;
const MOST_ROWS = 2000;

const ratioOf = (value) => (value < 100 ? value.toPrecision(3) : Math.round(value).toLocaleString("en"));
const rounded = (value) => (value === 0 ? "0" : value.toPrecision(3).replace("-", "−"));

/** Lets files be chosen, and dropped anywhere on the page. */
export function startViewer() {
  byId("own-file").addEventListener("change", ({ target }) => {
    if (target.files[0]) showOwn(target.files[0]);
    target.value = "";
  });
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  addEventListener("dragover", () => document.body.classList.add("dropping"));
  for (const name of ["dragleave", "drop"]) addEventListener(name, () => document.body.classList.remove("dropping"));
  addEventListener("drop", ({ dataTransfer }) => {
    if (dataTransfer?.files[0]) showOwn(dataTransfer.files[0]);
  });
}

let running;
/** How many files were given: only of the last one anything is shown. */
let given = 0;

/** @param {File} file */
export async function showOwn(file) {
  byId("own").scrollIntoView({ block: "start" });
  byId("own-result").hidden = true;
  tell(`Decoding ${file.name} …`);
  running?.terminate();
  const number = ++given;
  const isLast = () => number === given;
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (!isLast()) return;
    running = startWorker();
    running.addEventListener("error", () => {
      if (isLast()) tell("This browser does not let the page decode in a worker.");
    });
    running.addEventListener("message", ({ data: { progress, error, figures, metadata } }) => {
      if (!isLast()) return;
      if (progress) tell(`Decoding ${file.name}: ${Math.round((100 * progress.done) / Math.max(progress.total, 1))} %`);
      else if (error !== undefined) tell(`${file.name}: ${error}`);
      else showFigures(file, figures, metadata);
    });
    running.postMessage(bytes, [bytes.buffer]);
  } catch (error) {
    if (isLast()) tell(`${file.name} cannot be read: ${error.message}.`);
  }
}

function tell(text) {
  byId("own-status").textContent = text;
}

function showFigures({ name, size }, figures, metadata) {
  const total = figures.reduce((sum, { bytes }) => sum + bytes, 0);
  const elements = figures.reduce((sum, each) => sum + each.elements, 0);
  tell(
    `${name}: ${inBytes(size)} hold ${figures.length.toLocaleString("en")} tensors with ${elements.toLocaleString("en")} ` +
      `elements, ${inBytes(total)} when restored, ${ratioOf(total / size)} times as much.`,
  );
  byId("own-metadata").replaceChildren(
    ...metadata.flatMap(([key, value]) => [made("dt", key), made("dd", String(value))]),
  );
  const rows = figures.slice(0, MOST_ROWS).map((each) => rowOf(each, total));
  byId("own-tensors").replaceChildren(...rows);
  const left = figures.length - rows.length;
  byId("own-left").textContent = left > 0 ? `And ${left.toLocaleString("en")} tensors more.` : "";
  byId("own-result").hidden = false;
}

function rowOf({ name, dtype, shape, elements, bytes, least, largest, zeros, odd, bins }, total) {
  const row = document.createElement("tr");
  const share = made("td", inBytes(bytes));
  const bar = made("span", "");
  bar.className = "share-bar";
  bar.style.width = `${(100 * bytes) / Math.max(total, 1)}%`;
  share.append(bar);
  const picture = made("td", "");
  picture.append(histogram(bins, `${name}: ${rounded(least)} to ${rounded(largest)}`));
  const more = odd > 0 ? `, ${odd.toLocaleString("en")} not finite` : "";
  row.append(
    made("td", name),
    made("td", shape.join(" × ")),
    made("td", dtype),
    share,
    made("td", elements > 0 ? `${rounded(least)} to ${rounded(largest)}${more}` : "–"),
    made("td", elements > 0 ? `${((100 * zeros) / elements).toFixed(1)} %` : "–"),
    picture,
  );
  return row;
}

/** Bars as high as the square root of their share, so that tails are seen. */
function histogram(bins, label) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const most = Math.sqrt(bins.reduce((found, each) => Math.max(found, each), 1));
  picture.setAttribute("viewBox", `0 0 ${2 * BINS} ${HEIGHT}`);
  picture.setAttribute("width", 2 * BINS);
  picture.setAttribute("height", HEIGHT);
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `Histogram of ${label}`);
  const path = document.createElementNS(picture.namespaceURI, "path");
  const bars = [...bins].map((count, i) => {
    const height = count > 0 ? Math.max((HEIGHT * Math.sqrt(count)) / most, 1) : 0;
    return height > 0 ? `M${2 * i + 1} ${HEIGHT}v${-height.toFixed(2)}` : "";
  });
  path.setAttribute("d", bars.join(""));
  picture.append(path);
  return picture;
}
