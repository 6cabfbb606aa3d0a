/**
 * Draws digits on the page as a hand does, and takes a picture after every few points:
 * `node film_page.js CHROMIUM FOLDER DIGIT …` writes 000.png, 001.png, … to FOLDER.
 */
import { join } from "node:path";
import { writtenDigit } from "../examples.js";
import { launch, open, serve } from "./browser.js";

const VIEWPORT = { width: 760, height: 420 };
const POINTS_A_PICTURE = 2;
const PICTURES_OF_THE_ANSWER = 6;

const [chromium, folder, ...digits] = process.argv.slice(2);
const [server, browser] = await Promise.all([serve(), launch(chromium)]);
const { page } = await open(browser, server.url, { viewport: VIEWPORT, colorScheme: "light" });
await page.locator("#paper").scrollIntoViewIfNeeded();
await page.evaluate(() => scrollTo(0, document.getElementById("paper").getBoundingClientRect().top + scrollY - 16));
const box = await page.locator("#paper").boundingBox();
let count = 0;
for (const digit of digits) {
  await page.locator("#clear").click();
  await page.evaluate(() => scrollTo(0, document.getElementById("paper").getBoundingClientRect().top + scrollY - 16));
  for (const stroke of writtenDigit(Number(digit), 1)) await draw(stroke);
  for (let i = 0; i < PICTURES_OF_THE_ANSWER; i += 1) await shoot();
}
await browser.close();
server.close();

async function draw(points) {
  const places = points.map(({ x, y }) => [box.x + x * box.width, box.y + y * box.height]);
  await page.mouse.move(...places[0]);
  await page.mouse.down();
  for (const [i, place] of places.entries()) {
    await page.mouse.move(...place, { steps: 4 });
    if (i % POINTS_A_PICTURE === 0) await shoot();
  }
  await page.mouse.up();
}

async function shoot() {
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  await page.screenshot({ path: join(folder, `${String(count).padStart(3, "0")}.png`) });
  count += 1;
}
