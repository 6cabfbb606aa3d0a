/**
 * How long a file takes to be decoded by WebAssembly: `node measure_decoding.js FILE [CHROMIUM]`, in Node.js or in a
 * fresh browser. The result is JSON: `seconds` from bytes to tensors and, of a browser, `fromUrl`, the same from a URL
 * of this machine, both with workers that start anew; the longest `gap` in milliseconds between two turns of the page
 * meanwhile, and in as long a time before (`idle`).
 */
import { readFileSync } from "node:fs";
import { launch, open } from "./browser.js";
import { serveParts } from "./serve_parts.js";

const [file, chromium] = process.argv.slice(2);
console.log(JSON.stringify(await (chromium ? inBrowser() : inNode())));

async function inNode() {
  const { decodeInWorker } = await import("../metaq/index.js");
  const bytes = new Uint8Array(readFileSync(file));
  const begun = performance.now();
  await decodeInWorker(bytes);
  return { seconds: (performance.now() - begun) / 1000 };
}

async function inBrowser() {
  const server = await serveParts({ "/file": file });
  const browser = await launch(chromium);
  const { page } = await open(browser, `${server.url}blank`);
  page.setDefaultTimeout(0);
  const found = await page.evaluate(measure);
  await browser.close();
  server.close();
  return found;
}

/** Runs in the page. */
async function measure() {
  const { decodeInWorker } = await import("/metaq/index.js");
  const bytes = new Uint8Array(await (await fetch("file")).arrayBuffer());
  const ofBytes = await timed(() => decodeInWorker(bytes));
  const ofUrl = await timed(() => decodeInWorker("file"));
  const idle = await timed(() => new Promise((resolve) => setTimeout(resolve, 1000 * ofBytes.seconds)));
  const gaps = { gap: ofUrl.gap, gapOfBytes: ofBytes.gap, idle: idle.gap };
  return { seconds: ofBytes.seconds, fromUrl: ofUrl.seconds, ...gaps };

  /** Turns are those of timers and of frames. */
  async function timed(act) {
    const begun = performance.now();
    let [isOver, gap, last] = [false, 0, begun];
    const turn = () => {
      const now = performance.now();
      [gap, last] = [Math.max(gap, now - last), now];
    };
    const byTimer = () => {
      turn();
      if (!isOver) setTimeout(byTimer);
    };
    const byFrame = () => {
      turn();
      if (!isOver) requestAnimationFrame(byFrame);
    };
    byTimer();
    byFrame();
    await act();
    turn();
    isOver = true;
    return { seconds: (performance.now() - begun) / 1000, gap };
  }
}
