/**
 * Which vectors are nearest, by the cosine.
 * @param {Float32Array} query @param {Float32Array[]} vectors all of length 1
 * @returns {{place: number, cosine: number}[]} the nearest first
 */
export function ranked(query, vectors) {
  const cosine = (vector) => vector.reduce((sum, each, i) => sum + each * query[i], 0);
  return vectors
    .map((vector, place) => ({ place, cosine: cosine(vector) }))
    .sort((left, right) => right.cosine - left.cosine);
}
