import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import test from "node:test";

import { Sha256 } from "../metaq/sha256.js";
import { generator } from "../testing/damage.js";

function expected(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

test("the hash of bytes of every length is that of others' SHA-256", () => {
  const draw = generator(1);
  const bytes = Uint8Array.from({ length: 300 }, () => draw() % 256);
  for (let length = 0; length <= bytes.length; length += 1) {
    const part = bytes.subarray(0, length);
    assert.equal(Buffer.from(new Sha256().update(part).digest()).toString("hex"), expected(part));
  }
});

test("bytes may come in parts of any size", () => {
  const draw = generator(2);
  const bytes = Uint8Array.from({ length: 2000 }, () => draw() % 256);
  for (let round = 0; round < 50; round += 1) {
    const sum = new Sha256();
    for (let start = 0; start < bytes.length;) {
      const size = draw() % 150;
      sum.update(bytes.subarray(start, start + size));
      start += size;
    }
    assert.equal(Buffer.from(sum.digest()).toString("hex"), expected(bytes));
  }
});
