/** A server of the folder web, of all that a page with WebAssembly needs, where some files stand for others. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL("..", import.meta.url));
const TYPES = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/**
 * Serve on a free port of this machine.
 * @param {Record<string, string | null>} files that stand for others, by their paths on the server; null is never answered
 * @returns {Promise<{url: string, requests: string[], close: () => void}>} `requests` are the paths asked for so far
 */
export async function serveOver(files) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    requests.push(path);
    if (files[path] === null) return;
    const file = files[path] ?? join(FOLDER, path.endsWith("/") ? `${path}index.html` : path);
    try {
      const { size } = await stat(file);
      response.writeHead(200, {
        "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
        "Content-Length": size,
      });
      createReadStream(file).pipe(response);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    requests,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
