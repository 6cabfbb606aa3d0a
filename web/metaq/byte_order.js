/** Names are in the order of their bytes in UTF-8, which is not always that of strings. */

/** Less than, equal to or more than 0, as the order of `left` and `right` is. @param {Uint8Array} left @param {Uint8Array} right */
export function compareBytes(left, right) {
  const common = Math.min(left.length, right.length);
  for (let i = 0; i < common; i += 1) if (left[i] !== right[i]) return left[i] - right[i];
  return left.length - right.length;
}

/** A map with its keys in the order of their bytes. @template V @param {Map<string, V>} map @returns {Map<string, V>} */
export function inByteOrder(map) {
  const encoder = new TextEncoder();
  const keyed = [...map].map((pair) => ({ pair, key: encoder.encode(pair[0]) }));
  return new Map(keyed.sort((left, right) => compareBytes(left.key, right.key)).map(({ pair }) => pair));
}
