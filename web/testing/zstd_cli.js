// Decodes frames that come as JSON on standard input, for comparison with the decoders of other languages. A case is
// {data, size}, with data in base64; its result is {sha256} of the bytes or {error, message}.
import { readFileSync } from "node:fs";

import { decodeZstdFrame } from "../metaq/zstd.js";
import { sha256 } from "./zstd_vectors.js";

function decode({ data, size }) {
  try {
    return { sha256: sha256(decodeZstdFrame(new Uint8Array(Buffer.from(data, "base64")), size)) };
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(decode)));
