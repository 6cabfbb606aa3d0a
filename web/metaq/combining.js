/** Rows of a basis, weighted by integers and summed, exactly. */
const LARGEST_EXACT = 2 ** 53;
const AT_ONCE = 4;

/** Sums of rows of a basis. */
export class Combiner {
  /**
   * @param {Float64Array} rows of the basis, one after the other: integers
   * @param {number} size of a row, and number of rows
   * @param {number} largest magnitude of the integers that rows are weighted by
   */
  constructor(rows, size, largest) {
    this.size = size;
    const bound = largest * size * rows.reduce((found, each) => Math.max(found, Math.abs(each)), 1);
    // A double that has room for two sums takes those of two columns, this far apart.
    this.unit = 2 ** (Math.ceil(Math.log2(bound + 1)) + 1);
    this.width = bound * (this.unit + 1) < LARGEST_EXACT ? Math.ceil(size / 2) : size;
    // Rows of zeros fill up the last step.
    this.factors = new Float64Array(Math.ceil(size / AT_ONCE) * AT_ONCE);
    this.packed = new Float64Array(this.factors.length * this.width);
    for (let k = 0; k < size; k += 1) {
      for (let j = 0; j < size; j += 1) {
        const isHigh = j >= this.width;
        this.packed[k * this.width + j - (isHigh ? this.width : 0)] += rows[k * size + j] * (isHigh ? this.unit : 1);
      }
    }
    this.partial = new Float64Array(this.width);
  }

  /**
   * @param {Int32Array} weights one for every row, from `start` on
   * @param {number} start
   * @param {Float64Array} sums one for every column
   */
  combine(weights, start, sums) {
    const { factors, packed, partial, width, size, unit } = this;
    factors.set(weights.subarray(start, start + size));
    partial.fill(0);
    for (let k = 0; k < factors.length; k += AT_ONCE) addRows(partial, factors, packed, k);
    for (let j = 0; j < width; j += 1) {
      const high = width < size ? Math.round(partial[j] / unit) : 0;
      // A sum of zeros may be -0; this makes it 0.
      sums[j] = partial[j] - high * unit + 0;
      if (width + j < size) sums[width + j] = high + 0;
    }
  }
}

/** Add four rows, from row k on, each times its factor. */
function addRows(sums, factors, rows, k) {
  const width = sums.length;
  const [a, b, c, d] = [k * width, (k + 1) * width, (k + 2) * width, (k + 3) * width];
  const [x, y, z, w] = [factors[k], factors[k + 1], factors[k + 2], factors[k + 3]];
  for (let j = 0; j < width; j += 1) sums[j] += x * rows[a + j] + y * rows[b + j] + z * rows[c + j] + w * rows[d + j];
}
