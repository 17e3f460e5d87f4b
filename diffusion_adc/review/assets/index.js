"use strict";
// Sorts the table of cases by the value that each cell carries; empty values go last either way.
(function () {
  const table = document.getElementById("cases");
  const body = table.tBodies[0];
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-sort]");
    if (!button) return;
    const head = button.closest("th");
    const falling = head.getAttribute("aria-sort") === "ascending";
    const column = head.cellIndex;
    const number = button.dataset.sort === "number";
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value;
    const rows = Array.from(body.rows);
    rows.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = number ? Number(x) - Number(y) : x.localeCompare(y);
      return falling ? -order : order;
    });
    body.append(...rows);
  });
  document.body.dataset.state = "ready";
})();
