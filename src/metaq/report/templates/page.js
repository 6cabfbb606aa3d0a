"use strict";
// Header cells of sortable tables become buttons; without this program the tables stand in the order of the file.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.querySelectorAll("thead th")];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(table, headers, column));
    header.replaceChildren(button);
  });
}

function sort(table, headers, column) {
  const order = headers[column].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  headers.forEach((header) => header.removeAttribute("aria-sort"));
  headers[column].setAttribute("aria-sort", order);
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => ({ row, key: row.cells[column].dataset.value ?? "" }));
  const isNumeric = keyed.every(({ key }) => key === "" || Number.isFinite(Number(key)));
  const sign = order === "ascending" ? 1 : -1;
  keyed.sort((one, other) => {
    // Rows without a value stay last in both orders.
    if (one.key === "" || other.key === "") return (one.key === "") - (other.key === "");
    return sign * (isNumeric ? one.key - other.key : one.key.localeCompare(other.key, "en", { numeric: true }));
  });
  body.append(...keyed.map(({ row }) => row));
}
