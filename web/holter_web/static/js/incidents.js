// The incidents of a run, worst first: what happened with its numbers, and what to do about it.

import { post } from "./api.js";
import { captureFolds, sentences } from "./captures.js";
import { el, fill, setText } from "./dom.js";
import { flatten } from "./facts.js";
import { clock, integer, number } from "./format.js";
import { notice } from "./notice.js";

const SEVERITIES = ["critical", "warning", "info"];
const UNFOLDED = matchMedia("(max-width: 640px)").matches ? 1 : 2;

export class IncidentPanel {
  #incidents = new Map();
  #cards = new Map(); // incident id → {node, text}
  #captures = new Map(); // what was unfolded stays drawn

  constructor() {
    this.title = el("h2");
    this.list = el("div", { class: "incidents" });
    this.root = el("section", { "aria-label": "Incidents", class: "incident-panel", hidden: true }, this.title, this.list);
  }

  set(incidents) {
    this.#incidents = new Map(incidents.map((incident) => [incident.id, incident]));
    this.#draw();
  }

  apply(incident) {
    this.#incidents.set(incident.id, { ...this.#incidents.get(incident.id), ...incident });
    this.#draw();
  }

  reveal(id) {
    const card = this.#cards.get(id)?.node;
    if (card) card.open = true;
    card?.scrollIntoView({ block: "center", behavior: "smooth" });
    card?.focus({ preventScroll: true });
  }

  #draw() {
    const sorted = [...this.#incidents.values()].sort(worstFirst);
    const open = sorted.filter((incident) => incident.state !== "resolved");
    this.root.hidden = sorted.length === 0;
    setText(this.title, open.length ? `${open.length} open incident${open.length > 1 ? "s" : ""}` : "No open incidents");
    const unfolded = new Set(open.slice(0, UNFOLDED).map(({ id }) => id));
    fill(this.list, sorted.map((incident) => this.#card(incident, unfolded.has(incident.id))));
  }

  // A card that says the same as before stays as it is, and one that changed stays as folded as the reader left it.
  #card(incident, unfolded) {
    const text = JSON.stringify(incident);
    const known = this.#cards.get(incident.id);
    if (known?.text === text) return known.node;
    const node = incidentCard(incident, { unfolded, changed: (now) => this.apply(now), captures: this.#captures });
    if (known) copyFolds(known.node, node);
    this.#cards.set(incident.id, { node, text });
    return node;
  }
}

function copyFolds(from, to) {
  to.open = from.open;
  const [before, after] = [from, to].map((card) => card.querySelector("details.evidence:not(.capture)"));
  if (before && after) after.open = before.open;
}

function worstFirst(a, b) {
  const resolved = (incident) => (incident.state === "resolved" ? 1 : 0);
  return (
    resolved(a) - resolved(b) ||
    SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) ||
    (a.step ?? Infinity) - (b.step ?? Infinity)
  );
}

export function incidentCard(incident, { unfolded = true, changed, place = null, captures = new Map() }) {
  const tone = incident.state === "resolved" ? "quiet" : incident.severity === "info" ? "quiet" : incident.severity;
  const body = el(
    "div",
    { class: "incident-body" },
    incident.advice ? el("p", { class: "advice" }, el("span", { class: "advice-label" }, "What to do"), incident.advice) : null,
    el("div", { class: "incident-foot" }, facts(incident), evidence(incident), captureFolds(incident, captures), acknowledge(incident, changed)),
  );
  return el(
    "details",
    { class: "card incident", id: `incident-${incident.id}`, tabindex: "-1", open: unfolded, data: { tone, severity: incident.severity, state: incident.state } },
    el(
      "summary",
      {},
      el("span", { class: "badge", data: { tone } }, incident.severity),
      el("span", { class: "incident-message" }, incident.message),
      el("span", { class: "incident-where muted" }, place, el("span", {}, where(incident))),
      sentences(incident),
    ),
    body,
  );
}

function where(incident) {
  const parts = [incident.step === null || incident.step === undefined ? clock(incident.opened_at) : `step ${integer(incident.step)}`];
  if (incident.state === "resolved") {
    parts.push(incident.resolved_step ? `resolved at ${integer(incident.resolved_step)}` : "resolved");
  } else parts.push(incident.state);
  return parts.join(" · ");
}

// The numbers that matter on one line; the whole arithmetic folds out of "Evidence".
function facts({ metric, writer, value, threshold, baseline, rule }) {
  const pairs = { metric, rank: writer === "rank0" ? null : writer, value: orNull(value), threshold: orNull(threshold), baseline: orNull(baseline), rule };
  return el(
    "dl",
    { class: "pairs" },
    Object.entries(pairs).filter(([, text]) => text).map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))),
  );
}

const orNull = (value) => (value === null || value === undefined ? null : number(value));

function evidence({ evidence: found, kind, writer, opened_at: opened, acknowledged_by: by }) {
  const { formula, ...rest } = found ?? {};
  const rows = [
    { key: "condition", value: formula },
    ...flatten(rest),
    { key: "kind", value: kind },
    { key: "writer", value: writer },
    { key: "opened", value: clock(opened) },
    { key: "acknowledged by", value: by },
  ].filter(({ value }) => value !== null && value !== undefined && value !== "");
  const lines = rows.map(({ key, value }) => el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, valueText(value))));
  return el("details", { class: "evidence" }, el("summary", {}, "Evidence"), el("table", { class: "facts-table" }, el("tbody", {}, lines)));
}

function valueText(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value);
  return Array.isArray(value) ? value.map(valueText).join(", ") : String(value);
}

function acknowledge(incident, changed) {
  if (incident.state !== "firing") return null;
  const button = el("button", {
    class: "button small",
    onclick: async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        const answer = await post(`/incidents/${encodeURIComponent(incident.id)}/acknowledge`);
        changed(answer.incident ?? { ...incident, state: "acknowledged" });
      } catch (error) {
        button.replaceWith(notice(error));
      }
    },
  }, "Acknowledge");
  return button;
}
