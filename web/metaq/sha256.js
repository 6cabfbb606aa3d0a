const BLOCK_BYTES = 64;
const LENGTH_BYTES = 8;
const ROUNDS = 64;
const PRIMES = Array.from({ length: 312 }, (_, n) => n).filter((n) => n > 1 && !hasDivisor(n));
/** First 32 bits of the fractions of cube roots, and of square roots. */
const ROUND_CONSTANTS = Int32Array.from(PRIMES, (prime) => fractionOfRoot(prime, 3n));
const FIRST_STATE = Int32Array.from(PRIMES.slice(0, 8), (prime) => fractionOfRoot(prime, 2n));

function hasDivisor(n) {
  for (let divisor = 2; divisor * divisor <= n; divisor += 1) if (n % divisor === 0) return true;
  return false;
}

function fractionOfRoot(number, degree) {
  const power = BigInt(number) << (32n * degree);
  let root = 0n;
  for (let bit = 1n << 40n; bit > 0n; bit >>= 1n) if ((root + bit) ** degree <= power) root += bit;
  return Number(BigInt.asIntN(32, root));
}

/** SHA-256 (FIPS 180-4) of bytes that come in parts. It is here because browsers have theirs on secure pages alone. */
export class Sha256 {
  #state = FIRST_STATE.slice();
  #words = new Int32Array(ROUNDS);
  #waiting = new Uint8Array(BLOCK_BYTES);
  #waitingBytes = 0;
  #totalBytes = 0;

  /** @param {ArrayLike<number>} bytes @returns {this} */
  update(bytes) {
    const part = bytes instanceof Uint8Array ? bytes : Uint8Array.from(bytes);
    this.#totalBytes += part.length;
    let position = 0;
    if (this.#waitingBytes > 0) {
      position = Math.min(BLOCK_BYTES - this.#waitingBytes, part.length);
      this.#wait(part.subarray(0, position));
      if (this.#waitingBytes < BLOCK_BYTES) return this;
      this.#take(this.#waiting, BLOCK_BYTES);
      this.#waitingBytes = 0;
    }
    const whole = position + Math.floor((part.length - position) / BLOCK_BYTES) * BLOCK_BYTES;
    this.#take(part.subarray(position, whole), whole - position);
    this.#wait(part.subarray(whole));
    return this;
  }

  /** The hash of all bytes, of which no more may come. @returns {Uint8Array} 32 bytes */
  digest() {
    const bits = BigInt(this.#totalBytes) * 8n;
    const zeros = (2 * BLOCK_BYTES - 1 - LENGTH_BYTES - this.#waitingBytes) % BLOCK_BYTES;
    const end = new Uint8Array(1 + zeros + LENGTH_BYTES);
    end[0] = 0x80;
    new DataView(end.buffer).setBigUint64(1 + zeros, bits);
    this.update(end);
    const found = new DataView(new ArrayBuffer(4 * this.#state.length));
    this.#state.forEach((word, i) => found.setInt32(4 * i, word));
    return new Uint8Array(found.buffer);
  }

  #wait(part) {
    this.#waiting.set(part, this.#waitingBytes);
    this.#waitingBytes += part.length;
  }

  /** Takes so many bytes, which are whole blocks. */
  #take(bytes, size) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, size);
    const words = this.#words;
    for (let start = 0; start < size; start += BLOCK_BYTES) {
      for (let i = 0; i < 16; i += 1) words[i] = view.getInt32(start + 4 * i);
      extend(words);
      compress(this.#state, words);
    }
  }
}

function extend(words) {
  for (let i = 16; i < ROUNDS; i += 1) {
    const before = words[i - 15];
    const last = words[i - 2];
    const first = rotated(before, 7) ^ rotated(before, 18) ^ (before >>> 3);
    const second = rotated(last, 17) ^ rotated(last, 19) ^ (last >>> 10);
    words[i] = (((words[i - 16] + first) | 0) + ((words[i - 7] + second) | 0)) | 0;
  }
}

/** Sums are cut to 32 bits one by one: in doubles they take twice as long. */
function compress(state, words) {
  let [a, b, c, d] = [state[0], state[1], state[2], state[3]];
  let [e, f, g, h] = [state[4], state[5], state[6], state[7]];
  for (let i = 0; i < ROUNDS; i += 1) {
    const told = (ROUND_CONSTANTS[i] + words[i]) | 0;
    const chosen = (((e & f) ^ (~e & g)) + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25))) | 0;
    const first = (((h + told) | 0) + chosen) | 0;
    const second = ((rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + first) | 0;
    d = c;
    c = b;
    b = a;
    a = (first + second) | 0;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

function rotated(word, bits) {
  return (word >>> bits) | (word << (32 - bits));
}
