import { BitReader } from "./bit_reader.js";
import { Cursor } from "./cursor.js";
import { MetaqError } from "./errors.js";
import { LowFirstReader } from "./low_first_reader.js";
import { transitionsOf } from "./trellis.js";

const WHAT = "A chunk of the coder fast";
const [LEAST_TABLE_BITS, MOST_TABLE_BITS] = [4, 12];
const MOST_SHIFT_BITS = 31;
const MOST_TOKENS = 4095;
const LANES = 4;
const LEAST_FOR_LANES = 1024;
const [LEAST_INT32, LARGEST_INT32] = [-(2 ** 31), 2 ** 31 - 1];

/** Tabled asymmetric numeral systems. @param {Uint8Array} payload @param {import("./chunks.js").Stream[]} streams */
export function decodeFast(payload, streams) {
  const total = streams.reduce((sum, { count }) => sum + count, 0);
  if (total === 0) {
    new Cursor(payload, WHAT).finish();
    return streams.map(() => new Int32Array(0));
  }
  const cursor = new Cursor(payload, WHAT);
  const { sizes, plans } = readBlockPlan(cursor, streams, total);
  // Residuals plus the middle of an alphabet must fit 32 bits, whichever stream takes them.
  const largestMiddle = Math.max(...streams.map(middleOf));
  const blocks = sizes.map((size) => ({ residuals: readBlock(cursor, size, largestMiddle), taken: 0 }));
  cursor.finish();
  const found = streams.map((stream, i) => takeStream(stream, plans[i], blocks));
  if (blocks.some(({ residuals, taken }) => taken !== residuals.length))
    throw new MetaqError(`${WHAT} has residuals that belong to no tensor.`);
  return found;
}

function middleOf({ alphabetSize }) {
  return Math.floor((alphabetSize - 1) / 2);
}

/** Sizes of the blocks, and for every stream the blocks of its rows. */
function readBlockPlan(cursor, streams, total) {
  const further = cursor.varintUpTo(total - 1, "the number of blocks");
  if (further === 0)
    return {
      sizes: [total],
      plans: streams.map(({ count }) => ({ rowLength: count, isSplit: false, rows: [[0, 0]] })),
    };
  if (further > cursor.left) throw new MetaqError(`${WHAT} ends too early.`);
  const sizes = Array.from({ length: further }, () => cursor.varintUpTo(total, "the size of a block"));
  sizes.push(total - sizes.reduce((sum, size) => sum + size, 0));
  if (sizes.some((size) => size < 1)) throw new MetaqError(`${WHAT} has blocks of wrong sizes.`);
  const bytes = cursor.bytes.subarray(cursor.position);
  const reader = new BitReader(bytes, WHAT);
  const plans = streams.map((stream) => readStreamPlan(reader, stream, further));
  cursor.take(reader.align());
  return { sizes, plans };
}

function readStreamPlan(reader, { count, rowLength, trellisBits }, lastBlock) {
  if (count === 0) return { rowLength: 0, isSplit: false, rows: [] };
  const mayHaveRows = rowLength > 0 && rowLength < count && count % rowLength === 0;
  const byRows = mayHaveRows && reader.bit() === 1;
  const isSplit = trellisBits > 0 && reader.bit() === 1;
  const width = lastBlock.toString(2).length;
  const readNumber = () => {
    const number = reader.bits(width);
    if (number > lastBlock) throw new MetaqError(`${WHAT} names a block that is not there.`);
    return number;
  };
  const rows = [];
  for (let row = 0; row < (byRows ? count / rowLength : 1); row += 1) {
    const first = readNumber();
    const second = isSplit ? readNumber() : first;
    if (isSplit && second === first) throw new MetaqError(`${WHAT} splits a row into a block and itself.`);
    rows.push([first, second]);
  }
  return { rowLength: byRows ? rowLength : count, isSplit, rows };
}

function takeStream(stream, { rowLength, isSplit, rows }, blocks) {
  const symbols = new Int32Array(stream.count);
  const middle = middleOf(stream);
  const transitions = isSplit ? transitionsOf(stream.trellisBits) : undefined;
  let state = 0;
  for (let i = 0; i < stream.count; i += 1) {
    if (stream.rowLength > 0 && i % stream.rowLength === 0) state = 0;
    const block = blocks[rows[Math.floor(i / rowLength)][state & 1]];
    if (block.taken === block.residuals.length) throw new MetaqError(`${WHAT} has a block that ends too early.`);
    const residual = block.residuals[block.taken++];
    symbols[i] = residual + middle;
    if (transitions) state = transitions[2 * state + (residual & 1)];
  }
  return symbols;
}

/** @returns {Int32Array} the residuals of a block */
function readBlock(cursor, size, largestMiddle) {
  const flags = cursor.byte();
  const [tableBits, hasEscapes, isShifted] = [flags & 15, (flags & 16) !== 0, (flags & 32) !== 0];
  const isConstant = tableBits === 0;
  const isSound = isConstant ? !hasEscapes : tableBits >= LEAST_TABLE_BITS && tableBits <= MOST_TABLE_BITS;
  if (flags > 63 || !isSound) throw new MetaqError(`${WHAT} has a block of an unknown kind.`);
  const shift = isShifted ? cursor.byte() : 0;
  if (isShifted && (shift < 1 || shift > MOST_SHIFT_BITS))
    throw new MetaqError(`${WHAT} shifts residuals by ${shift} bits.`);
  const folded = cursor.varint();
  const first = folded % 2 === 0 ? folded / 2 : -(folded + 1) / 2;
  const check = residualCheck(shift, largestMiddle);
  check(first - 1);
  check(first);
  const tokens = isConstant
    ? new Int32Array(size).fill(first)
    : readTokens(cursor, { size, first, tableBits, hasEscapes, check });
  return shift === 0 ? tokens : withLowBits(tokens, shift, cursor);
}

