/** The file as a QR code, and files out of pictures of one. */
import { byId, inBytes } from "./elements.js";
import encodeQR from "./vendor/qr/index.js";
import decodeQR from "./vendor/qr/decode.js";

/** What a QR code of the largest version holds of raw bytes, with the least correction of errors. */
const MOST_BYTES = 2953;
const QUIET_MODULES = 4;
/** Where the original is not read, another size often is: sampling falls differently. */
const SCALES = [1, 1.5, 2, 0.7, 0.5];
const MOST_PIXELS = 2 ** 24;
const PATIENCE = { effort: 100, timeLimit: 1000 };

/** @param {Uint8Array} bytes of a file, which the code holds one by one */
export function showCode(bytes) {
  const place = byId("code");
  const fits = bytes.length <= MOST_BYTES;
  byId("code-part").hidden = !fits;
  if (!fits) return;
  const options = { encoding: "byte", ecc: "low", border: QUIET_MODULES, textEncoder: () => bytes };
  place.innerHTML = encodeQR("file", "svg", options);
  place.setAttribute("aria-label", `QR code that holds the ${inBytes(bytes.length)} of the file`);
}

/** @param {(bytes: Uint8Array) => string} use of what was read, says what became of it */
export function listenToPictures(use) {
  for (const input of document.querySelectorAll("input.code-picture")) {
    input.addEventListener("change", async () => {
      const [file] = input.files;
      if (!file) return;
      byId("code-status").textContent = "Reading the picture …";
      byId("code-status").textContent = await readFrom(file, use);
      input.value = "";
    });
  }
}

async function readFrom(file, use) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    return `${file.name} is not a picture that this browser reads.`;
  }
  const bytes = bytesOf(picture);
  return bytes ? use(bytes) : "No QR code is read from this picture. It must be sharp, and fill most of it.";
}

/** The bytes of the QR code on a picture, if one is read. @param {ImageBitmap} picture */
function bytesOf(picture) {
  for (const scale of SCALES) {
    const [width, height] = [picture.width, picture.height].map((size) => Math.round(scale * size));
    if (width * height > MOST_PIXELS) continue;
    try {
      return decoded(pixelsOf(picture, width, height));
    } catch {
      // The library throws whenever it finds no code that it can correct.
    }
  }
  return undefined;
}

function decoded(pixels) {
  const letters = decodeQR(pixels, { ...PATIENCE, textDecoder: (bytes) => String.fromCharCode(...bytes) });
  return Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
}

function pixelsOf(picture, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}
