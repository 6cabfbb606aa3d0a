/** Paper to draw on by mouse, finger or pen. */
import { inkStrokes } from "./strokes.js";

const PEN_SHARE = 0.07;

/**
 * @param {HTMLCanvasElement} canvas
 * @param {() => import("./strokes.js").Stroke[]} strokes to which new ones are added
 * @param {() => void} changed
 */
export function listenToPen(canvas, strokes, changed) {
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

/** Draw all strokes anew, in the colours that the canvas has by its style. */
export function redraw(canvas, strokes) {
  const context = canvas.getContext("2d");
  const { color, backgroundColor } = getComputedStyle(canvas);
  context.fillStyle = backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  inkStrokes(context, strokes, PEN_SHARE * canvas.width, color);
}
