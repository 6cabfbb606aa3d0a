// Decodes cases that come as JSON on standard input, for comparison with the decoders of other languages. A case is
// {coder, data, size, options}, with data in base64; its result is {sha256} of the bytes or {error, message}.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { inflateRaw } from "../metaq/deflate.js";
import { decodeLzma } from "../metaq/lzma.js";
import { decodeZstdFrame } from "../metaq/zstd.js";

const DECODERS = { gzip: inflateRaw, zstd: decodeZstdFrame, lzma: decodeLzma };

function decode({ coder, data, size, options }) {
  try {
    const bytes = DECODERS[coder](new Uint8Array(Buffer.from(data, "base64")), size, options);
    return { sha256: createHash("sha256").update(bytes).digest("hex") };
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(decode)));
