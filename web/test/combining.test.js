import assert from "node:assert/strict";
import test from "node:test";

import { Combiner } from "../metaq/combining.js";
import { generator } from "../testing/damage.js";

/** Sums by integers of any size. */
function exactSums(rows, size, weights) {
  return Array.from({ length: size }, (_, j) =>
    Number(weights.reduce((sum, weight, k) => sum + BigInt(weight) * BigInt(rows[k * size + j]), 0n)),
  );
}

test("sums are exact, whether or not two share a double", () => {
  const draw = generator(1);
  const upTo = (most) => (draw() % (2 * most + 1)) - most;
  const widths = new Set();
  for (const size of [1, 2, 3, 4, 5, 8, 33]) {
    for (const [most, mostOfRows] of [
      [1, 1],
      [88, 142],
      [700, 1000],
      [2 ** 20, 2 ** 24],
    ]) {
      for (const drawn of [() => [upTo(most), upTo(mostOfRows)], () => [most, mostOfRows], () => [-most, mostOfRows]]) {
        const rows = Float64Array.from({ length: size * size }, () => drawn()[1]);
        // One that is not asked for comes first.
        const weights = Int32Array.from({ length: size + 1 }, () => drawn()[0]);
        const combiner = new Combiner(rows, size, most);
        const sums = new Float64Array(size);
        combiner.combine(weights, 1, sums);
        assert.deepEqual([...sums], exactSums(rows, size, [...weights.subarray(1)]));
        if (size > 1) widths.add(combiner.width < size);
      }
    }
  }
  assert.equal(widths.size, 2);
});

test("a sum of zeros is no negative zero", () => {
  const sums = new Float64Array(3);
  new Combiner(new Float64Array(9).fill(-1), 3, 1).combine(Int32Array.of(0, 0, 0), 0, sums);
  assert.ok(sums.every((sum) => Object.is(sum, 0)));
});
