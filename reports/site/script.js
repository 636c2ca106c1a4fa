// Sorts and filters the tables of a page. Without it every table stands as it is.
(() => {
  "use strict";
  const units = (table) => (table.dataset.unit === "body" ? [...table.tBodies] : [...table.tBodies[0].rows]);
  const cellOf = (unit, column) => (unit.rows ? unit.rows[0] : unit).cells[column];
  const textOf = (cell) => (cell ? cell.textContent.trim() : "");
  const numberOf = (cell) => (cell && cell.dataset.v ? Number(cell.dataset.v) : NaN);

  // Numbers by value, with what has none last whichever way; texts as people read them, 9 before 10.
  const comparison = (all, column, sign) => {
    if (!all.some((unit) => !Number.isNaN(numberOf(cellOf(unit, column))))) {
      const collator = new Intl.Collator("en", { numeric: true });
      return (a, b) => sign * collator.compare(textOf(cellOf(a, column)), textOf(cellOf(b, column)));
    }
    return (a, b) => {
      const [left, right] = [numberOf(cellOf(a, column)), numberOf(cellOf(b, column))];
      if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
      return sign * (left - right);
    };
  };

  const sortable = (table) => {
    const order = units(table);
    const parent = order.length ? order[0].parentNode : null;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const next = was === null ? "ascending" : was === "ascending" ? "descending" : null;
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        table.classList.toggle("sorted", next !== null);
        const sign = next === "descending" ? -1 : 1;
        const sorted = next ? [...order].sort(comparison(order, column, sign)) : order;
        if (parent) parent.append(...sorted);
      });
    });
  };

  const filterable = (table) => {
    const all = units(table);
    const texts = all.map((unit) => unit.textContent.toLowerCase());
    const label = document.createElement("label");
    const box = document.createElement("input");
    const told = document.createElement("output");
    label.className = "filter";
    box.type = "search";
    box.placeholder = `Filter ${all.length} rows`;
    box.setAttribute("aria-label", `Filter ${table.dataset.name || "this table"}`);
    label.append(box, told);
    (table.closest(".scroll") || table).before(label);
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      all.forEach((unit, i) => {
        unit.hidden = !words.every((word) => texts[i].includes(word));
        shown += !unit.hidden;
      });
      told.textContent = words.length ? `${shown} of ${all.length}` : "";
    });
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    if (units(table).length >= 8) filterable(table);
    sortable(table);
  }
})();