/** Refuses tokens whose residuals do not fit 32 bits. */
function residualCheck(shift, largestMiddle) {
  return (token) => {
    const lowest = token * 2 ** shift;
    const highest = lowest + 2 ** shift - 1 + largestMiddle;
    if (lowest < LEAST_INT32 || highest > LARGEST_INT32)
      throw new MetaqError(`${WHAT} has a residual of more than 32 bits.`);
  };
}

function readTokens(cursor, { size, first, tableBits, hasEscapes, check }) {
  const masses = readMasses(cursor, tableBits, hasEscapes);
  check(first + masses.length - 2);
  const indices = decodeIndices(cursor, masses, tableBits, size);
  const tokens = indices.map((index) => first + index - 1);
  if (hasEscapes) readEscapes(cursor, { tokens, indices, masses, first, check });
  return tokens;
}

/** Masses of the escape and of the tokens from the first one on. */
function readMasses(cursor, tableBits, hasEscapes) {
  const reader = new BitReader(cursor.bytes.subarray(cursor.position), WHAT);
  const total = 2 ** tableBits;
  const masses = [hasEscapes ? reader.golomb(0) : 0];
  if (hasEscapes && masses[0] < 1) throw new MetaqError(`${WHAT} has an escape without mass.`);
  let [sum, order] = [masses[0], 0];
  while (sum < total) {
    const mass = reader.golomb(order);
    masses.push(mass);
    sum += mass;
    order = mass === 0 ? 0 : Math.max(mass.toString(2).length - 2, 0);
    if (masses.length - 1 > MOST_TOKENS) throw new MetaqError(`${WHAT} has too many tokens.`);
  }
  const isSound = sum === total && masses[1] >= 1 && masses.filter((mass) => mass > 0).length >= 2;
  if (!isSound) throw new MetaqError(`${WHAT} has masses that do not fill their table.`);
  cursor.take(reader.align());
  return masses;
}

/** Slots of the states: which index, how many bits follow, and the state without them. */
function stateTable(masses, tableBits) {
  const size = 2 ** tableBits;
  const owners = new Int32Array(size);
  let slot = 0;
  masses.forEach((mass, index) => {
    for (let i = 0; i < mass; i += 1) {
      owners[slot] = index;
      slot = (slot + size / 2 + size / 8 + 3) % size;
    }
  });
  const numbers = Int32Array.from(masses);
  const [bits, bases] = [new Int32Array(size), new Int32Array(size)];
  for (let state = 0; state < size; state += 1) {
    const number = numbers[owners[state]]++;
    bits[state] = tableBits - (31 - Math.clz32(number));
    bases[state] = (number << bits[state]) - size;
  }
  return { owners, bits, bases };
}

function decodeIndices(cursor, masses, tableBits, size) {
  const { owners, bits, bases } = stateTable(masses, tableBits);
  const reader = new LowFirstReader(cursor, WHAT);
  reader.skipMarker();
  const lanes = size >= LEAST_FOR_LANES ? LANES : 1;
  const states = Int32Array.from({ length: lanes }, () => reader.bits(tableBits));
  const indices = new Int32Array(size);
  for (let i = 0; i < size; i += 1) {
    const lane = i % lanes;
    const state = states[lane];
    indices[i] = owners[state];
    states[lane] = bases[state] + reader.bits(bits[state]);
  }
  if (states.some((state) => state !== 0) || !reader.isAtByte())
    throw new MetaqError(`${WHAT} has a code that does not end as it should.`);
  return indices;
}

function readEscapes(cursor, { tokens, indices, masses, first, check }) {
  const reader = new BitReader(cursor.bytes.subarray(cursor.position), WHAT);
  const order = reader.bits(5);
  const gaps = masses.flatMap((mass, index) => (index > 0 && mass === 0 ? [first + index - 1] : []));
  const last = first + masses.length - 2;
  let escapes = 0;
  for (let i = 0; i < tokens.length; i += 1) {
    if (indices[i] !== 0) continue;
    const number = reader.golomb(order);
    const beyond = number - gaps.length;
    const token = beyond < 0 ? gaps[number] : beyond % 2 === 0 ? last + 1 + beyond / 2 : first - 1 - (beyond - 1) / 2;
    check(token);
    tokens[i] = token;
    escapes += 1;
  }
  if (escapes === 0) throw new MetaqError(`${WHAT} has an escape that nobody uses.`);
  cursor.take(reader.align());
}

function withLowBits(tokens, shift, cursor) {
  const reader = new LowFirstReader(cursor, WHAT);
  const residuals = tokens.map((token) => token * 2 ** shift + reader.bits(shift));
  reader.align();
  return residuals;
}
