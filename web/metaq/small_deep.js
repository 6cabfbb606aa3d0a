import { MetaqError } from "./errors.js";
import { cumulative, LARGEST_LOGIT, logit } from "./logistic.js";
import { floorDiv, level, mixed, multiplyShift, RATES, Slots } from "./small_arithmetic.js";
import { History } from "./small_history.js";
import { Hints } from "./small_hints.js";

const CONTEXTS = 13;
const EXPERTS = 4;
const INPUTS = CONTEXTS + EXPERTS;
const CONTEXT_VALUES = [2, 64, 72, 32, 32, 1024, 66, 27, 256, 64, 9, 123, 65536];
const SLOT_LIMIT = 400;
const ROW_SLOT_LIMIT = 250;
const LEAST_ROW_LENGTH_WITH_FLAGS = 4;
const LONGEST_LENGTH = 30;
const MODELLED_DIGITS = 3;
const MOST_DIGITS = 26;

// A node is the kind of a decision; those of lengths and digits follow each other.
const [FLAG_NODE, SIGN_NODE, FIRST_LENGTH_NODE] = [0, 1, 2];
const FIRST_DIGIT_NODE = FIRST_LENGTH_NODE + 2 * (LONGEST_LENGTH + 1);
const NODES = FIRST_DIGIT_NODE + (MOST_DIGITS + 1) * 2 ** MODELLED_DIGITS;
/** The nodes at which context 12 has slots of its own: flag, sign, lengths 0 and 1 of negative residuals. */
const COLUMN_NODES = new Map(
  [FLAG_NODE, SIGN_NODE, lengthNode(0, true), lengthNode(1, true)].map((node, i) => [node, i]),
);

const [FLAG_SET, SIGN_SET, FIRST_LENGTH_SET, DIGIT_SET] = [0, 1, 2, 5];
const SETS = 6;
const CONFIDENCES = 8;
const CONFIDENT_FROM = [1, 2, 4, 8, 16, 40, 120];
const CONFIDENCE_OF = Uint8Array.from(
  { length: SLOT_LIMIT + 1 },
  (_, count) => CONFIDENT_FROM.filter((least) => least <= count).length,
);
const CONTEXT_WEIGHTS = [0, 1300, 1650, 2300, 2950, 3300, 3300, 2600];
const EXPERT_WEIGHTS = [9000, 9000, 8500, 6000];
const HEAVY_CONTEXTS = [9, 10];
const WEIGHT_SHIFT = 24;

const LEVELS = 24;
const EXPERT_LIMIT = 60;
const FIRST_EXPERT_COUNT = 3;
const LARGEST_DEVIATION = 2 ** 35;
const FIRST_SCALES = [
  2, 2, 2, 2, 2, 4, 5, 8, 11, 16, 22, 32, 45, 64, 90, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048,
];

function lengthNode(k, isNegative) {
  return FIRST_LENGTH_NODE + 2 * k + (isNegative ? 1 : 0);
}

/** The deep recipe: what it has learnt is kept from stream to stream. */
export class DeepModel {
  /** @param {import("./small_range.js").RangeDecoder} decoder */
  constructor(decoder) {
    this.decoder = decoder;
    this.hints = new Hints();
    this.rowSlots = new Slots(3, ROW_SLOT_LIMIT);
    this.slots = CONTEXT_VALUES.map(
      (values, j) => new Slots(values * (j === CONTEXTS - 1 ? COLUMN_NODES.size : NODES), SLOT_LIMIT),
    );
    this.weights = firstWeights();
    this.ages = new Float64Array(SETS);
    this.experts = [LEVELS, LEVELS, LEVELS * LEVELS, LEVELS * LEVELS].map((classes) => new Expert(classes));
    this.values = new Int32Array(CONTEXTS);
    this.classes = new Int32Array(EXPERTS);
    this.chosenSlots = new Array(CONTEXTS).fill(this.slots[0]);
    this.chosen = new Int32Array(CONTEXTS);
    this.inputs = new Int32Array(INPUTS);
    this.weightAt = new Int32Array(INPUTS);
  }

