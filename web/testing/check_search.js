/**
 * Uses the page that searches by meaning as its readers may:
 * `node check_search.js CHROMIUM MODEL DAMAGED FOREIGN [SCREENSHOTS] < QUERIES`.
 *
 * MODEL stands for model.metaq; so do DAMAGED and FOREIGN, which have to be refused. QUERIES is a list in JSON. The result is JSON:
 * `complaints`, serious `violations` of accessibility rules, `overflowing` views that scroll sideways, requests to `outside`, the
 * `sentences`, the `rankings` of all queries, which element has the `focus` then, how many sentences are `shown` at most, what is
 * found among `own` ones, `problems`, what is said when `stopped`, and what is there without JavaScript.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { launch, open, seriousViolations } from "./browser.js";
import { serveOver } from "./overlay.js";

const MODEL = "/search/model.metaq";
const LISTEN = `
  globalThis.rankings = [];
  document.addEventListener("searched", ({ detail }) => rankings.push(detail));`;
const MOST_MILLISECONDS = 300_000;
const OWN = ["A cat sat on a mat.", "Stocks fell again.", "Bread needs time."];
const [chromium, model, damaged, foreign, screenshots] = process.argv.slice(2);

const queries = JSON.parse(readFileSync(0, "utf8"));
const browser = await launch(chromium);
const found = { complaints: [], violations: [], overflowing: [], outside: [], problems: {} };
await withServer({ [MODEL]: model }, async (url) => {
  for (const width of [1280, 390]) {
    for (const colorScheme of ["light", "dark"]) await look(url, width, colorScheme);
  }
  await searchByKeys(url);
  const { page } = await openPage(url, { javaScriptEnabled: false });
  found.withoutJavaScript = await page.locator("body").innerText();
});
for (const [name, file] of Object.entries({ missing: "nowhere", damaged, foreign })) {
  await withServer({ [MODEL]: file }, async (url) => {
    const { page } = await openPage(url);
    await page.locator("#query").press("Enter");
    found.problems[name] = await textOf(page, "#problem");
  });
}
await withServer({ [MODEL]: null }, async (url) => {
  const { page } = await openPage(url);
  await page.locator("#query").press("Enter");
  await page.locator("#stop").click();
  found.stopped = await page.locator("#status").textContent();
});
console.log(JSON.stringify(found));
await browser.close();

async function withServer(files, use) {
  const server = await serveOver(files);
  await use(`${server.url}search/`);
  server.close();
}

async function openPage(url, options = {}) {
  const opened = await open(browser, url, options, LISTEN);
  opened.page.setDefaultTimeout(MOST_MILLISECONDS);
  opened.page.on("request", (request) => {
    if (!request.url().startsWith(new URL("/", url).href)) found.outside.push(request.url());
  });
  return opened;
}

async function look(url, width, colorScheme) {
  const { page, complaints } = await openPage(url, { viewport: { width, height: 900 }, colorScheme });
  const name = `${width}-${colorScheme}`;
  await picture(page, `${name}-before`);
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await rankingsOf(page, 1);
  await page.locator("summary").click();
  found.violations.push(...(await seriousViolations(page)).map((violation) => `${name}: ${violation}`));
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) found.overflowing.push(name);
  await picture(page, name);
  found.complaints.push(...complaints);
  await page.context().close();
}

/** Everything by keys: all queries, then sentences of one's own. */
async function searchByKeys(url) {
  const { page, complaints } = await openPage(url);
  found.sentences = (await page.locator("#sentences").inputValue()).split("\n");
  await page.keyboard.press("Tab");
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.insertText(queries[0]);
  await page.keyboard.press("Enter");
  found.rankings = await rankingsOf(page, 1);
  for (const query of queries.slice(1)) {
    await page.keyboard.press("ControlOrMeta+A");
    // Once the network is there, it searches as one types.
    await page.keyboard.insertText(query);
    found.rankings = await rankingsOf(page, found.rankings.length + 1);
  }
  found.focus = await page.evaluate(() => document.activeElement.id);
  await page.locator("#more").press("Enter");
  await rankingsOf(page, queries.length + 1);
  found.shown = await page.locator("#results li").count();
  await page.locator("summary").press("Enter");
  await page.locator("#sentences").fill(OWN.join("\n"));
  await page.locator("#sentences").blur();
  await rankingsOf(page, queries.length + 2);
  found.own = await page.locator("#results .sentence").allTextContents();
  found.complaints.push(...complaints);
  await page.context().close();
}

/** All rankings so far, once there are so many. */
async function rankingsOf(page, count) {
  await page.waitForFunction((enough) => globalThis.rankings.length >= enough, count);
  return page.evaluate(() => globalThis.rankings);
}

async function textOf(page, selector) {
  await page.locator(selector).waitFor();
  return page.locator(selector).textContent();
}

async function picture(page, name) {
  if (screenshots) await page.screenshot({ path: join(screenshots, `search-${name}.png`), fullPage: true });
}
