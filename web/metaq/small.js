import { MetaqError } from "./errors.js";
import { RangeDecoder } from "./small_range.js";
import { DeepModel } from "./small_deep.js";
import { decodeWideStream } from "./small_wide.js";
import { floorDiv } from "./small_arithmetic.js";

const COEFFICIENTS = 6;
const LONGEST_PERIOD = 255;

/** Adaptive binary range code. @param {Uint8Array} payload @param {import("./chunks.js").Stream[]} streams */
export function decodeSmall(payload, streams) {
  const decoder = new RangeDecoder(payload);
  const deep = decoder.plainBit() === 1 ? new DeepModel(decoder) : undefined;
  let lastShift = 0;
  const found = streams.map((stream) => {
    const middle = floorDiv(stream.alphabetSize - 1, 2);
    lastShift += decoder.signedPlainNumber();
    const mode = middle + lastShift;
    if (!(mode >= 0 && mode < stream.alphabetSize))
      throw new MetaqError(`A chunk of the coder small has a mode ${mode} that is no symbol.`);
    const hasRows = stream.rowLength > 0 && stream.rowLength < stream.count && stream.count % stream.rowLength === 0;
    const settings = { ...stream, mode, hasRows, ...(deep && hasRows ? readPrediction(decoder) : NO_PREDICTION) };
    return deep ? deep.decodeStream(settings) : decodeWideStream(decoder, settings);
  });
  decoder.finish();
  return found;
}

const NO_PREDICTION = { followsSymbols: false, period: 0, coefficients: [] };

function readPrediction(decoder) {
  const followsSymbols = decoder.plainBit() === 1;
  const period = decoder.plainNumber();
  if (period === 1 || period > LONGEST_PERIOD)
    throw new MetaqError(`A chunk of the coder small has a period of ${period}.`);
  if (period === 0) return { followsSymbols, period, coefficients: [] };
  return {
    followsSymbols,
    period,
    coefficients: Array.from({ length: COEFFICIENTS }, () => decoder.plainBits(7) - 64),
  };
}
