/**
 * Reads the page's QR code from screenshots: `node check_codes.js CHROMIUM [--page HTML]`, where HTML is the page as a single file.
 *
 * The result is JSON: `complaints`, by view what a library reads from a screenshot of the code in base64 (`codes`), by view what the
 * page says and shows of a picture in which the code is seen from aside (`read`: `status`, `bytes` in hexadecimal, `cards`), and what
 * it says of a picture without a code (`refused`).
 */
import { parseArgs } from "node:util";
import jsQR from "jsqr";
import { launch, open, pixelsOf, servePage } from "./browser.js";

const FROM_ASIDE = "perspective(1500px) rotateY(18deg) rotate(6deg) scale(0.85)";
const VIEWS = [
  { viewport: { width: 1280, height: 900 }, colorScheme: "light" },
  { viewport: { width: 390, height: 844 }, colorScheme: "dark", deviceScaleFactor: 2 },
];

const { values, positionals } = parseArgs({ options: { page: { type: "string" } }, allowPositionals: true });
const [server, browser] = await Promise.all([servePage(values.page), launch(positionals[0])]);
const found = { complaints: [], codes: [], read: [], refused: [] };
for (const view of VIEWS) {
  const { page, complaints } = await open(browser, server.url, view);
  await page.locator(".card").nth(2).waitFor();
  await page.locator("#code-part summary").click();
  const code = page.locator("#code");
  found.codes.push(await readByLibrary(page, await code.screenshot()));
  await code.evaluate((element, transform) => (element.style.transform = transform), FROM_ASIDE);
  const picture = await page.locator("#code-part").screenshot();
  await page.locator(".card").nth(2).click();
  found.read.push(await readByPage(page, picture));
  found.refused.push((await readByPage(page, await page.locator("h1").screenshot())).status);
  found.complaints.push(...complaints);
  await page.context().close();
}
console.log(JSON.stringify(found));
await browser.close();
server.close();

async function readByLibrary(page, png) {
  const { data, width, height } = await pixelsOf(page, png);
  const code = jsQR(data, width, height);
  return code && Buffer.from(code.binaryData).toString("base64");
}

async function readByPage(page, png) {
  await page.evaluate(() => (document.getElementById("code-status").textContent = ""));
  await page.locator(".code-picture").last().setInputFiles({ name: "code.png", mimeType: "image/png", buffer: png });
  await page.waitForFunction(() => !/^$|…$/.test(document.getElementById("code-status").textContent));
  return {
    status: await page.locator("#code-status").textContent(),
    bytes: await page.locator("#bytes").textContent(),
    cards: await page.locator(".card").allInnerTexts(),
  };
}
