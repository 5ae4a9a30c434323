// Which ranks hold the others up: one row each, the worst first. Shown once a run has several.

import { get, runPath } from "./api.js";
import { el, fill, throttle } from "./dom.js";
import { ago, integer, number, plural } from "./format.js";

const REFRESH_MS = 2500;
const SLOW = 1.5; // times the median of all ranks
const TONES = { running: "accent", silent: "critical", failed: "critical" };

export class RankPanel {
  #stopped = false;

  constructor(id) {
    this.id = id;
    this.summary = el("span", { class: "muted" });
    this.body = el("tbody");
    const head = ["Rank", "State", "Step", "Behind", "Step time", "Heard of", "Where"].map((text) => el("th", { scope: "col" }, text));
    this.table = el("table", { class: "ranks-table" }, el("thead", {}, el("tr", {}, head)), this.body);
    this.root = el("section", { "aria-label": "Ranks", class: "ranks", hidden: true }, el("div", { class: "toolbar" }, el("h2", {}, "Ranks"), this.summary), el("div", { class: "card ranks-card" }, this.table));
    this.changed = throttle(() => this.load().catch(() => {}), REFRESH_MS);
  }

  stop() {
    this.#stopped = true;
    this.changed.cancel();
  }

  async load() {
    if (document.hidden) return;
    const { ranks } = await get(`${runPath(this.id)}/ranks`);
    if (this.#stopped) return;
    this.root.hidden = ranks.length < 2;
    if (ranks.length < 2) return;
    const usual = median(ranks.map((rank) => rank.step_time).filter((value) => value !== null));
    const furthest = Math.max(1, ...ranks.map((rank) => rank.lag ?? 0));
    fill(this.summary, summary(ranks));
    fill(this.body, ranks.map((rank) => row(rank, usual, furthest)));
  }
}

function summary(ranks) {
  const said = [plural(ranks.length, "rank")];
  for (const state of ["failed", "silent"]) {
    const names = ranks.filter((rank) => rank.state === state);
    if (names.length) said.push(`${names.length} ${state}`);
  }
  const odd = ranks.filter((rank) => rank.non_finite > 0);
  if (odd.length) said.push(`${odd.length} with NaN or ∞`);
  const behind = ranks.filter((rank) => rank.lag > 0);
  if (behind.length) said.push(`${behind.length} behind`);
  return said.join(" · ");
}

function row(rank, usual, furthest) {
  return el(
    "tr",
    { data: { writer: rank.writer, state: rank.state } },
    el("th", { scope: "row" }, rank.writer, odd(rank)),
    cell("State", el("span", { class: "badge", title: rank.state_reason, data: { tone: TONES[rank.state] ?? "quiet" } }, rank.state)),
    cell("Step", integer(rank.last_step)),
    cell("Behind", lag(rank, furthest)),
    cell("Step time", stepTime(rank, usual)),
    cell("Heard of", rank.state === "running" || rank.state === "silent" ? ago(rank.last_seen_at) : "–"),
    cell("Where", el("span", { class: "muted where" }, where(rank))),
  );
}

// On a phone the row is a card, and each cell carries its column's name.
const cell = (name, content) => el("td", { data: { name } }, content);

function odd(rank) {
  const notes = [];
  if (rank.non_finite) notes.push(el("span", { class: "rank-note critical", title: `${integer(rank.non_finite)} values were NaN or infinite` }, `${integer(rank.non_finite)} NaN/∞`));
  if (rank.dropped) notes.push(el("span", { class: "rank-note", title: "Points given up because its disk bound was reached" }, `${integer(rank.dropped)} given up`));
  return notes;
}

function lag(rank, furthest) {
  if (rank.lag === null) return el("span", { class: "muted" }, "no step yet");
  if (rank.lag === 0) return el("span", { class: "muted" }, "0");
  return [el("b", {}, integer(rank.lag)), el("i", { class: "lag", "aria-hidden": "true" }, el("i", { style: { width: `${Math.max(3, (rank.lag / furthest) * 100)}%` } }))];
}

function stepTime(rank, usual) {
  if (rank.step_time === null) return "–";
  const text = rank.step_time < 1 ? `${number(rank.step_time * 1000)} ms` : `${number(rank.step_time)} s`;
  const slower = usual ? rank.step_time / usual : 1;
  return slower >= SLOW ? [el("b", {}, text), el("span", { class: "rank-note", title: "times the median of all ranks" }, `${slower.toFixed(1)}×`)] : text;
}

function where(rank) {
  return [rank.host, rank.device, rank.pid ? `pid ${rank.pid}` : ""].filter(Boolean).join(" · ") || "–";
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  if (!sorted.length) return null;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
