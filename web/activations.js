/** Pictures of the layers of a network, and the names they go by on the page. */
const TITLES = {
  picture: "What the network sees",
  conv1: "First convolution",
  pool1: "Pooled",
  conv2: "Second convolution",
  pool2: "Pooled",
  fc1: "First linear layer",
  fc2: "Second linear layer",
};
/** Pixels of the screen for an activation, by the width of a map. */
const ZOOMS = new Map([
  [28, 4],
  [24, 2],
  [12, 4],
  [8, 4],
  [4, 6],
]);
const UNIT_ZOOM = 8;
const UNITS_PER_ROW = 30;
const MAPS_PER_ROW = 8;
const GAP = 1;

/**
 * Draw the activations of all layers but the last, which gives the answer.
 * @param {HTMLElement} parent whose figures are made anew for another network
 * @param {import("./network.js").Layer[]} layers
 */
export function drawLayers(parent, layers) {
  const shown = layers.slice(0, -1);
  const notes = shown.map(noteOn);
  if (notes.join() !== parent.dataset.notes) {
    parent.replaceChildren(...shown.map((layer, i) => makeFigure(layer.name, notes[i])));
    parent.dataset.notes = notes.join();
  }
  const colors = colorsOf(parent);
  shown.forEach((layer, i) => drawMaps(parent.children[i].firstChild, layer, colors));
}

function noteOn({ channels, height, width }) {
  if (height === 1) return `${width} units`;
  return channels === 1 ? `${height} × ${width} pixels` : `${channels} maps of ${height} × ${width}`;
}

function makeFigure(name, note) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  canvas.id = `layer-${name}`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${TITLES[name]}: ${note}`);
  const caption = document.createElement("figcaption");
  caption.textContent = `${TITLES[name]}, ${note}`;
  figure.append(canvas, caption);
  return figure;
}

/** Maps side by side, or the units of a linear layer in rows. */
function drawMaps(canvas, layer, colors) {
  const isOfUnits = layer.height === 1;
  const maps = isOfUnits
    ? { count: 1, height: Math.ceil(layer.width / UNITS_PER_ROW), width: UNITS_PER_ROW }
    : mapsOf(layer);
  const perRow = Math.min(maps.count, MAPS_PER_ROW);
  const [cellWidth, cellHeight] = [maps.width + GAP, maps.height + GAP];
  canvas.width = perRow * cellWidth - GAP;
  canvas.height = Math.ceil(maps.count / perRow) * cellHeight - GAP;
  canvas.style.width = `${canvas.width * (isOfUnits ? UNIT_ZOOM : ZOOMS.get(maps.width))}px`;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const largest = layer.values.reduce((found, value) => Math.max(found, Math.abs(value)), 1);
  layer.values.forEach((value, i) => {
    const [map, y, x] = placeOf(i, maps);
    const at = ((Math.floor(map / perRow) * cellHeight + y) * canvas.width + (map % perRow) * cellWidth + x) * 4;
    image.data.set(colorOf(value / largest, colors), at);
  });
  context.putImageData(image, 0, 0);
}

function mapsOf({ channels, height, width }) {
  return { count: channels, height, width };
}

function placeOf(i, { height, width }) {
  const row = Math.floor(i / width);
  return [Math.floor(row / height), row % height, i % width];
}

/** The colours of 0, of 1 and of -1, from the style of the page. @returns {number[][]} red, green and blue of each */
function colorsOf(element) {
  const style = getComputedStyle(element);
  return ["--zero", "--high", "--low"].map((name) => style.getPropertyValue(name).trim().split(" ").map(Number));
}

function colorOf(value, [zero, high, low]) {
  const [strength, end] = [Math.abs(value), value >= 0 ? high : low];
  return [...zero.map((channel, i) => Math.round(channel + (end[i] - channel) * strength)), 255];
}
