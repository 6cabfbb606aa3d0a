/** Bytes of a file, of which the first may be there before the last. */
import { MetaqError } from "./errors.js";

const MOST_FILE_BYTES = 2 ** 31;
const FIRST_CAPACITY = 2 ** 20;
const NO_CONTENT = 204;
/** With the letter of a drive, as on Windows, or not. */
const PLACE_ON_DISK = /^(file|[a-z]):/;

export class Arriving {
  #bytes = new Uint8Array(0);
  #next = Promise.resolve();
  #error;
  #announced;

  /** @type {number | undefined} of the file in bytes, as far as that is known; it may turn out to be another */
  size;

  /** How many bytes are there, from the first on. */
  arrived = 0;

  /** Whether there are no more to come. */
  isWhole = false;

  /** @param {Uint8Array} bytes of a file that is there */
  static of(bytes) {
    const file = new Arriving();
    Object.assign(file, { size: bytes.length, arrived: bytes.length, isWhole: true });
    file.#bytes = bytes;
    return file;
  }

  /**
   * Begin to fetch a file.
   * @param {string} url
   * @param {{onFetched?: (done: number, total?: number) => void, signal?: AbortSignal}} [options]
   */
  static async fetch(url, { onFetched, signal } = {}) {
    const response = await fetched(url, { signal });
    refuseOther(url, response);
    const file = new Arriving();
    // Of a compressed transfer the header tells another size than that of the file.
    const length = Number(response.headers.get("Content-Length"));
    if (length > 0 && !response.headers.has("Content-Encoding")) file.#announced = file.size = length;
    file.#pull(url, response.body.getReader(), onFetched);
    return file;
  }

  /** Whether another size was told than has come: that a transfer is compressed is not seen from other origins. */
  get wasMisannounced() {
    return this.isWhole && this.#announced !== undefined && this.#announced !== this.arrived;
  }

  /** All of it. Whether it could not be fetched is known only here and in `until`. @returns {Promise<Uint8Array>} */
  async whole() {
    await this.until(Infinity);
    return this.#bytes.subarray(0, this.arrived);
  }

  /** Wait until so many bytes are there, or all. @param {number} count */
  async until(count) {
    while (this.arrived < count && !this.isWhole) await this.#next;
    if (this.#error) throw this.#error;
  }

  /** Copy what is there of a place. @param {number} position @param {Uint8Array} into @returns {number} of bytes */
  read(position, into) {
    const part = this.#bytes.subarray(position, Math.min(position + into.length, this.arrived));
    into.set(part);
    return part.length;
  }

  /** End what is still on its way. */
  cancel = () => {};

  #pull(url, reader, onFetched) {
    this.cancel = () => reader.cancel().catch(() => {});
    const step = async () => {
      const part = await reader.read();
      if (part.done) {
        this.size = this.arrived;
        onFetched?.(this.arrived, this.arrived);
        this.isWhole = true;
        return;
      }
      this.#append(url, part.value);
      onFetched?.(this.arrived, this.size);
      this.#next = step().catch((error) => this.#fail(url, error));
    };
    this.#next = step().catch((error) => this.#fail(url, error));
  }

  #fail(url, error) {
    const why = `${url} cannot be fetched: the connection broke after ${this.arrived} bytes.`;
    this.#error = error instanceof MetaqError || error instanceof RangeError ? error : new MetaqError(why);
    this.isWhole = true;
    this.cancel();
  }

  #append(url, part) {
    const arrived = this.arrived + part.length;
    if (arrived > MOST_FILE_BYTES) throw new MetaqError(`${url} has more than ${MOST_FILE_BYTES} bytes.`);
    if (arrived > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(FIRST_CAPACITY, 2 * this.#bytes.length, arrived));
      larger.set(this.#bytes.subarray(0, this.arrived));
      this.#bytes = larger;
    }
    this.#bytes.set(part, this.arrived);
    this.arrived = arrived;
    if (arrived > this.size) this.size = undefined;
  }
}

/** A file on a server of which parts are fetched as they are asked for. */
export class Ranges {
  /** In the order of their places, apart. @type {{start: number, bytes: Uint8Array}[]} */
  #parts = [];

  /**
   * Fetch the first bytes of a file.
   * @param {string} url
   * @param {number} count
   * @param {AbortSignal} [signal]
   */
  static async fetch(url, count, signal) {
    const file = new Ranges();
    Object.assign(file, { url, signal });
    await file.#fetch(0, count);
    return file;
  }

  /** Make sure of bytes from `start` to `end`. */
  async need(start, end) {
    let position = start;
    while (position < end) {
      const part = this.#partAt(position);
      if (part) position = part.start + part.bytes.length;
      else {
        const next = this.#parts.find((other) => other.start > position);
        await this.#fetch(position, Math.min(end, next?.start ?? end));
      }
    }
  }

  /** As {@link Arriving.read}. */
  read(position, into) {
    let count = 0;
    while (count < into.length) {
      const part = this.#partAt(position + count);
      if (!part) break;
      const from = position + count - part.start;
      const bytes = part.bytes.subarray(from, from + into.length - count);
      into.set(bytes, count);
      count += bytes.length;
    }
    return count;
  }

  #partAt(position) {
    return this.#parts.find(({ start, bytes }) => start <= position && position < start + bytes.length);
  }

  async #fetch(start, end) {
    const response = await fetched(this.url, { signal: this.signal, headers: { Range: `bytes=${start}-${end - 1}` } });
    refuseOther(this.url, response);
    if (response.status !== 206) {
      response.body.cancel().catch(() => {});
      throw new MetaqError(`The server of ${this.url} does not send parts of files; decode all of it instead.`);
    }
    const told = response.headers.get("Content-Range");
    if (told === null && response.type === "cors")
      throw new MetaqError(
        `The server of ${this.url} does not let pages of other origins read which part of it it sends; have it send ` +
          "Access-Control-Expose-Headers: Content-Range, or decode all of it instead.",
      );
    const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(told ?? "");
    const [first, last, size] = range ? range.slice(1).map(Number) : [];
    if (first !== start) throw new MetaqError(`The server of ${this.url} does not tell which part of it it sends.`);
    if (size !== (this.size ?? size)) throw new MetaqError(`${this.url} has changed while it was fetched; try again.`);
    const bytes = new Uint8Array(
      await response.arrayBuffer().catch(() => {
        throw new MetaqError(`${this.url} cannot be fetched: the connection broke.`);
      }),
    );
    if (bytes.length === 0 || bytes.length !== last - first + 1 || last >= Math.min(size, end))
      throw new MetaqError(`The server of ${this.url} sends another part of it than it was asked for.`);
    this.size = size;
    this.#parts.push({ start, bytes });
    this.#parts.sort((left, right) => left.start - right.start);
  }
}

async function fetched(url, options) {
  try {
    return await fetch(url, options);
  } catch {
    options.signal?.throwIfAborted();
    if (PLACE_ON_DISK.test(url))
      throw new MetaqError(
        `${url} cannot be fetched, since it is a place on a disk; read the file and decode its bytes.`,
      );
    throw new MetaqError(`${url} cannot be fetched: there is no connection, or the server does not allow it.`);
  }
}

/** Refuses an answer without a file. */
function refuseOther(url, { ok, status, body }) {
  // Not all browsers give null for a body that there cannot be.
  if (ok && body && status !== NO_CONTENT) return;
  body?.cancel().catch(() => {});
  throw new MetaqError(`${url} cannot be fetched: the server answers ${status}${ok ? ", and sends no file" : ""}.`);
}
