// The table: one row per criterion and metric; its arithmetic unfolds below it.

import { el } from "./dom.js";
import { number } from "./format.js";

const TONES = { candidate: "healthy", baseline: "critical", tie: "quiet", undetermined: "warning" };
const HEADS = ["", "criterion", "baseline", "candidate", "difference", "95 % interval", "winner"];

export function table(rows) {
  return el(
    "section",
    { class: "card compare-table", "aria-label": "Table" },
    el("h2", {}, "Table"),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of criteria" },
      el("table", {}, el("thead", {}, el("tr", {}, HEADS.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows.flatMap(lines))),
    ),
  );
}

function lines(row, index) {
  const id = `arithmetic-${index}`;
  const more = el("tr", { id, class: "arithmetic", hidden: true }, el("td", { colspan: String(HEADS.length) }, row.arithmetic, row.needs ? el("p", { class: "muted" }, `What would decide: ${row.needs}`) : null));
  const button = el("button", { class: "icon-button", type: "button", "aria-expanded": "false", "aria-controls": id, "aria-label": `Arithmetic of ${row.metric}`, onclick: () => {
    more.hidden = !more.hidden;
    button.setAttribute("aria-expanded", String(!more.hidden));
  } }, "›");
  const unit = row.unit ? ` ${row.unit}` : "";
  const cells = [
    el("td", {}, button),
    el("th", { scope: "row" }, row.title, el("span", { class: "muted metric" }, row.metric)),
    el("td", {}, row.baseline === null ? "–" : number(row.baseline) + unit),
    el("td", {}, row.candidate === null ? "–" : number(row.candidate) + unit),
    el("td", {}, difference(row)),
    el("td", {}, interval(row)),
    el("td", {}, el("span", { class: "badge", data: { tone: TONES[row.winner] } }, row.winner), possible(row)),
  ];
  return [el("tr", { data: { winner: row.winner } }, cells), more];
}

const percent = (value) => `${(100 * value).toFixed(1).replace("-", "−")} %`;

function difference(row) {
  if (typeof row.difference !== "number") return row.difference === null ? "–" : number(row.difference);
  if (row.measure === "ratio") return `×${row.difference.toFixed(3)}`;
  if (row.measure === "slowdown") return row.difference >= 0 ? `${percent(row.difference)} slower` : `${percent(-row.difference)} faster`;
  return (row.difference > 0 ? "+" : "") + number(row.difference) + (row.unit ? ` ${row.unit}` : "");
}

function interval(row) {
  if (!row.interval) return "–";
  const show = row.measure === "slowdown" ? percent : row.measure === "ratio" ? (value) => value.toFixed(3) : number;
  return `[${row.interval.map((value) => (typeof value === "number" ? show(value) : number(value))).join(", ")}]`;
}

function possible(row) {
  if (row.winner !== "undetermined" || row.states.length > 2) return null;
  return el("span", { class: "muted metric" }, row.states.map((state) => state.replace("_", " ")).join(" or "));
}
