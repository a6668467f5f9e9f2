"use strict";
// Without this script the page reads the same; it only sorts tables and filters rows and pictures.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.every((row) => typeof key(row, column) === "number");
    const sorted = head.getAttribute("aria-sort");
    const down = sorted === "ascending" || (numeric && sorted === "none"); // of numbers the largest are sought
    rows.sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      return (numeric ? x - y : String(x).localeCompare(String(y))) * (down ? -1 : 1);
    });
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }));
}
for (const filter of document.querySelectorAll(".filter")) {
  const input = filter.querySelector("input");
  const items = [...filter.parentElement.querySelectorAll("tbody tr, figure")];
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const item of items) item.hidden = !item.textContent.toLowerCase().includes(wanted);
    const left = items.filter((item) => !item.hidden).length;
    filter.querySelector("output").textContent = wanted && `${left} of ${items.length}`;
  });
}
