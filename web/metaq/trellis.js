const PARITY_CHECKS = [
  [2, 0o5, 0o2],
  [3, 0o13, 0o4],
  [4, 0o23, 0o4],
  [5, 0o45, 0o10],
  [6, 0o103, 0o24],
  [7, 0o235, 0o126],
  [8, 0o515, 0o362],
];

const TRANSITIONS = new Map(PARITY_CHECKS.map(([bits, ...checks]) => [bits, transitionTable(bits, ...checks)]));

function transitionTable(bits, feedback, forward) {
  return Int32Array.from({ length: 2 ** (bits + 1) }, (_, index) => {
    const state = index >>> 1;
    return (state ^ (state & 1 ? feedback : 0) ^ (index & 1 ? forward : 0)) >>> 1;
  });
}

/**
 * @param {number} bits binary logarithm of the number of states, 2 to 8
 * @returns {Int32Array} the state that follows, at 2 * state + parity
 */
export function transitionsOf(bits) {
  return TRANSITIONS.get(bits);
}

/**
 * Integers that give the values of bucket indices: 2 b + 1 - C, moved one towards 0 wherever the state is odd.
 * @param {Int32Array} symbols bucket indices in the order of the scan
 * @param {number} count of buckets C
 * @param {number} bits of the trellis, or 0
 * @param {number} rowLength symbols after which the trellis starts anew
 * @returns {Int32Array} in the place of `symbols`
 */
export function numeratorsOf(symbols, count, bits, rowLength) {
  if (bits === 0) return symbols.map((symbol) => 2 * symbol + 1 - count);
  const transitions = transitionsOf(bits);
  const central = (count - 1) / 2;
  const numerators = new Int32Array(symbols.length);
  let state = 0;
  for (let i = 0; i < symbols.length; i += 1) {
    if (i % rowLength === 0) state = 0;
    const level = symbols[i] - central;
    numerators[i] = 2 * level - (state & 1 ? Math.sign(level) : 0);
    state = transitions[2 * state + (level & 1)];
  }
  return numerators;
}

/** The state of a trellis that walks along the symbols of a stream; always 0 if there is none. */
export class TrellisState {
  /** @param {number} bits of the trellis, or 0 @param {number} central symbol */
  constructor(bits, central) {
    this.transitions = bits > 0 ? transitionsOf(bits) : undefined;
    this.central = central;
    this.state = 0;
  }

  restart() {
    this.state = 0;
  }

  move(symbol) {
    if (this.transitions) this.state = this.transitions[2 * this.state + ((symbol - this.central) & 1)];
  }
}
