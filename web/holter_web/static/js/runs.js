// The list of runs: search and filters ask the service, live messages keep the rows current.

import { get } from "./api.js";
import { openIncidents, openText, progressBar, showHealth, showState } from "./badges.js";
import { debounce, el, fill, setText, throttle } from "./dom.js";
import { ago, clock, integer, plural, rate } from "./format.js";
import { notice } from "./notice.js";

const PAGE = 100;
const STATES = ["running", "finished", "stopped", "failed", "hung", "lost"];
const HEALTHS = ["healthy", "warning", "critical"];

export function runsView({ main, live, setTitle }) {
  const view = new RunsView(live, setTitle);
  fill(main, view.root);
  view.start();
  return () => view.stop();
}

class RunsView {
  #rows = new Map(); // run id → row
  #next = null;
  #asked = 0;

  constructor(live, setTitle) {
    this.live = live;
    this.setTitle = setTitle;
    this.search = el("input", { type: "search", placeholder: "Search runs", "aria-label": "Search runs", oninput: debounce(() => this.load(), 200) });
    this.project = this.#select("project", "All projects", []);
    this.state = this.#select("state", "Any state", STATES);
    this.health = this.#select("health", "Any health", HEALTHS);
    this.count = el("span", { class: "muted" });
    this.body = el("tbody");
    this.table = el("div", { class: "card table-card" }, el("table", { class: "runs" }, head(), this.body));
    this.more = el("button", { class: "button", hidden: true, onclick: () => this.load(this.#next) }, "Show more");
    this.message = el("div");
    this.filters = el("div", { class: "filters" }, this.search, this.project, this.state, this.health);
    this.root = el(
      "section",
      { "aria-label": "Runs" },
      el("div", { class: "page-head" }, el("h1", {}, "Runs"), this.count, this.filters),
      this.message,
      this.table,
      el("div", { class: "more" }, this.more),
    );
    this.refresh = throttle(() => this.load(), 1500);
  }

  #select(name, all, values) {
    const options = values.map((value) => el("option", { value }, value));
    return el("select", { name, "aria-label": name, onchange: () => this.load() }, el("option", { value: "" }, all), options);
  }

  get filter() {
    return { q: this.search.value.trim(), project: this.project.value, state: this.state.value, health: this.health.value };
  }

  // The address holds the filters, so that a view can be kept and shared.
  #readAddress() {
    const query = new URLSearchParams(location.search);
    const project = query.get("project") ?? "";
    if (project) this.project.append(el("option", { value: project }, project));
    this.search.value = query.get("q") ?? "";
    for (const [control, name] of [[this.project, "project"], [this.state, "state"], [this.health, "health"]]) control.value = query.get(name) ?? "";
  }

  #writeAddress() {
    const query = new URLSearchParams(Object.entries(this.filter).filter(([, value]) => value));
    history.replaceState(null, "", query.size ? `/?${query}` : "/");
  }

  start() {
    this.#readAddress();
    this.load();
    this.loadProjects();
    this.unsubscribe = this.live.subscribe({ topic: "runs" }, (message) => this.hear(message));
    this.timer = setInterval(() => this.tick(), 1000);
  }

  stop() {
    this.unsubscribe();
    this.refresh.cancel();
    clearInterval(this.timer);
  }

  async loadProjects() {
    const { projects } = await get("/projects").catch(() => ({ projects: [] }));
    const chosen = this.project.value;
    fill(this.project, el("option", { value: "" }, "All projects"), projects.map(({ name }) => el("option", { value: name }, name)));
    this.project.value = chosen;
  }

