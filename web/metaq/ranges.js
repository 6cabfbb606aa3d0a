/**
 * Start of every range where the ranges follow each other and have 2^bits numbers each.
 * @param {number} first number
 * @param {number[]} bits a range
 * @returns {number[]}
 */
export function startsOfRanges(first, bits) {
  const starts = [first];
  for (const count of bits.slice(0, -1)) starts.push(starts[starts.length - 1] + 2 ** count);
  return starts;
}
