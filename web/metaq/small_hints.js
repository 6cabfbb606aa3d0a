const [OFF, ON, NONE] = [0, 1, 2];

/** Which symbols, or rows, of the streams before had another symbol than their mode, or what the base of an update tells. */
export class Hints {
  constructor() {
    this.ofSymbols = undefined;
    this.ofRows = undefined;
  }

  /**
   * Hints of the rows and columns of a stream: 0, 1, or 2 where there is none.
   * @param {{count: number, rowLength: number, hasRows: boolean, hints?: Int8Array}} stream
   */
  of({ count, rowLength, hasRows, hints }) {
    if (hasRows && hints) return ofHints(hints, rowLength);
    const rows = hasRows ? spread([this.ofSymbols, this.ofRows], count / rowLength) : undefined;
    const columns = hasRows ? spread([this.ofRows, this.ofSymbols], rowLength) : undefined;
    return {
      ofRow: (row) => (rows ? rows(row) : NONE),
      ofColumn: (column) => (columns ? columns(column) : NONE),
    };
  }

  remember(symbols, { rowLength, hasRows }, mode) {
    if (!hasRows) {
      this.ofSymbols = Uint8Array.from(symbols, (symbol) => (symbol === mode ? OFF : ON));
      return;
    }
    this.ofRows = Uint8Array.from({ length: symbols.length / rowLength }, (_, row) => {
      return symbols.subarray(row * rowLength, (row + 1) * rowLength).some((symbol) => symbol !== mode) ? ON : OFF;
    });
  }
}

/** Whether the base of an update tells of any symbol of a row, or a column. */
function ofHints(hints, rowLength) {
  const rows = new Uint8Array(hints.length / rowLength);
  const columns = new Uint8Array(rowLength);
  hints.forEach((hint, i) => {
    if (hint !== 0) rows[Math.floor(i / rowLength)] = columns[i % rowLength] = ON;
  });
  return { ofRow: (row) => rows[row], ofColumn: (column) => columns[column] };
}

/** Of the first list whose length divides `length`, every bit for equally many places. */
function spread(lists, length) {
  const list = lists.find((bits) => bits && length % bits.length === 0);
  return list && ((place) => list[Math.floor((place * list.length) / length)]);
}
