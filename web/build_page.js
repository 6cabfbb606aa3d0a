/** Puts the page of handwriting into one file that also works from disk: `node web/build_page.js OUT.html`. */
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const pathOf = (name) => fileURLToPath(new URL(name, import.meta.url));
const OPTIONS = {
  bundle: true,
  minify: true,
  write: false,
  charset: "utf8",
  legalComments: "inline",
  logLevel: "error",
};
/** Of its libraries, the one whose licence asks to be told wherever it is copied. */
const LICENSE = "vendor/qr/LICENSE-MIT";

/** One script from a module and all that it imports. */
async function bundled(name, options) {
  const { outputFiles } = await build({ ...OPTIONS, entryPoints: [pathOf(name)], ...options });
  return outputFiles[0].text;
}

/** In a page from disk a worker cannot be loaded, but its code can be part of the page. */
function withWorker(code) {
  const contents = `
    const code = ${JSON.stringify(code)};
    export const startWorker = () => new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));`;
  return { name: "worker", setup: ({ onLoad }) => onLoad({ filter: /start_worker\.js$/ }, () => ({ contents })) };
}

/** The text with one part of it replaced, which must be there. */
function replaced(text, part, by) {
  if (!text.includes(part)) throw new Error(`index.html has no ${part}`);
  return text.replace(part, () => by);
}

// The decoder finds no address of its own there, and then decodes in JavaScript, where it is.
const worker = await bundled("viewer_worker.js", { format: "iife", define: { "import.meta.url": "undefined" } });
const script = await bundled("page.js", { format: "esm", plugins: [withWorker(worker)] });
const license = (await readFile(pathOf(LICENSE), "utf8")).trim();
const hash = createHash("sha256").update(script).digest("base64");

let page = await readFile(pathOf("index.html"), "utf8");
page = replaced(page, "script-src 'self'; worker-src 'self'", `script-src 'sha256-${hash}'; worker-src blob:`);
page = replaced(page, "style-src 'self' 'unsafe-inline'", "style-src 'unsafe-inline'");
page = replaced(
  page,
  '<link rel="stylesheet" href="style.css" />',
  `<style>\n${await readFile(pathOf("style.css"), "utf8")}</style>`,
);
page = replaced(page, '<script type="module" src="page.js"></script>', `<script type="module">${script}</script>`);
await writeFile(process.argv[2], `${page}<!-- It reads and draws QR codes with the library qr:\n\n${license}\n-->\n`);
