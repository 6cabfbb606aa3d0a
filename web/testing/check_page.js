/**
 * Looks at the page as its readers may: `node check_page.js CHROMIUM [SCREENSHOTS]`, where screenshots go to a folder if one is given.
 *
 * The result is JSON: `complaints`, serious `violations` of accessibility rules, `overflowing` views that scroll sideways, how the
 * ten `examples` are read, what is said of `flips` flipped bits, and what is there without a canvas and without JavaScript.
 */
import { join } from "node:path";
import { launch, open, seriousViolations, serve } from "./browser.js";

const FLIPS = 5;
const NO_CANVAS = "HTMLCanvasElement.prototype.getContext = () => null;";
const [chromium, screenshots] = process.argv.slice(2);

const [server, browser] = await Promise.all([serve(), launch(chromium)]);
const found = { complaints: [], violations: [], overflowing: [], flips: FLIPS };
for (const width of [1280, 390]) {
  for (const colorScheme of ["light", "dark"]) await look(width, colorScheme);
}
found.withoutCanvas = await visibleText({}, NO_CANVAS);
found.withoutJavaScript = await visibleText({ javaScriptEnabled: false });
console.log(JSON.stringify(found));
await browser.close();
server.close();

async function look(width, colorScheme) {
  const { page, complaints } = await open(browser, server.url, { viewport: { width, height: 900 }, colorScheme });
  found.examples = await readExamples(page);
  found.flipped = await flipBits(page);
  for (const summary of await page.locator("summary").all()) await summary.click();
  const name = `${width}-${colorScheme}`;
  found.violations.push(...(await seriousViolations(page)).map((violation) => `${name}: ${violation}`));
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) found.overflowing.push(name);
  if (screenshots) await page.screenshot({ path: join(screenshots, `page-${name}.png`), fullPage: true });
  found.complaints.push(...complaints);
  await page.context().close();
}

async function readExamples(page) {
  const read = [];
  for (const button of await page.locator("#examples button").all()) {
    await button.click();
    read.push(Number((await page.locator("#prediction").textContent()).match(/\d/)[0]));
  }
  return read;
}

async function flipBits(page) {
  const said = [];
  for (let flip = 0; flip < FLIPS; flip += 1) {
    await page.locator("#flip").click();
    said.push(await page.locator("#flipped").textContent());
  }
  return said.join("\n");
}

async function visibleText(options, script) {
  const { page, complaints } = await open(browser, server.url, options, script);
  const text = await page.locator("body").innerText();
  found.complaints.push(...complaints);
  await page.context().close();
  return text;
}