  /**
   * @param {import("./chunks.js").Stream & {mode: number, hasRows: boolean, followsSymbols: boolean, period: number,
   *   coefficients: number[]}} stream
   * @returns {Int32Array}
   */
  decodeStream(stream) {
    const { count, rowLength, hasRows, mode } = stream;
    const history = new History(stream);
    const hints = this.hints.of(stream);
    const rows = hasRows ? count / rowLength : 1;
    const columns = hasRows ? rowLength : count;
    const hasFlags = hasRows && rowLength >= LEAST_ROW_LENGTH_WITH_FLAGS;
    for (let row = 0; row < rows; row += 1) {
      history.startRow();
      if (hasFlags && this.decoder.decideBy(this.rowSlots, hints.ofRow(row)) === 0) {
        history.skipRow();
        continue;
      }
      for (let column = 0; column < columns; column += 1) this.#decodeSymbol(history, hints, row, column);
    }
    this.hints.remember(history.symbols, stream, mode);
    return history.symbols;
  }

  #decodeSymbol(history, hints, row, column) {
    history.look(column, this.values, this.classes);
    this.values[10] = 3 * hints.ofRow(row) + hints.ofColumn(column);
    const residual = this.#decodeResidual(history);
    const expected = history.expected;
    const symbol = history.push(residual, column);
    const deviation = Math.min(Math.abs(16 * symbol - expected), LARGEST_DEVIATION);
    for (let e = 0; e < EXPERTS - 1; e += 1) this.experts[e].learn(this.classes[e], deviation);
    this.experts[EXPERTS - 1].learn(this.classes[EXPERTS - 1], 16 * Math.abs(residual));
  }

  #decodeResidual(history) {
    const { base, largest } = history;
    const center = history.expected - 16 * base;
    if (this.#decide(FLAG_NODE, FLAG_SET, center, aboveOrBelow) === 0) return 0;
    const isPositive = base === 0 || (base !== largest && this.#decide(SIGN_NODE, SIGN_SET, center, aboveZero) === 1);
    const outward = isPositive ? center : -center;
    let length = 0;
    while (
      this.#decide(
        lengthNode(length, !isPositive),
        FIRST_LENGTH_SET + Math.min(length, 2),
        outward,
        atLeast(2 ** length),
      ) === 1
    ) {
      length += 1;
      if (length > LONGEST_LENGTH) throw new MetaqError("A chunk of the coder small has a symbol that is too large.");
    }
    const magnitude = this.#digits(length, outward);
    return isPositive ? magnitude : -magnitude;
  }

  #digits(count, outward) {
    let magnitude = 1;
    for (let digit = 0; digit < count; digit += 1) {
      magnitude = 2 * magnitude + this.#digit(digit, count, magnitude, outward);
    }
    return magnitude;
  }

  #digit(digit, count, before, outward) {
    if (digit >= MODELLED_DIGITS) return this.decoder.plainBit();
    const node = FIRST_DIGIT_NODE + Math.min(count, MOST_DIGITS) * 2 ** MODELLED_DIGITS + before;
    return this.#decide(node, DIGIT_SET, outward, digitOf(before, 2 ** (count - 1 - digit)));
  }

  /** A decision mixed from all contexts and experts; `sides` gives the masses of a 1 and a 0 by a distribution. */
  #decide(node, set, center, sides) {
    this.#chooseSlots(node);
    let sum = 0;
    for (let j = 0; j < CONTEXTS; j += 1) {
      const confidence = CONFIDENCE_OF[this.chosenSlots[j].counts[this.chosen[j]]];
      sum += this.#input(j, set, confidence, logit(this.chosenSlots[j].probability(this.chosen[j])));
    }
    for (let e = 0; e < EXPERTS; e += 1) {
      const expert = this.experts[e];
      const confidence = CONFIDENCE_OF[expert.counts[this.classes[e]]];
      const distribution = expert.distribution(this.classes[e], e === EXPERTS - 1 ? 0 : center);
      sum += this.#input(CONTEXTS + e, set, confidence, logitOfMasses(sides(distribution)));
    }
    const probability = mixed(sum);
    const decision = this.decoder.decide(probability);
    this.#learn(set, decision, probability);
    return decision;
  }

  #chooseSlots(node) {
    const first = this.slots[0];
    const firstSlot = node * CONTEXT_VALUES[0] + this.values[0];
    for (let j = 0; j < CONTEXTS; j += 1) {
      const row = j === CONTEXTS - 1 ? COLUMN_NODES.get(node) : node;
      const isOwn = row !== undefined;
      this.chosenSlots[j] = isOwn ? this.slots[j] : first;
      this.chosen[j] = isOwn ? row * CONTEXT_VALUES[j] + this.values[j] : firstSlot;
      const slots = this.chosenSlots[j];
      if (j > 0 && isOwn && slots.counts[this.chosen[j]] === 0)
        slots.probabilities[this.chosen[j]] = first.probabilities[firstSlot];
    }
  }

  #input(j, set, confidence, input) {
    const at = (set * INPUTS + j) * CONFIDENCES + confidence;
    this.inputs[j] = input;
    this.weightAt[j] = at;
    return this.weights[at] * input;
  }

  #learn(set, decision, probability) {
    const error = (65536 * decision - probability) * (20 + floorDiv(280000, 700 + this.ages[set]));
    for (let j = 0; j < INPUTS; j += 1) {
      this.weights[this.weightAt[j]] += Math.floor(
        (this.inputs[j] * error + 2 ** (WEIGHT_SHIFT - 1)) / 2 ** WEIGHT_SHIFT,
      );
    }
    this.ages[set] += 1;
    for (let j = 0; j < CONTEXTS; j += 1) {
      const isBorrowed = j > 0 && this.chosenSlots[j] === this.slots[0];
      if (!isBorrowed) this.chosenSlots[j].learn(this.chosen[j], decision);
    }
  }
}

