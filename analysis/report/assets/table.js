// Tables that sort by a click or a key on their headings, and filter by words and family.
"use strict";

(() => {
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();

  // Numbers by size, words by letters; empty cells last whichever way it goes.
  function compare(a, b, isNumber, sign) {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (!isNumber) return sign * a.localeCompare(b, "en", { numeric: true });
    const [x, y] = [Number(a), Number(b)];
    return x === y ? 0 : sign * (x < y ? -1 : 1); // Infinity - Infinity would be NaN
  }

  function sort(table, heading) {
    const column = heading.cellIndex;
    const isNumber = heading.dataset.kind === "number";
    const before = heading.getAttribute("aria-sort");
    const first = heading.dataset.better === "higher" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const now = before === first ? other : first;
    for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", now);
    const sign = now === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row, place) => ({ row, place, key: parse(value(row, column)) }));
    keyed.sort((a, b) => compare(a.key, b.key, isNumber, sign) || a.place - b.place);
    body.append(...keyed.map((each) => each.row));
  }

  // Python writes infinity as inf.
  const parse = (text) => text.replace(/^(-?)inf$/, "$1Infinity");

  function filter(table, controls) {
    const words = controls.querySelector("[data-filter]").value.toLowerCase().split(/\s+/);
    const family = controls.querySelector("[data-family]").value;
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const fits = words.every((word) => row.dataset.words.includes(word));
      row.hidden = !(fits && (!family || row.dataset.family === family));
      shown += !row.hidden;
    }
    const all = table.tBodies[0].rows.length;
    controls.querySelector("[data-count]").textContent =
      shown === all ? `${all} methods` : `${shown} of ${all} methods`;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button")?.addEventListener("click", () => sort(table, heading));
    }
    const controls = document.getElementById(table.dataset.controls);
    if (!controls) continue;
    controls.hidden = false;
    controls.addEventListener("input", () => {
      table.classList.toggle("plain", !controls.querySelector("[data-intervals]").checked);
      filter(table, controls);
    });
    filter(table, controls);
  }
})();
