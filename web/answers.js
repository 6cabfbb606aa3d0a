/** How the answers of networks are shown: as bars, and side by side on cards. */
import { byId, inBytes, inMilliseconds, inPercent, made, withArticle } from "./elements.js";
import { digitOf } from "./network.js";

const DIGITS = 10;
/** How a file tells its accuracy on the test images. */
const ACCURACY = /^(\d{1,3}\.\d\d)/;

/** A sentence for probabilities, if there are any. @param {number[]} [probabilities] */
export function sentenceFor(probabilities) {
  if (!probabilities) return "Draw a digit.";
  const digit = digitOf(probabilities);
  return digit < 0 ? "I read no digit." : `I read ${withArticle(digit)}.`;
}

/** Ten bars. @returns {(probabilities?: number[]) => void} */
export function makeBars() {
  const bars = Array.from({ length: DIGITS }, (_, digit) => {
    const item = document.createElement("li");
    item.innerHTML =
      '<span class="digit"></span><span class="track"><span class="bar"></span></span><span class="share"></span>';
    item.querySelector(".digit").textContent = digit;
    byId("probabilities").append(item);
    return item;
  });
  return (probabilities) => {
    const largest = probabilities && digitOf(probabilities);
    bars.forEach((item, digit) => {
      const probability = probabilities?.[digit] ?? 0;
      item.dataset.probability = probability;
      item.classList.toggle("largest", digit === largest);
      item.querySelector(".bar").style.width = `${100 * probability}%`;
      item.querySelector(".share").textContent = probabilities ? inPercent(probability) : "–";
    });
    byId("prediction").textContent = sentenceFor(probabilities);
  };
}

/**
 * A card by which a network is chosen.
 * @param {import("./loading.js").Model} model
 * @param {{accuracy?: number, origin?: string}} facts accuracy in percent on MNIST's test images, if the file does not tell
 *   its own, and where the file is from
 * @param {() => void} choose
 * @returns {{choose: () => void, show: (probabilities: number[] | undefined, readMs: number) => void}}
 */
export function makeCard({ bytes, metadata, network, decodeMs }, { accuracy, origin }, choose) {
  const card = made("label", "");
  card.className = "card";
  card.innerHTML =
    '<span class="title"><input type="radio" name="model" /> </span><span class="answer">–</span><span class="certain"></span>';
  card.querySelector(".title").append(network.title);
  const [, told = accuracy?.toFixed(2)] = ACCURACY.exec(metadata.get("test")) ?? [];
  const facts = [told && `${told} % right on MNIST`, origin, `decoded in ${inMilliseconds(decodeMs)}`].filter(Boolean);
  const reading = made("span", "");
  card.append(made("strong", inBytes(bytes.length)), ...facts.map((fact) => made("span", fact)), reading);
  byId("models").append(card);
  const radio = card.querySelector("input");
  radio.addEventListener("change", choose);
  return {
    choose() {
      radio.checked = true;
      choose();
    },
    show(probabilities, readMs) {
      const digit = probabilities ? digitOf(probabilities) : -1;
      card.querySelector(".answer").textContent = digit < 0 ? "–" : digit;
      card.querySelector(".certain").textContent = digit < 0 ? "" : inPercent(probabilities[digit]);
      reading.textContent = probabilities ? `read in ${inMilliseconds(readMs)}` : "";
    },
  };
}
