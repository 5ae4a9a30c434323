// Nested settings as one searchable table.

import { el, fill } from "./dom.js";
import { plural } from "./format.js";

export function configPanel(title, tree) {
  const rows = flatten(tree ?? {}).map(({ key, value }) => ({ key, text: text(value) }));
  if (!rows.length) return null;
  const body = el("tbody");
  const search = el("input", { type: "search", placeholder: `Search ${title.toLowerCase()}`, "aria-label": `Search ${title.toLowerCase()}`, oninput: draw });
  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter(({ key, text }) => words.every((word) => `${key} ${text}`.toLowerCase().includes(word)));
    fill(body, found.map(({ key, text }) => el("tr", {}, el("th", { scope: "row" }, keyCell(key)), el("td", {}, text))));
  }
  draw();
  return el(
    "details",
    { class: "card fold" },
    el("summary", {}, el("h2", {}, title), el("span", { class: "muted" }, plural(rows.length, "value"))),
    el("div", { class: "fold-body" }, rows.length > 8 ? search : null, el("table", { class: "facts-table" }, body)),
  );
}

// The path above the last part steps back, so that siblings read as a list.
function keyCell(key) {
  const cut = key.lastIndexOf(".") + 1;
  return [cut ? el("span", { class: "muted" }, key.slice(0, cut)) : null, key.slice(cut)];
}

// [{key: "optimizer.lr", value: 0.001}, …]
export function flatten(value, path = "") {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    const entries = Object.entries(value);
    if (entries.length) return entries.flatMap(([key, item]) => flatten(item, path ? `${path}.${key}` : key));
    return path ? [{ key: path, value: "{}" }] : [];
  }
  return [{ key: path, value }];
}

function text(value) {
  if (Array.isArray(value)) return value.every((item) => typeof item !== "object") ? value.join(" ") : JSON.stringify(value);
  return String(value);
}
