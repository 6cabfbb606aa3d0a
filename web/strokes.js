/**
 * From strokes of a pen to the pictures the network was trained on.
 *
 * @typedef {{x: number, y: number}} Point
 * @typedef {Point[]} Stroke
 */
import { IMAGE_SIZE } from "./network.js";

/** MNIST fits digits into a box of this size, and puts their centre of mass into the middle of the picture. */
const BOX_SIZE = 20;
/** Width of the pen in pixels of the picture, however large the digit was drawn. */
const PEN_WIDTH = 2.5;
/** Pixels are averages of so many by so many. */
const OVERSAMPLING = 4;

/**
 * Draw strokes as a picture of 28 by 28 pixels.
 * @param {Stroke[]} strokes in any unit
 * @param {() => HTMLCanvasElement} makeCanvas
 * @returns {Uint8Array} 0 for paper to 255 for ink
 */
export function pictureOf(strokes, makeCanvas) {
  const points = strokes.flat();
  if (points.length === 0) return new Uint8Array(IMAGE_SIZE ** 2);
  const fit = fitInto(points);
  const centered = drawn(strokes, fit, makeCanvas);
  const mass = centerOfMass(centered);
  const middle = (IMAGE_SIZE - 1) / 2;
  return drawn(strokes, { ...fit, left: fit.left + middle - mass.x, top: fit.top + middle - mass.y }, makeCanvas);
}

/** How points are scaled and moved so that their box, pen included, is centred in the picture. */
function fitInto(points) {
  const [xs, ys] = [points.map(({ x }) => x), points.map(({ y }) => y)];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = (BOX_SIZE - PEN_WIDTH) / Math.max(right - left, bottom - top, Number.MIN_VALUE);
  const isDot = right === left && bottom === top;
  return {
    scale: isDot ? 1 : scale,
    left: IMAGE_SIZE / 2 - ((left + right) / 2) * (isDot ? 1 : scale),
    top: IMAGE_SIZE / 2 - ((top + bottom) / 2) * (isDot ? 1 : scale),
  };
}

function drawn(strokes, { scale, left, top }, makeCanvas) {
  const size = IMAGE_SIZE * OVERSAMPLING;
  const canvas = makeCanvas();
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const place = ({ x, y }) => ({ x: OVERSAMPLING * (left + scale * x), y: OVERSAMPLING * (top + scale * y) });
  inkStrokes(
    context,
    strokes.map((stroke) => stroke.map(place)),
    OVERSAMPLING * PEN_WIDTH,
    "#fff",
  );
  return averaged(context.getImageData(0, 0, size, size).data);
}

/**
 * Draw strokes with a round pen.
 * @param {CanvasRenderingContext2D} context
 * @param {Stroke[]} strokes in pixels
 * @param {number} width of the pen in pixels
 * @param {string} color
 */
export function inkStrokes(context, strokes, width, color) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: color });
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0].x, stroke[0].y);
    for (const { x, y } of stroke) context.lineTo(x, y);
    context.stroke();
  }
}

/** Opacity of a picture that is drawn larger. @param {Uint8ClampedArray} rgba */
function averaged(rgba) {
  const sums = new Float64Array(IMAGE_SIZE ** 2);
  const size = IMAGE_SIZE * OVERSAMPLING;
  for (let i = 0; i < size ** 2; i += 1) {
    const [y, x] = [Math.floor(i / size / OVERSAMPLING), Math.floor((i % size) / OVERSAMPLING)];
    sums[y * IMAGE_SIZE + x] += rgba[4 * i + 3];
  }
  return Uint8Array.from(sums, (sum) => Math.round(sum / OVERSAMPLING ** 2));
}

function centerOfMass(picture) {
  let [sum, x, y] = [0, 0, 0];
  picture.forEach((ink, i) => {
    sum += ink;
    x += ink * (i % IMAGE_SIZE);
    y += ink * Math.floor(i / IMAGE_SIZE);
  });
  return { x: x / sum, y: y / sum };
}
