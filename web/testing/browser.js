/** A headless Chromium and a server of this folder, for the tests of pages. */
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const FOLDER = fileURLToPath(new URL("..", import.meta.url));
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * Serve a folder on a free port of this machine.
 * @param {string} [folder]
 * @returns {Promise<{url: string, close: () => void}>}
 */
export async function serve(folder = FOLDER) {
  const server = createServer(async (request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    try {
      const content = await readFile(join(folder, path === "/" ? "index.html" : path));
      response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "text/html" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

/**
 * The page of handwriting, from a file of its own or, if none is given, from a server of this folder.
 * @param {string} [file]
 * @returns {Promise<{url: string, close: () => void}>}
 */
export async function servePage(file) {
  return file ? { url: pathToFileURL(file).href, close() {} } : serve();
}

/** @param {string} executablePath of Chromium */
export async function launch(executablePath) {
  return chromium.launch({ executablePath, args: QUIET });
}

/**
 * Open a page, and collect whatever it complains of.
 * @param {import("playwright-core").Browser} browser
 * @param {string} url
 * @param {import("playwright-core").BrowserContextOptions} [options]
 * @param {string} [script] run before the page's own
 */
export async function open(browser, url, options = {}, script = undefined) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("requestfailed", (request) => complaints.push(request.url()));
  if (script) await page.addInitScript(script);
  await page.goto(url);
  await page.waitForLoadState("networkidle");
  return { page, complaints };
}

/** Violations of accessibility rules that axe-core calls serious or critical. @param {import("playwright-core").Page} page */
export async function seriousViolations(page) {
  const source = await readFile(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");
  await page.evaluate(source);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

/**
 * Pixels of a screenshot.
 * @param {import("playwright-core").Page} page any, which decodes the picture
 * @param {Buffer} png
 * @returns {Promise<{width: number, height: number, data: Uint8ClampedArray}>} red, green, blue and opacity of each
 */
export async function pixelsOf(page, png) {
  const [width, height, letters] = await page.evaluate(async (encoded) => {
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
    const picture = await createImageBitmap(new Blob([bytes]));
    const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    context.drawImage(picture, 0, 0);
    const { width, height, data } = context.getImageData(0, 0, picture.width, picture.height);
    return [width, height, Array.from(data, (value) => String.fromCharCode(value)).join("")];
  }, png.toString("base64"));
  return { width, height, data: Uint8ClampedArray.from(Buffer.from(letters, "latin1")) };
}
