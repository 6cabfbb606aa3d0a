/** Logits are in units of 2^-8, from -3072 to 3072. */
export const LARGEST_LOGIT = 3072;
const CLIPPED_LOGIT = 3071;

const CUMULATIVE = cumulativeTable();
const LOGISTIC = Int32Array.from(CUMULATIVE, (value) => Math.floor((value + 2 ** 11) / 2 ** 12));
const LOGIT = logitTable();

function cumulativeTable() {
  const table = new Int32Array(2 * LARGEST_LOGIT + 1);
  let power = 1n << 40n;
  for (let x = 0; x <= LARGEST_LOGIT; x += 1) {
    const value = Number((1n << 68n) / ((1n << 40n) + power));
    table[LARGEST_LOGIT - x] = 2 ** 28 - value;
    table[LARGEST_LOGIT + x] = value;
    power = (4278222805n * power) >> 32n;
  }
  return table;
}

function logitTable() {
  const table = new Int16Array(65536);
  let x = -LARGEST_LOGIT;
  for (let p = 0; p < table.length; p += 1) {
    while (x < LARGEST_LOGIT && LOGISTIC[x + LARGEST_LOGIT] < p) x += 1;
    table[p] = Math.max(-CLIPPED_LOGIT, Math.min(CLIPPED_LOGIT, x));
  }
  return table;
}

/** @param {number} x a logit of -3072 to 3072 @returns {number} its probability in units of 2^-28 */
export function cumulative(x) {
  return CUMULATIVE[x + LARGEST_LOGIT];
}

/** @param {number} x any integer, clipped @returns {number} its probability in units of 2^-16 */
export function logistic(x) {
  return LOGISTIC[Math.max(-CLIPPED_LOGIT, Math.min(CLIPPED_LOGIT, x)) + LARGEST_LOGIT];
}

/** @param {number} p a probability in units of 2^-16, below 1 @returns {number} the least logit of at least this probability */
export function logit(p) {
  return LOGIT[p];
}
