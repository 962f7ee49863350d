// Sorts a table by a click on a column's title: ascending, descending, as it was.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], before = [...body.rows];
  if (before.length < 2 || table.className === "fixed") continue;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = `${head.title} Sort by this column`.trim();
    const wrap = () => { button.append(...head.childNodes); head.append(button); };
    wrap();
    // On the second page of a printed table browsers repeat its titles, but no buttons.
    addEventListener("beforeprint", () => button.replaceWith(...button.childNodes));
    addEventListener("afterprint", wrap);
    const entry = row => row.cells[column];
    // An entry that shows its number as it is does not give it a second time.
    const key = row => entry(row).dataset.v ?? entry(row).firstChild?.textContent ?? "";
    const numeric = before.some(row => entry(row).dataset.v !== undefined)
      || before.every(row => key(row) && !isNaN(key(row)));
    const number = row => parseFloat(key(row));
    button.addEventListener("click", () => {
      const was = head.ariaSort;
      for (const other of heads) other.ariaSort = null;
      const order = { null: "ascending", ascending: "descending" }[was];
      head.ariaSort = order ?? null;
      table.classList.toggle("sorted", order !== undefined);
      const sign = order === "descending" ? -1 : 1;
      const compare = (a, b) => numeric
        // What is no number, a miss, comes last whichever way it is sorted.
        ? isNaN(number(a)) - isNaN(number(b)) || sign * (number(a) - number(b)) || 0
        : sign * entry(a).textContent.localeCompare(entry(b).textContent, "en", { numeric: true });
      body.append(...(order ? [...before].sort(compare) : before));
    });
  });
}
