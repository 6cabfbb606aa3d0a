/**
 * Looks at the page as its readers may: `node check_page.js CHROMIUM [--page HTML] [--screenshots FOLDER]`, where HTML is the page as a
 * single file.
 *
 * The result is JSON: `complaints`, serious `violations` of accessibility rules, `overflowing` views that scroll sideways, `bright`
 * rows of pixels of dark views, views in which the answer is not in sight beside the paper (`hiddenAnswers`), how the ten `examples`
 * are read, the sentence for 8 (`saidOf8`) and the `cards` of all networks after it, the `times` shown, what is said of a flipped bit
 * in each of some bytes (`flipped`) and of decoding them anyway (`anyway`), marks that were not where the bits are
 * (`misplacedMarks`), and what is there without a canvas and without JavaScript.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { launch, open, pixelsOf, seriousViolations, servePage } from "./browser.js";

const VIEWPORTS = [
  { width: 1280, height: 900 },
  { width: 390, height: 844 },
];
/** Bytes in which a bit is flipped: of the mark of the format, of its version, of the weights. */
const FLIPPED_BYTES = [0, 4, 500, 700, 800, 850, 900, 950];
/** Paper has more than this of red, green and blue, text takes up less than this share of a row. */
const [LIGHT, SHARE] = [150, 0.6];
const NO_CANVAS = "HTMLCanvasElement.prototype.getContext = () => null;";
const options = { page: { type: "string" }, screenshots: { type: "string" } };
const { values, positionals } = parseArgs({ options, allowPositionals: true });

const [server, browser] = await Promise.all([servePage(values.page), launch(positionals[0])]);
const found = { complaints: [], violations: [], overflowing: [], bright: [], hiddenAnswers: [], misplacedMarks: [] };
for (const viewport of VIEWPORTS) {
  for (const colorScheme of ["light", "dark"]) await look(viewport, colorScheme);
}
found.withoutCanvas = await visibleText({}, NO_CANVAS);
found.withoutJavaScript = await visibleText({ javaScriptEnabled: false });
console.log(JSON.stringify(found));
await browser.close();
server.close();

async function look(viewport, colorScheme) {
  const { page, complaints } = await open(browser, server.url, { viewport, colorScheme });
  const name = `${viewport.width}-${colorScheme}`;
  await page.locator(".card").nth(2).waitFor();
  found.examples = await readExamples(page);
  if (!(await isAnswerInSight(page, viewport))) found.hiddenAnswers.push(name);
  if (values.screenshots) await page.screenshot({ path: join(values.screenshots, `first-${name}.png`) });
  if (colorScheme === "dark") found.bright.push(...(await brightRows(page)).map((row) => `${name}: ${row}`));
  found.times = await page.locator("#decode-time, #read-time").allTextContents();
  Object.assign(found, await flipBits(page));
  for (const summary of await page.locator("summary").all()) await summary.click();
  found.violations.push(...(await seriousViolations(page)).map((violation) => `${name}: ${violation}`));
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) found.overflowing.push(name);
  if (values.screenshots) await page.screenshot({ path: join(values.screenshots, `page-${name}.png`), fullPage: true });
  found.complaints.push(...complaints);
  await page.context().close();
}

async function readExamples(page) {
  const read = [];
  for (const button of await page.locator("#examples button").all()) {
    await button.click();
    read.push(Number((await page.locator("#prediction").textContent()).match(/\d/)[0]));
  }
  await page.locator("#examples button").nth(8).click();
  found.saidOf8 = await page.locator("#prediction").textContent();
  found.cards = await page.locator(".card").allInnerTexts();
  return read;
}

/** Whether paper and answer are wholly in sight without scrolling, the answer above the paper or beside it. */
async function isAnswerInSight(page, { width, height }) {
  const [paper, answer] = await Promise.all(["#paper", "#prediction"].map((id) => page.locator(id).boundingBox()));
  const isSeen = (box) => box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height;
  const isBeside = answer.y + answer.height <= paper.y || answer.x >= paper.x + paper.width;
  return (await page.evaluate(() => scrollY)) === 0 && isSeen(paper) && isSeen(answer) && isBeside;
}

/** Rows of pixels most of which are light. */
async function brightRows(page) {
  const { width, height, data } = await pixelsOf(page, await page.screenshot({ fullPage: true }));
  const lights = new Uint32Array(height);
  for (let i = 0; i < width * height; i += 1) {
    if (Math.min(data[4 * i], data[4 * i + 1], data[4 * i + 2]) > LIGHT) lights[Math.floor(i / width)] += 1;
  }
  return [...lights.keys()].filter((row) => lights[row] > SHARE * width);
}

/** Flip bits, and decode all the same; the marks must be on the bytes that are named, and in sight. */
async function flipBits(page) {
  const [flipped, anyway] = [[], []];
  for (const byte of FLIPPED_BYTES) {
    await page.evaluate((byte) => {
      Math.random = () => (byte + 0.5) / document.getElementById("bytes").textContent.split(" ").length;
    }, byte);
    await page.locator("#flip").click();
    const said = await page.locator("#flipped").textContent();
    flipped.push(said);
    await page.locator("#anyway").click();
    anyway.push(await page.locator("#anyway-result").textContent());
    const [, position, after] = said.match(/byte (\d+) flipped, .. became (..):/);
    const mark = await page.evaluate(() => {
      const [mark, view] = [document.querySelector("mark"), document.querySelector(".strip")];
      const [inner, outer] = [mark.getBoundingClientRect(), view.getBoundingClientRect()];
      const isInSight = inner.top >= outer.top && inner.bottom <= outer.bottom;
      return { position: mark.previousSibling.textContent.length / 3, text: mark.textContent, isInSight };
    });
    if (mark.position !== Number(position) || mark.text !== after || !mark.isInSight) found.misplacedMarks.push(said);
  }
  return { flipped, anyway };
}

async function visibleText(options, script) {
  const { page, complaints } = await open(browser, server.url, options, script);
  const text = await page.locator("body").innerText();
  found.complaints.push(...complaints);
  await page.context().close();
  return text;
}
