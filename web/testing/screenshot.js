/** Takes a picture of the top of a page: `node screenshot.js CHROMIUM PAGE PNG`. */
import { pathToFileURL } from "node:url";
import { launch, open } from "./browser.js";

const VIEWPORT = { width: 1180, height: 1000 };
const [chromium, file, picture] = process.argv.slice(2);

const browser = await launch(chromium);
const { page } = await open(browser, pathToFileURL(file).href, { viewport: VIEWPORT });
await page.screenshot({ path: picture });
await browser.close();
