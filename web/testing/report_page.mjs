/** Opens reports in Chromium, wide and narrow, light and dark, and prints what it finds as JSON. */
import { readFile } from "node:fs/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const AXE = await readFile(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"];
const SIZES = [
  [1280, 900],
  [390, 844],
];

/** The values of a column from top to bottom, once its header has been pressed by a key. */
async function sortBy(page, key) {
  await page.focus("table.sortable thead th:nth-child(2) button");
  await page.keyboard.press(key);
  return page.evaluate(() => {
    const header = document.querySelector("table.sortable thead th:nth-child(2)");
    const cells = document.querySelectorAll("table.sortable tbody tr > :nth-child(2)");
    return [header.getAttribute("aria-sort"), [...cells].map((cell) => Number(cell.dataset.value))];
  });
}

async function examine(browser, file, [width, height], colorScheme) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme });
  const page = await context.newPage();
  const complaints = [];
  const requests = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!/^(file|data):/.test(request.url())) requests.push(request.url());
  });
  await page.goto(pathToFileURL(file).href);
  await page.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
  const overflow = await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  const first = await sortBy(page, "Enter");
  const second = await sortBy(page, "Space");
  await page.evaluate(AXE);
  const found = await page.evaluate(() => globalThis.axe.run());
  await context.close();
  const serious = found.violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  return {
    file,
    width,
    colorScheme,
    overflow_pixels: overflow,
    serious: serious.map(({ id, nodes }) => `${id}: ${nodes[0].html}`),
    complaints,
    requests,
    sorted: { values: first[1], first, second },
  };
}

const [executablePath, ...files] = process.argv.slice(2);
const results = [];
// Without files there is nothing to do: a runner of tests may take this program for one.
const browser = files.length ? await chromium.launch({ executablePath, args: QUIET }) : undefined;
for (const file of files) {
  for (const size of SIZES) {
    for (const colorScheme of ["light", "dark"]) {
      results.push(await examine(browser, file, size, colorScheme));
    }
  }
}
await browser?.close();
console.log(JSON.stringify(results));
