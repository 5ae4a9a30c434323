// All charts of a run: sections by prefix, one x axis and one zoom for all, and the way live points take to them.

import { get, runPath } from "./api.js";
import { Chart } from "./chart.js";
import { el, fill, setText, throttle } from "./dom.js";
import { plural } from "./format.js";
import { notice } from "./notice.js";
import { Painter } from "./painter.js";
import { onTheme } from "./plotly.js";

const AXES = [
  ["step", "Step"],
  ["time", "Time (UTC)"],
  ["relative", "Elapsed"],
];
const MARGIN = 400; // px beyond the screen at which charts are drawn

export class ChartBoard {
  #charts = new Map(); // figure name → Chart
  #sections = new Map(); // section name → {node, grid, count}
  #known = new Set(); // metrics that have a chart
  #firstStep = 0;
  #run = null;

  constructor(id, reveal) {
    this.id = id;
    this.reveal = reveal;
    this.x = "step";
    this.zoom = null;
    this.log = false;
    this.smooth = 0;
    this.painter = new Painter();
    this.segments = el("div", { class: "segments", role: "group", "aria-label": "Horizontal axis" }, AXES.map(([name, text]) => this.#axisButton(name, text)));
    this.logButton = el("button", { class: "button small", "aria-pressed": "false", onclick: () => this.setLog(!this.log) }, "Log scale");
    this.smoothing = el("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: "0", "aria-label": "Smoothing", oninput: () => this.setSmooth(Number(this.smoothing.value)) });
    this.smoothLabel = el("label", { class: "smoothing", title: "Moving average of every point; the line itself stays behind it" }, el("span", {}, "Smooth"), this.smoothing);
    this.reset = el("button", { class: "button small", hidden: true, onclick: () => this.setZoom(null) }, "Reset zoom");
    this.search = el("input", { type: "search", placeholder: "Filter charts", "aria-label": "Filter charts", oninput: () => this.filter() });
    this.toolbar = el("div", { class: "toolbar" }, el("h2", {}, "Charts"), this.search, this.reset, this.smoothLabel, this.logButton, this.segments);
    this.message = el("div");
    this.body = el("div", { class: "sections" });
    this.root = el("section", { "aria-label": "Charts", class: "board", hidden: true }, this.toolbar, this.message, this.body);
    this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.#seen(entry)), { rootMargin: `${MARGIN}px 0px` });
    this.changed = throttle(() => this.#each((chart) => chart.refetch()), 1500);
    this.relist = throttle(() => this.#list().catch(() => {}), 2000);
    this.wake = () => document.hidden || this.#each((chart) => chart.wake());
    document.addEventListener("visibilitychange", this.wake);
    this.offTheme = onTheme(() => this.#each((chart) => chart.refetch()));
  }

  #axisButton(name, text) {
    return el("button", { "aria-pressed": String(name === "step"), data: { axis: name }, onclick: () => this.setX(name) }, text);
  }

  stop() {
    this.observer.disconnect();
    document.removeEventListener("visibilitychange", this.wake);
    this.offTheme();
    this.changed.cancel();
    this.relist.cancel();
    this.#each((chart) => chart.stop());
  }

  async load(run) {
    this.#run = run;
    try {
      await this.#list();
      fill(this.message);
    } catch (error) {
      this.root.hidden = false;
      fill(this.message, notice(error));
    }
  }

  async #list() {
    const [{ figures }, { metrics }] = await Promise.all([get(`${runPath(this.id)}/figures`), get(`${runPath(this.id)}/metrics`)]);
    this.#known = new Set(metrics.map((metric) => metric.name));
    this.#firstStep = metrics.reduce((least, metric) => Math.min(least, metric.first_step ?? least), Infinity);
    if (!Number.isFinite(this.#firstStep)) this.#firstStep = 0;
    this.root.hidden = figures.length === 0;
    figures.forEach((figure) => this.#place(figure));
    for (const { node, grid, count } of this.#sections.values()) {
      node.hidden = grid.childElementCount === 0;
      setText(count, plural(grid.childElementCount, "chart"));
    }
    this.filter();
  }

  #place(figure) {
    let chart = this.#charts.get(figure.name);
    if (chart) chart.describe(figure);
    else {
      chart = new Chart(this, figure);
      this.#charts.set(figure.name, chart);
      this.observer.observe(chart.root);
    }
    // Moving a node that stands right already would make the browser lay it out again.
    const { grid } = this.#section(figure.section ?? "");
    if (chart.root.parentNode !== grid || grid.lastElementChild !== chart.root) grid.append(chart.root);
  }

  #section(name) {
    let section = this.#sections.get(name);
    if (section) return section;
    const grid = el("div", { class: "grid" });
    const count = el("span", { class: "muted" });
    const summary = el("summary", {}, el("h3", {}, name || "Training"), count);
    const node = el("details", { class: "section", open: name !== "system", data: { section: name } }, summary, grid);
    section = { node, grid, count };
    this.#sections.set(name, section);
    this.body.append(node);
    // The machine's own metrics stand last, whatever arrives later.
    const system = this.#sections.get("system");
    if (system) this.body.append(system.node);
    return section;
  }

  #seen(entry) {
    for (const chart of this.#charts.values()) {
      if (chart.root === entry.target) chart.see(entry.isIntersecting);
    }
  }

  #each(work) {
    for (const chart of this.#charts.values()) work(chart);
  }

  show(run) {
    this.#run = run;
    this.#each((chart) => chart.stretch());
  }

  // The span of the run on the present axis, equal for all charts so that they line up.
  get span() {
    const run = this.#run ?? {};
    const start = run.started_at ?? run.created_at ?? 0;
    const end = Math.max(run.last_step_at ?? run.last_seen_at ?? start, start + 1);
    if (this.x === "step") return [this.#firstStep, Math.max(run.last_step ?? 0, this.#firstStep + 1)];
    return [start, end];
  }

  get running() {
    return this.#run?.state === "running";
  }

  extend(series) {
    let unknown = false;
    for (const piece of series) {
      if (!this.#known.has(piece.metric)) unknown = true;
      this.#each((chart) => chart.extend(piece));
    }
    if (unknown) this.relist();
  }

  setX(name) {
    if (name === this.x) return;
    this.x = name;
    for (const button of this.segments.children) button.setAttribute("aria-pressed", String(button.dataset.axis === name));
    this.zoom = null;
    this.reset.hidden = true;
    this.#each((chart) => chart.refetch());
  }

  setLog(on) {
    this.log = on;
    this.logButton.setAttribute("aria-pressed", String(on));
    this.#each((chart) => chart.setLog());
  }

  setSmooth(weight) {
    this.smooth = weight;
    this.#each((chart) => chart.refetch());
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.reset.hidden = zoom === null;
    this.#each((chart) => chart.zoomed());
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.#each((chart) => {
      const text = `${chart.figure.title} ${chart.figure.metrics.join(" ")}`.toLowerCase();
      chart.root.hidden = !words.every((word) => text.includes(word));
    });
  }
}
