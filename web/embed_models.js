/** Writes models.js from the folder models and the accuracies in MODELS.md: `node web/embed_models.js`. */
import { readFile, writeFile } from "node:fs/promises";

const ROOT = new URL("../", import.meta.url);
const NAMES = ["lenet5-mnist", "lenet5-caffe-mnist", "lenet300-mnist"];
const LINE = /.{1,112}/g;

const table = await readFile(new URL("MODELS.md", ROOT), "utf8");

async function embedded(name) {
  const bytes = await readFile(new URL(`models/${name}.metaq`, ROOT));
  const [, accuracy] = table.match(new RegExp(`${name}\\.metaq\`[^%]*\\| ([\\d.]+) %`));
  const lines = bytes.toString("base64").match(LINE);
  return [
    "  {",
    `    name: "${name}",`,
    `    accuracy: ${accuracy},`,
    "    base64: `",
    ...lines.map((line) => `      ${line}`),
    "    `,",
    "  },",
  ].join("\n");
}

const text = `/**
 * The networks that are part of this page, and their accuracy in percent on MNIST's test images.
 * Written by embed_models.js from the folder models and from MODELS.md.
 */
export const MODELS = [
${(await Promise.all(NAMES.map(embedded))).join("\n")}
];
`;
await writeFile(new URL("web/models.js", ROOT), text);
