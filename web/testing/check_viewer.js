/**
 * Shows files of a visitor on the page: `node check_viewer.js CHROMIUM FILE... [--page HTML] [--screenshots FOLDER]`, where HTML is
 * the page as a single file.
 *
 * The result is JSON: `complaints`, serious `violations` of accessibility rules, whether the page scrolls sideways (`overflowing`), the
 * longest time in milliseconds that the page could not answer (`blockedMs`), and of every file the `status` and the texts of the `rows`.
 * The first file is dropped, the others are chosen. Then the first two are dropped at once, and the first one takes longer to be read:
 * `last` is the status some time after that.
 */
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { launch, open, seriousViolations, servePage } from "./browser.js";

const PATIENCE_MS = 300_000;
/** In which a small file would be read and decoded. */
const SOME_TIME_MS = 1500;
const options = { page: { type: "string" }, screenshots: { type: "string" } };
const { values, positionals } = parseArgs({ options, allowPositionals: true });
const [chromium, ...paths] = positionals;
const { screenshots } = values;

const [server, browser] = await Promise.all([servePage(values.page), launch(chromium)]);
const { page, complaints } = await open(browser, server.url, { viewport: { width: 390, height: 844 } });
await page.evaluate(() => {
  let last = performance.now();
  globalThis.blockedMs = 0;
  setInterval(() => {
    globalThis.blockedMs = Math.max(globalThis.blockedMs, performance.now() - last);
    last = performance.now();
  }, 1);
});
const files = [];
for (const [number, path] of paths.entries()) {
  await page.evaluate(() => (document.getElementById("own-status").textContent = ""));
  if (number === 0) await drop(path);
  else await page.locator("#own-file").setInputFiles(path);
  await page.waitForFunction(
    () => !["", "Decoding"].includes(document.getElementById("own-status").textContent.split(" ")[0]),
    undefined,
    { timeout: PATIENCE_MS },
  );
  files.push({
    status: await page.locator("#own-status").textContent(),
    rows: await page.locator("#own-result:not([hidden]) #own-tensors tr").allTextContents(),
  });
  if (screenshots) await page.locator("#own").screenshot({ path: join(screenshots, `viewer-${basename(path)}.png`) });
}
const last = await statusOfLast(paths[0], paths[1]);
const blockedMs = await page.evaluate(() => globalThis.blockedMs);
const overflowing = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
const violations = await seriousViolations(page);
console.log(JSON.stringify({ complaints, violations, overflowing, blockedMs, files, last }));
await browser.close();
server.close();

async function drop(path) {
  const content = (await readFile(path)).toString("base64");
  await page.evaluate(
    ([name, encoded]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0))], name));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    },
    [basename(path), content],
  );
}

async function statusOfLast(slow, quick) {
  await page.evaluate((name) => {
    const { arrayBuffer } = Blob.prototype;
    const released = new Promise((resolve) => (globalThis.release = resolve));
    Blob.prototype.arrayBuffer = async function () {
      if (this.name === name) await released;
      return arrayBuffer.call(this);
    };
  }, basename(slow));
  await drop(slow);
  await drop(quick);
  await page.waitForFunction(() => document.getElementById("own-status").textContent.includes(" hold "));
  await page.evaluate(() => globalThis.release());
  await page.waitForTimeout(SOME_TIME_MS);
  return page.locator("#own-status").textContent();
}
