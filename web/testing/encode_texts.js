/** Numbers of tokens of texts, as JSON: `node encode_texts.js TOKENIZER < TEXTS`, TEXTS being a list in JSON. */
import { readFileSync } from "node:fs";
import { MetaqError } from "../metaq/index.js";
import { WordPieceTokenizer } from "../search/wordpiece.js";

const texts = JSON.parse(readFileSync(0, "utf8"));
try {
  const tokenizer = new WordPieceTokenizer(readFileSync(process.argv[2]));
  console.log(JSON.stringify({ ids: texts.map((text) => tokenizer.encode(text)) }));
} catch (error) {
  if (!(error instanceof MetaqError)) throw error;
  console.log(JSON.stringify({ error: error.message }));
}
