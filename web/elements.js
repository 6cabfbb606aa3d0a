/** Short ways to the elements and the wording of the page. */
export const byId = (id) => document.getElementById(id);
export const inBytes = (count) => `${count.toLocaleString("en")} bytes`;
export const inPercent = (share) => `${(100 * share).toFixed(1)} %`;
export const inMilliseconds = (time) => `${time.toFixed(time < 10 ? 1 : 0)}\u00a0ms`;
export const withArticle = (digit) => (digit === 8 ? `an ${digit}` : `a ${digit}`);

/** @param {string} tag @param {string | number} text */
export function made(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
