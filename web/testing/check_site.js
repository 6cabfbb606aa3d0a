/**
 * Looks at pages of the documentation, wide and narrow, light and dark, and prints what it finds as JSON:
 * `node check_site.js CHROMIUM FOLDER PICTURES PAGE …`. PICTURES is a folder for screenshots, or - for none.
 */
import { join } from "node:path";
import { launch, open, serve, seriousViolations } from "./browser.js";

const SIZES = [
  { width: 1280, height: 900 },
  { width: 390, height: 844 },
];

/** What is wider than the place that it has, and cannot be scrolled there; and contents that show LaTeX. */
function faults() {
  const root = document.documentElement;
  const cut = [...document.querySelectorAll("svg.formula-drawing, .md-typeset img, .md-typeset pre, .md-typeset table")]
    .filter((each) => each.offsetParent !== null || each instanceof SVGElement)
    .filter((each) => {
      const right = each.getBoundingClientRect().right;
      for (let around = each.parentElement; around; around = around.parentElement) {
        const { overflowX } = getComputedStyle(around);
        if (overflowX === "auto" || overflowX === "scroll") return false;
        if (overflowX !== "visible" && right > around.getBoundingClientRect().right + 1) return true;
      }
      return right > root.clientWidth + 1;
    })
    .map((each) => each.outerHTML.slice(0, 100));
  const contents = [...document.querySelectorAll(".md-nav--secondary .md-nav__link")].map(({ textContent }) =>
    textContent.trim(),
  );
  return { overflow: root.scrollWidth - root.clientWidth, cut, latex: contents.filter((text) => /[\\$]/.test(text)) };
}

const [chromium, folder, pictures, ...pages] = process.argv.slice(2);
const found = [];
const browser = await launch(chromium);
const { url, close } = await serve(folder);
for (const name of pages) {
  for (const viewport of SIZES) {
    for (const colorScheme of ["light", "dark"]) {
      const { page, complaints } = await open(browser, `${url}${name}`, { viewport, colorScheme });
      const [shown, violations] = [await page.evaluate(faults), await seriousViolations(page)];
      if (pictures !== "-") {
        const file = `${name.replaceAll("/", "-")}${viewport.width}-${colorScheme}.png`;
        await page.screenshot({ path: join(pictures, file) });
      }
      await page.context().close();
      found.push({ name, width: viewport.width, colorScheme, ...shown, violations, complaints });
    }
  }
}
close();
await browser.close();
console.log(JSON.stringify(found));
