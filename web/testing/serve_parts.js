/** A server of the folder web and of some files, which sends parts of them, and may hold back the end of a file. */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const FOLDER = fileURLToPath(new URL("..", import.meta.url));
const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/**
 * @typedef {object} Parts
 * @property {string} url
 * @property {{path: string, range?: string}[]} requests so far
 * @property {() => void} release what is held back
 * @property {() => void} close
 */

/**
 * Serve on a free port of this machine. `/blank` is an empty page.
 * @param {Record<string, string>} files by their paths on the server
 * @param {object} [options]
 * @param {Record<string, string>} [options.headers] of all answers
 * @param {boolean} [options.hasRanges] whether parts are sent where they are asked for
 * @param {boolean} [options.tellsSize] whether whole files come with their size
 * @param {boolean} [options.isCompressed] whether whole files are, and come with their size then
 * @param {number} [options.held] last bytes of every one of the files that are held back until they are released
 * @returns {Promise<Parts>}
 */
export async function serveParts(
  files,
  { headers = {}, hasRanges = true, tellsSize = true, isCompressed = false, held = 0 } = {},
) {
  const requests = [];
  let release;
  const released = new Promise((resolve) => (release = resolve));
  const server = createServer(async (request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    requests.push({ path, range: request.headers.range });
    const bytes = await contentOf(path, files);
    if (!bytes) {
      response.writeHead(404).end();
      return;
    }
    const type = TYPES[extname(path)] ?? (path === "/blank" ? "text/html" : "application/octet-stream");
    const range = hasRanges && /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (range) {
      const [first, last] = [Number(range[1]), Math.min(Number(range[2]), bytes.length - 1)];
      const about = { "Content-Range": `bytes ${first}-${last}/${bytes.length}`, "Content-Length": last - first + 1 };
      response.writeHead(206, { ...headers, ...about, "Content-Type": type }).end(bytes.subarray(first, last + 1));
      return;
    }
    if (isCompressed) {
      const compressed = gzipSync(bytes);
      const about = { "Content-Encoding": "gzip", "Content-Length": compressed.length };
      response.writeHead(200, { ...headers, ...about, "Content-Type": type }).end(compressed);
      return;
    }
    response.writeHead(200, {
      ...headers,
      "Content-Type": type,
      ...(tellsSize ? { "Content-Length": bytes.length } : {}),
    });
    if (path in files && held > 0) {
      response.write(bytes.subarray(0, bytes.length - held));
      await released;
      response.end(bytes.subarray(bytes.length - held));
    } else {
      response.end(bytes);
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${server.address().port}/`, requests, release, close };
}

async function contentOf(path, files) {
  if (path === "/blank") return Buffer.from("<!doctype html><title>Blank</title><link rel=icon href=data:,>");
  return readFile(files[path] ?? join(FOLDER, path)).catch(() => undefined);
}
