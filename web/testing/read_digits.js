/**
 * Draws digits on the page by mouse and says how they were read: `node read_digits.js CHROMIUM < STROKES`.
 *
 * STROKES is JSON, a list of digits, each a list of strokes, each a list of [x, y] between 0 and 1. The result is JSON: `complaints`
 * of the page, and of every digit the `picture` of 784 bytes that the network was given and the `probabilities`.
 */
import { readFileSync } from "node:fs";
import { launch, open, serve } from "./browser.js";

const LISTEN = 'document.addEventListener("digitread", ({ detail }) => { globalThis.lastRead = detail; });';

const digits = JSON.parse(readFileSync(0, "utf8"));
const [server, browser] = await Promise.all([serve(), launch(process.argv[2])]);
const { page, complaints } = await open(browser, server.url, {}, LISTEN);
const box = await page.locator("#paper").boundingBox();
const found = [];
for (const strokes of digits) {
  await page.locator("#clear").click();
  for (const stroke of strokes) await draw(stroke.map(([x, y]) => [box.x + x * box.width, box.y + y * box.height]));
  found.push(await page.evaluate(lastRead));
}
console.log(JSON.stringify({ complaints, digits: found }));
await browser.close();
server.close();

async function draw([[x, y], ...rest]) {
  await page.mouse.move(x, y);
  await page.mouse.down();
  for (const [nextX, nextY] of rest) await page.mouse.move(nextX, nextY);
  await page.mouse.up();
}

/** What the page read once it has drawn all there is to draw. */
async function lastRead() {
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  const { picture, probabilities } = globalThis.lastRead;
  return { picture: Array.from(picture), probabilities };
}
