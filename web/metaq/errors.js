/** What is wrong with a file, as a sentence that says so. */
export class MetaqError extends Error {
  constructor(message) {
    super(message);
    this.name = "MetaqError";
  }
}
