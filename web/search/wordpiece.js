/** The tokenizer of BERT as a `tokenizer.json` of Hugging Face describes it: WordPiece after BERT's normalisation. */
import { MetaqError } from "../metaq/errors.js";

const WHITE_SPACE = /\p{White_Space}+/u;
const REMOVED = /[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu;
const IDEOGRAPHS = [
  "\\u4e00-\\u9fff\\u3400-\\u4dbf\\uf900-\\ufaff",
  "\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b73f}\\u{2b740}-\\u{2b81f}\\u{2b920}-\\u{2ceaf}\\u{2f800}-\\u{2fa1f}",
];
const IDEOGRAPH = new RegExp(`[${IDEOGRAPHS.join("")}]`, "gu");
const ACCENT = /\p{Mn}/gu;
const PUNCTUATION_OR_WORD = /[!-/:-@[-`{-~\p{P}]|[^!-/:-@[-`{-~\p{P}]+/gu;
const KINDS = {
  model: "WordPiece",
  normalizer: "BertNormalizer",
  pre_tokenizer: "BertPreTokenizer",
  post_processor: "TemplateProcessing",
};

export class WordPieceTokenizer {
  #vocabulary;
  #unknown;
  #continuing;
  #longestWord;
  #normalizer;
  #special;
  #isSpecial;
  #before;
  #after;
  #mostTokens;

  /** @param {Uint8Array} bytes of a `tokenizer.json` */
  constructor(bytes) {
    const described = parsed(bytes);
    for (const [part, kind] of Object.entries(KINDS)) {
      if (described[part]?.type !== kind)
        throw new MetaqError(`The tokenizer is of another kind than this page knows: its ${part} is no ${kind}.`);
    }
    try {
      this.#take(described);
    } catch {
      throw new MetaqError("The file tokenizer.json is damaged: a part of the tokenizer is missing.");
    }
  }

  #take({ model, normalizer, post_processor: template, added_tokens: added, truncation }) {
    this.#vocabulary = new Map(Object.entries(model.vocab));
    this.#unknown = this.#vocabulary.get(model.unk_token);
    this.#continuing = model.continuing_subword_prefix;
    this.#longestWord = model.max_input_chars_per_word;
    this.#normalizer = normalizer;
    this.#special = new Map(added.map(({ content, id }) => [content, id]));
    this.#isSpecial = anyOf([...this.#special.keys()]);
    const at = template.single.findIndex((piece) => piece.Sequence);
    const idsOf = (pieces) => pieces.flatMap(({ SpecialToken: { id } }) => template.special_tokens[id].ids);
    this.#before = idsOf(template.single.slice(0, at));
    this.#after = idsOf(template.single.slice(at + 1));
    this.#mostTokens = (truncation?.max_length ?? Infinity) - this.#before.length - this.#after.length;
  }

  /** @param {string} text @returns {number[]} numbers of its tokens, with those that begin and end every text */
  encode(text) {
    const ids = text.split(this.#isSpecial).flatMap((part) => {
      const id = this.#special.get(part);
      return id === undefined ? this.#wordsOf(part).flatMap((word) => this.#piecesOf(word)) : [id];
    });
    return [...this.#before, ...ids.slice(0, this.#mostTokens), ...this.#after];
  }

  #wordsOf(text) {
    return this.#normalized(text)
      .split(WHITE_SPACE)
      .flatMap((part) => part.match(PUNCTUATION_OR_WORD) ?? []);
  }

  #normalized(text) {
    const {
      clean_text: isCleaned,
      handle_chinese_chars: hasSpaces,
      strip_accents: strips,
      lowercase,
    } = this.#normalizer;
    let found = isCleaned ? text.replace(REMOVED, "").replace(/\p{White_Space}/gu, " ") : text;
    if (hasSpaces) found = found.replace(IDEOGRAPH, " $& ");
    if (strips ?? lowercase) found = found.normalize("NFD").replace(ACCENT, "");
    // One by one, since the case of a letter does not depend on its neighbours here.
    return lowercase ? Array.from(found, (letter) => letter.toLowerCase()).join("") : found;
  }

  /** The longest pieces of the vocabulary from left to right, or one unknown token if some part is in none. */
  #piecesOf(word) {
    const letters = Array.from(word);
    if (letters.length > this.#longestWord) return [this.#unknown];
    const ids = [];
    for (let start = 0, end; start < letters.length; start = end) {
      let id;
      for (end = letters.length; end > start; end -= 1) {
        id = this.#vocabulary.get((start > 0 ? this.#continuing : "") + letters.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return [this.#unknown];
      ids.push(id);
    }
    return ids;
  }
}

function parsed(bytes) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    throw new MetaqError("The file tokenizer.json is damaged: it is no JSON.");
  }
}

/** What splits a text at any of some strings, the longest where several begin, and keeps them. */
function anyOf(strings) {
  if (strings.length === 0) return /(?!)/;
  const longestFirst = [...strings].sort((left, right) => right.length - left.length);
  return new RegExp(`(${longestFirst.map((each) => each.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})`, "u");
}
