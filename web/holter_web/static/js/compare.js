// A comparison: verdict, table, the tree with the path taken, the honest reading, knobs and overlaid charts.

import { post } from "./api.js";
import { CompareCharts } from "./compare_charts.js";
import { knobs, readings } from "./compare_readings.js";
import { table } from "./compare_table.js";
import { el, fill } from "./dom.js";
import { integer, plural } from "./format.js";
import { notice } from "./notice.js";
import { onTheme, theme } from "./plotly.js";

const REFRESH_MS = 15000; // while a run of it is still running
const WORDS = { accepted: "Candidate accepted", rejected: "Candidate rejected", undetermined: "Undetermined", not_comparable: "Could not compare" };
const TONES = { accepted: "healthy", rejected: "critical", undetermined: "warning", not_comparable: "warning" };
const CRITERIA = ["default", "denovo"];

export function compareView({ main, setTitle }) {
  const page = new ComparePage(setTitle);
  fill(main, page.root);
  page.start();
  return () => page.stop();
}

class ComparePage {
  #timer = null;
  #stopped = false;
  #asked = 0;

  constructor(setTitle) {
    this.setTitle = setTitle;
    const query = new URLSearchParams(location.search);
    this.baseline = field("Baseline", "baseline", query.getAll("baseline").join(" "));
    this.candidate = field("Candidate", "candidate", query.getAll("candidate").join(" "));
    this.criteria = el("select", { id: "compare-criteria", name: "criteria" }, CRITERIA.map((name) => el("option", { value: name, selected: name === query.get("criteria") }, name)));
    this.form = el(
      "form",
      { class: "card compare-form", onsubmit: (event) => this.#submit(event) },
      this.baseline.root,
      this.candidate.root,
      el("label", { for: "compare-criteria" }, "Criteria", this.criteria),
      el("button", { class: "button primary", type: "submit" }, "Compare"),
    );
    this.message = el("div", { role: "status" });
    this.result = el("div", { class: "compare-result" });
    this.charts = new CompareCharts();
    this.root = el("div", { class: "compare" }, el("h1", {}, "Compare"), this.form, this.message, this.result, this.charts.root);
    this.leaveTheme = onTheme(() => this.ask());
  }

  start() {
    this.setTitle("Compare");
    if (this.baseline.values().length && this.candidate.values().length) this.ask();
    else fill(this.message, el("p", { class: "notice" }, "Give the runs of both sides: ids, project/name, or filters such as group=new,project=denovo. Several, with spaces between them, are seeds. The baseline may be “pinned”."));
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.leaveTheme();
    this.charts.stop();
  }

  #submit(event) {
    event.preventDefault();
    const query = new URLSearchParams();
    for (const side of ["baseline", "candidate"]) for (const value of this[side].values()) query.append(side, value);
    query.set("criteria", this.criteria.value);
    history.replaceState(null, "", `/compare?${query}`);
    this.ask();
  }

  async ask() {
    clearTimeout(this.#timer);
    const number = ++this.#asked;
    if (!this.result.hasChildNodes()) fill(this.message, el("p", { class: "notice" }, "Comparing …"));
    const body = { baseline: this.baseline.values(), candidate: this.candidate.values(), criteria: this.criteria.value, figures: true, theme: theme() };
    try {
      const { comparison } = await post("/compare", body);
      if (this.#stopped || number !== this.#asked) return;
      fill(this.message);
      this.#show(comparison);
      if (comparison.standing) this.#timer = setTimeout(() => this.ask(), REFRESH_MS);
    } catch (error) {
      if (this.#stopped || number !== this.#asked) return;
      fill(this.message, notice(error));
      fill(this.result);
      this.charts.show([]);
    }
  }

  #show(found) {
    this.setTitle(WORDS[found.verdict]);
    fill(this.result, verdict(found), table(found.rows), readings(found), knobs(found.knobs), differences(found.config_differences));
    this.charts.show(found.figures ?? []);
  }
}

function field(label, name, value) {
  const input = el("input", { id: `compare-${name}`, name, value, required: true, spellcheck: "false", autocomplete: "off" });
  return { root: el("label", { for: `compare-${name}` }, label, input), values: () => input.value.split(/\s+/).filter(Boolean) };
}

function verdict(found) {
  const { gate, runs } = found;
  const at = found.common_last_step === null ? "no common step" : `at step ${integer(found.common_last_step)}`;
  const enters = found.entry_step === null ? "" : `, treatment from step ${integer(found.entry_step)}`;
  return el(
    "section",
    { class: "card compare-verdict", data: { verdict: found.verdict }, "aria-label": "Verdict" },
    el("p", { class: "verdict" }, el("span", { class: "badge", data: { tone: TONES[found.verdict] } }, WORDS[found.verdict])),
    el("p", { class: "reason" }, found.reason),
    found.standing ? el("p", { class: "standing" }, found.standing.say) : null,
    el("dl", { class: "compare-sides" }, side("Baseline", runs.baseline), side("Candidate", runs.candidate)),
    el("p", { class: "muted" }, `Compared ${at}${enters}; criteria ${found.criteria}; gate ${gate.status}`),
    gate.reasons.length ? el("ul", { class: "muted reasons" }, gate.reasons.map((reason) => el("li", {}, reason))) : null,
  );
}

function side(name, runs) {
  const links = runs.map((run) => el("a", { href: `/runs/${encodeURIComponent(run.id)}` }, `${run.project}/${run.name}`, run.seed === null ? "" : ` (seed ${run.seed})`));
  return [el("dt", {}, name), el("dd", {}, links.flatMap((link, index) => (index ? [", ", link] : [link])))];
}

function differences(keys) {
  if (!keys.length) return null;
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return el(
    "details",
    { class: "card fold compare-keys" },
    el("summary", {}, el("h2", {}, "Config"), el("span", { class: "muted" }, `${plural(keys.length, "key")} differ${keys.length === 1 ? "s" : ""}`)),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ["key", "baseline", "candidate", ""].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, keys.map((each) => el("tr", {}, el("td", {}, each.key), el("td", {}, text(each.baseline)), el("td", {}, text(each.candidate)), el("td", { class: "muted" }, each.declared ? "treatment" : "")))),
      ),
    ),
  );
}