  async load(cursor = null) {
    const asked = ++this.#asked;
    this.#writeAddress();
    let answer;
    try {
      answer = await get("/runs", { ...this.filter, limit: PAGE, cursor });
    } catch (error) {
      if (asked === this.#asked) fill(this.message, notice(error));
      return;
    }
    if (asked !== this.#asked) return;
    fill(this.message);
    if (cursor === null) this.#keepOnly(new Set(answer.runs.map((run) => run.id)));
    answer.runs.forEach((run) => this.body.append(this.#row(run).node));
    this.#next = answer.next;
    this.more.hidden = !answer.next;
    this.#summary();
  }

  #keepOnly(ids) {
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      row.node.remove();
      this.#rows.delete(id);
    }
  }

  #row(run) {
    let row = this.#rows.get(run.id);
    if (!row) this.#rows.set(run.id, (row = new Row()));
    row.show(run);
    return row;
  }

  hear({ type, run }) {
    if (type === "run") {
      const known = this.#rows.get(run.id);
      if (known) known.show(run);
      else this.refresh();
      this.#summary();
    } else if (type === "incident" || type === "resumed" || type === "behind") this.refresh();
  }

  tick() {
    for (const row of this.#rows.values()) row.tick();
  }

  #summary() {
    const runs = [...this.#rows.values()].map((row) => row.run);
    const running = runs.filter((run) => run.state === "running").length;
    const sick = runs.filter((run) => openIncidents(run) > 0).length;
    const shown = `${plural(runs.length, "run")}${this.#next ? "+" : ""}`;
    setText(this.count, [shown, running && `${running} running`, sick && `${sick} with open incidents`].filter(Boolean).join(" · "));
    this.setTitle("Runs", sick);
    const filtered = Object.values(this.filter).some(Boolean);
    this.table.hidden = runs.length === 0;
    if (runs.length === 0) fill(this.message, filtered ? nothingFound() : firstSteps());
    else fill(this.message);
  }
}

const COLUMNS = ["Run", "State", "Health", "Step", "Speed", "Last seen", "Started"];

function head() {
  return el("thead", {}, el("tr", {}, COLUMNS.map((name) => el("th", { scope: "col", class: `c-${name.split(" ")[0].toLowerCase()}` }, name))));
}

class Row {
  constructor() {
    this.link = el("a", { class: "run-name" });
    this.project = el("span", { class: "muted" });
    this.state = el("span", { class: "badge" });
    this.health = el("span", { class: "badge" });
    this.open = el("span", { class: "open muted" });
    this.step = el("span");
    this.progress = progressBar();
    this.speed = el("td", { class: "c-speed" });
    this.seen = el("td", { class: "c-last" });
    this.started = el("td", { class: "c-started muted" });
    this.node = el(
      "tr",
      {},
      el("td", { class: "c-run" }, this.link, this.project),
      el("td", { class: "c-state" }, this.state),
      el("td", { class: "c-health" }, this.health, this.open),
      el("td", { class: "c-step" }, this.step, this.progress.track),
      this.speed,
      this.seen,
      this.started,
    );
  }

  show(run) {
    this.run = run;
    const address = `/runs/${encodeURIComponent(run.id)}`;
    if (this.link.getAttribute("href") !== address) this.link.href = address;
    setText(this.link, run.name || run.id);
    setText(this.project, run.project);
    showState(this.state, run.state);
    showHealth(this.health, run.health);
    setText(this.open, openText(run) === "none" ? "" : openText(run));
    setText(this.step, run.planned_steps ? `${integer(run.last_step ?? 0)} / ${integer(run.planned_steps)}` : integer(run.last_step));
    this.progress.show(run);
    setText(this.speed, rate(run.steps_per_second));
    setText(this.started, clock(run.started_at));
    this.tick();
  }

  tick() {
    setText(this.seen, ago(this.run.last_seen_at));
  }
}

function nothingFound() {
  return el("div", { class: "card empty" }, el("h2", {}, "No run matches"), el("p", { class: "muted" }, "Clear the search or the filters to see all runs."));
}

function firstSteps() {
  const lines = `import holter\n\nrun = holter.init(project="my-project", url="${location.origin}")\n...\nrun.log({"loss": loss}, step=step)`;
  return el(
    "div",
    { class: "card empty" },
    el("h2", {}, "No runs yet"),
    el("p", { class: "muted" }, "Add two lines to a training loop. It appears here with its first step."),
    el("pre", {}, el("code", {}, lines)),
    el("p", { class: "muted" }, "Or see a real training at once: ", el("code", {}, "holter demo")),
  );
}
