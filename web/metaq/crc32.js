const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/**
 * The CRC-32 of zlib and PNG.
 * @param {Uint8Array} bytes
 * @returns {number} 0 to 2^32 - 1
 */
export function crc32(bytes) {
  return crc32OfAll([bytes]);
}

/**
 * The same of several runs of bytes, one after the other.
 * @param {Uint8Array[]} parts
 * @returns {number} 0 to 2^32 - 1
 */
export function crc32OfAll(parts) {
  let value = 0xffffffff;
  for (const bytes of parts)
    for (let i = 0; i < bytes.length; i += 1) value = TABLE[(value ^ bytes[i]) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
