/**
 * How long the page that searches by meaning takes, and how it ranks: `node measure_search.js CHROMIUM MODEL RUNS < QUERIES`.
 *
 * QUERIES is a list in JSON. The result is JSON: of every run in a fresh browser `milliseconds` from the click to the first
 * ranking and the `times` that the page shows; of the last run the `sentences` and the `rankings` of all queries.
 */
import { readFileSync } from "node:fs";
import { launch, open } from "./browser.js";
import { serveOver } from "./overlay.js";

const LISTEN = `
  globalThis.rankings = [];
  addEventListener("click", () => (globalThis.clicked ??= performance.now()), { capture: true });
  document.addEventListener("searched", ({ detail }) => {
    globalThis.searched ??= performance.now();
    rankings.push(detail.ranking);
  });`;
const MOST_MILLISECONDS = 300_000;
const [chromium, model, runs] = process.argv.slice(2);

const queries = JSON.parse(readFileSync(0, "utf8"));
const server = await serveOver({ "/search/model.metaq": model });
const found = { runs: [] };
for (let run = 1; run <= Number(runs); run += 1) {
  const browser = await launch(chromium);
  const { page } = await open(browser, `${server.url}search/`, {}, LISTEN);
  page.setDefaultTimeout(MOST_MILLISECONDS);
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await rankingsOf(page, 1);
  const times = await page.locator("#times div").evaluateAll((all) => all.map((each) => each.innerText.split("\n")));
  found.runs.push({
    milliseconds: await page.evaluate(() => globalThis.searched - globalThis.clicked),
    times: Object.fromEntries(times),
  });
  if (run === Number(runs)) {
    found.sentences = (await page.locator("#sentences").inputValue()).split("\n");
    found.rankings = await rankingsOfAll(page);
  }
  await browser.close();
}
server.close();
console.log(JSON.stringify(found));

async function rankingsOfAll(page) {
  const rankings = [];
  for (const query of queries) {
    const before = await page.evaluate(() => globalThis.rankings.length);
    await page.locator("#query").fill(query);
    rankings.push((await rankingsOf(page, before + 1)).at(-1));
  }
  return rankings;
}

/** All rankings so far, once there are so many. */
async function rankingsOf(page, count) {
  await page.waitForFunction((enough) => globalThis.rankings.length >= enough, count);
  return page.evaluate(() => globalThis.rankings);
}
