/**
 * What the networks of the page make of pictures: `node run_networks.js FILE... < PICTURES`.
 *
 * PICTURES is JSON, a list of pictures of 784 bytes; so is the result: for every file, the probabilities of every picture.
 */
import { readFileSync } from "node:fs";
import { loadModel } from "../loading.js";

const pictures = JSON.parse(readFileSync(0, "utf8"));
const found = process.argv.slice(2).map((path) => {
  const { network } = loadModel(new Uint8Array(readFileSync(path)));
  return pictures.map((picture) => network.run(picture).probabilities);
});
console.log(JSON.stringify(found));
