/** The worker of the viewer. In the page of a single file, build_page.js puts another module in the place of this one. */
export const startWorker = () => new Worker(new URL("viewer_worker.js", import.meta.url), { type: "module" });
