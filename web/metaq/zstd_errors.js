import { MetaqError } from "./errors.js";

/** @param {string} why @returns {MetaqError} */
export function damaged(why) {
  return new MetaqError(`zstd: the compressed bytes are damaged (${why}).`);
}

/** @returns {MetaqError} */
export function endsEarly() {
  return new MetaqError("zstd: the compressed bytes end too early.");
}
