"use strict";
// The table of all queries: sorted, searched and shown a page at a time. Every text is set as text.
(() => {
  const place = document.getElementById("all-queries");
  const { systems, documents, rows } = JSON.parse(document.getElementById("query-data").textContent);
  const ROWS = 20, change = row => row[4].at(-1) - row[4].at(-2);
  const decimals = (thousandths, sign) =>
    (thousandths < 0 ? "−" : sign && thousandths > 0 ? "+" : "") + (Math.abs(thousandths) / 1000).toFixed(3);
  const columns = [
    { name: "query", key: row => row[0], isText: true },
    { name: "found first", key: row => documents[row[1]] ?? "", isText: true },
    ...systems.map((name, number) => ({ name, key: row => row[4][number] })),
    { name: "change", key: change },
  ];
  const searched = rows.map(row => [row[0], documents[row[1]], documents[row[3]]].join("\n").toLowerCase());
  const head = place.querySelector("thead tr"), body = place.querySelector("tbody");
  const search = place.querySelector("input"), more = place.querySelector(".more"), count = place.querySelector("output");
  let sorted = columns.length - 1, direction = 1, shown = ROWS, order = [];

  function element(name, text, style, parent) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (style) made.className = style;
    parent?.append(made);
    return made;
  }

  function number(line, name, text, style) {
    element("td", text, "number " + style, line).dataset.name = name;
  }

  function line(row) {
    const made = document.createElement("tr"), [query, first, isRight, relevant, scores] = row, difference = change(row);
    element("bdi", query, "", element("td", undefined, "query", made));
    const cell = element("td", undefined, "", made);
    if (first >= 0) {
      element("b", isRight ? "✓ " : "✗ ", isRight ? "gain" : "loss", cell);
      element("bdi", documents[first], "", cell);
    }
    if (relevant >= 0 && !isRight) element("bdi", documents[relevant], "", element("small", "relevant: ", "", cell));
    systems.forEach((name, place) => number(made, name, decimals(scores[place]), ""));
    number(made, "change", decimals(difference, true), difference > 0 ? "gain" : difference < 0 ? "loss" : "");
    return made;
  }

  function show() {
    body.replaceChildren(...order.slice(0, shown).map(number => line(rows[number])));
    more.hidden = order.length <= shown;
    count.textContent = `${order.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} queries`;
    [...head.children].forEach((cell, place) =>
      cell.setAttribute("aria-sort", place !== sorted ? "none" : direction > 0 ? "ascending" : "descending"));
  }

  function update() {
    const words = search.value.toLowerCase().split(/\s+/), { key, isText } = columns[sorted];
    const compare = isText ? new Intl.Collator("en").compare : (first, second) => first - second;
    order = [...rows.keys()].filter(number => words.every(word => searched[number].includes(word)));
    const keys = rows.map(key);
    order.sort((first, second) => direction * compare(keys[first], keys[second]) || first - second);
    shown = ROWS;
    show();
  }

  columns.forEach(({ name, isText }, place) => {
    const cell = element("th", undefined, isText ? "" : "number", head);
    cell.scope = "col";
    element("button", name, "", cell).addEventListener("click", () => {
      direction = place === sorted ? -direction : 1;
      sorted = place;
      update();
    });
  });
  search.addEventListener("input", update);
  more.addEventListener("click", () => { shown += 5 * ROWS; show(); });
  place.hidden = false;
  update();
})();
