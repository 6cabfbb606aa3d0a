/** Pictures of the layers of a network, and the names they go by on the page. */
const SHOWN = [
  { name: "picture", title: "What the network sees", note: "28 × 28 pixels", zoom: 4 },
  { name: "conv1", title: "First convolution", note: "6 maps of 24 × 24", zoom: 2 },
  { name: "pool1", title: "Pooled", note: "6 maps of 12 × 12", zoom: 4 },
  { name: "conv2", title: "Second convolution", note: "16 maps of 8 × 8", zoom: 4 },
  { name: "pool2", title: "Pooled", note: "16 maps of 4 × 4", zoom: 6 },
  { name: "fc1", title: "First linear layer", note: "120 units", zoom: 8, columns: 30 },
  { name: "fc2", title: "Second linear layer", note: "84 units", zoom: 8, columns: 28 },
];
const GAP = 1;

/**
 * Make a figure for every layer.
 * @param {HTMLElement} parent
 * @returns {(layers: import("./network.js").Layer[]) => void} draws activations
 */
export function makeFigures(parent) {
  const canvases = new Map(SHOWN.map((shown) => [shown.name, makeFigure(parent, shown)]));
  return (layers) => {
    for (const shown of SHOWN) {
      drawMaps(
        canvases.get(shown.name),
        layers.find(({ name }) => name === shown.name),
        shown,
      );
    }
  };
}

function makeFigure(parent, { name, title, note }) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  canvas.id = `layer-${name}`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}: ${note}`);
  const caption = document.createElement("figcaption");
  caption.textContent = `${title}, ${note}`;
  figure.append(canvas, caption);
  parent.append(figure);
  return canvas;
}

/** Maps side by side, or the units of a linear layer in rows. */
function drawMaps(canvas, layer, { zoom, columns }) {
  const maps = columns ? { count: 1, height: Math.ceil(layer.width / columns), width: columns } : mapsOf(layer);
  const perRow = maps.count > 8 ? 8 : maps.count;
  const [cellWidth, cellHeight] = [maps.width + GAP, maps.height + GAP];
  canvas.width = perRow * cellWidth - GAP;
  canvas.height = Math.ceil(maps.count / perRow) * cellHeight - GAP;
  canvas.style.width = `${canvas.width * zoom}px`;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  layer.values.forEach((value, i) => {
    const [map, y, x] = placeOf(i, maps);
    const at = ((Math.floor(map / perRow) * cellHeight + y) * canvas.width + (map % perRow) * cellWidth + x) * 4;
    image.data.set(colorOf(value), at);
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

/** Orange for 1, blue for -1, light for 0. */
function colorOf(value) {
  const strength = Math.min(Math.abs(value), 1);
  const end = value >= 0 ? [179, 74, 9] : [20, 88, 150];
  return [...end.map((channel) => Math.round(245 + (channel - 245) * strength)), 255];
}
