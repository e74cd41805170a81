// A table that sorts and filters where it stands. Without this script it is a plain table.
// Python (diffbook/show/table.py) writes the table and calls enhance(document, key).

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** Order of two cells' sort keys: numbers by size, texts by alphabet, empty cells always last. */
export function compareKeys(a, b, descending = false) {
  if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
  const numbers = [Number(a), Number(b)];
  const order = numbers.some(Number.isNaN) ? collator.compare(a, b) : numbers[0] - numbers[1];
  return descending ? -order : order;
}

/** Whether a row's text holds all words, and its chosen column the chosen value ("" is any). */
export function matches(text, words, value, chosen) {
  const low = text.toLowerCase();
  const found = words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => low.includes(word));
  return found && (chosen === "" || value === chosen);
}

/** Wire up every table on the page that has this key and is not ready yet. */
export function enhance(page, key) {
  for (const box of page.querySelectorAll(`[data-diffbook-table="${key}"]:not([data-ready])`)) {
    box.dataset.ready = "";
    const table = box.querySelector("table");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const [words, choice, status] = box.querySelectorAll("input, select, [role=status]");
    const column = Number(choice.dataset.column);
    const keyOf = (row, at) => row.cells[at].dataset.key ?? row.cells[at].textContent.trim();

    heads.forEach((head, at) => {
      const button = page.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.title = `Sort by ${head.textContent}`;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        // Array.sort is stable: rows that are equal here keep the order they were in.
        const now = [...body.rows];
        now.sort((a, b) => compareKeys(keyOf(a, at), keyOf(b, at), descending));
        body.append(...now);
        status.textContent = `Sorted by ${button.textContent}, ${head.getAttribute("aria-sort")}.`;
      });
    });

    const filter = () => {
      let shown = 0;
      for (const row of rows) {
        const value = keyOf(row, column);
        row.hidden = !matches(row.textContent, words.value, value, choice.value);
        shown += row.hidden ? 0 : 1;
      }
      status.textContent = `${shown} of ${rows.length} rows`;
    };
    words.addEventListener("input", filter);
    choice.addEventListener("input", filter);
    box.querySelector(".tools").hidden = false;
    filter();
  }
}