/** Scales of a distribution around a centre, one for every class. */
class Expert {
  constructor(classes) {
    this.scales = Float64Array.from({ length: classes }, (_, i) => 256 * FIRST_SCALES[i % LEVELS]);
    this.counts = new Uint8Array(classes).fill(FIRST_EXPERT_COUNT);
  }

  /** The mass below residual x, less half, as a function. */
  distribution(ofClass, center) {
    const steepness = floorDiv(2 ** 28, Math.max(Math.floor((185 * this.scales[ofClass]) / 256), 256));
    return (x) => cumulative(clippedLogit(Math.floor(((16 * x - 8 - center) * steepness) / 4096)));
  }

  learn(ofClass, deviation) {
    const [scale, count] = [this.scales[ofClass], this.counts[ofClass]];
    this.scales[ofClass] = scale + multiplyShift(256 * deviation - scale, RATES[count], 22);
    this.counts[ofClass] = Math.min(count + 1, EXPERT_LIMIT);
  }
}

const WHOLE = 2 ** 28;

function aboveOrBelow(below) {
  const zero = below(1) - below(0);
  return [WHOLE - zero, zero];
}

function aboveZero(below) {
  return [WHOLE - below(1), below(0)];
}

function atLeast(least) {
  return (below) => [WHOLE - below(2 * least), below(2 * least) - below(least)];
}

function digitOf(before, worth) {
  const [lower, middle, upper] = [2 * before * worth, (2 * before + 1) * worth, (2 * before + 2) * worth];
  return (below) => [below(upper) - below(middle), below(middle) - below(lower)];
}

function logitOfMasses([one, zero]) {
  return logit(floorDiv(65536 * (one + 64), one + zero + 128));
}

function clippedLogit(x) {
  return Math.max(-LARGEST_LOGIT, Math.min(LARGEST_LOGIT, x));
}

function firstWeights() {
  const ofInput = (j, confidence) => {
    if (j >= CONTEXTS) return EXPERT_WEIGHTS[j - CONTEXTS];
    return (HEAVY_CONTEXTS.includes(j) ? 3 : 2) * CONTEXT_WEIGHTS[confidence];
  };
  return Float64Array.from({ length: SETS * INPUTS * CONFIDENCES }, (_, at) => {
    return ofInput(Math.floor(at / CONFIDENCES) % INPUTS, at % CONFIDENCES);
  });
}
