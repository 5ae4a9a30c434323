// The run on one line: stages, incidents and events over its steps, up to the planned end.

import { el, fill, throttle } from "./dom.js";
import { isTold } from "./events.js";
import { integer } from "./format.js";

export class Timeline {
  #run = null;
  #incidents = new Map();
  #events = [];

  constructor(reveal) {
    this.reveal = reveal;
    this.stages = el("div", { class: "lane stages" });
    this.bars = el("div", { class: "lane bars" });
    this.marks = el("div", { class: "lane marks" });
    this.scale = el("div", { class: "scale muted" });
    this.root = el("section", { class: "card timeline", "aria-label": "Timeline", hidden: true }, this.stages, this.bars, this.marks, this.scale);
    this.draw = throttle(() => this.#draw(), 500);
  }

  set(incidents, events) {
    this.#incidents = new Map(incidents.map((incident) => [incident.id, incident]));
    this.#events = events;
    this.draw();
  }

  apply(incident) {
    this.#incidents.set(incident.id, { ...this.#incidents.get(incident.id), ...incident });
    this.draw();
  }

  add(event) {
    this.#events = [...this.#events, event];
    this.draw();
  }

  show(run) {
    this.#run = run;
    this.draw();
  }

  get #end() {
    return Math.max(this.#run.planned_steps ?? 0, this.#run.last_step ?? 0, 1);
  }

  #percent(step) {
    return Math.min(100, Math.max(0, (100 * step) / this.#end));
  }

  #span(from, to) {
    const left = this.#percent(from);
    return { left: `${left}%`, width: `${Math.max(0, this.#percent(to) - left)}%` };
  }

  #draw() {
    const run = this.#run;
    if (!run) return;
    const last = run.last_step ?? 0;
    const stages = this.#events.filter((event) => event.kind === "stage" && event.step !== null && event.step !== undefined);
    stages.sort((a, b) => a.step - b.step);
    fill(this.stages, stages.map((stage, index) => this.#stage(stage, stages[index + 1]?.step ?? last, index)));
    const incidents = [...this.#incidents.values()].filter((incident) => incident.severity !== "info");
    fill(this.bars, el("div", { class: "done", style: this.#span(0, last) }), incidents.map((incident) => this.#bar(incident, last)));
    const marks = this.#events.filter((event) => event.kind !== "stage" && isTold(event) && event.step !== null && event.step !== undefined);
    fill(this.marks, marks.map((event) => this.#mark(event)));
    this.marks.hidden = marks.length === 0;
    fill(this.scale, el("span", {}, "0"), el("span", {}, `${integer(this.#end)} steps${run.planned_steps ? " planned" : ""}`));
    this.root.hidden = !stages.length && !incidents.length && !marks.length;
    this.stages.hidden = stages.length === 0;
  }

  #stage(stage, until, index) {
    return el("div", { class: "stage", title: `${stage.text}, from step ${integer(stage.step)}`, data: { odd: String(index % 2) }, style: this.#span(stage.step, until) }, stage.text);
  }

  #bar(incident, last) {
    const from = incident.step ?? last;
    const to = incident.state === "resolved" ? (incident.resolved_step ?? incident.last_step ?? from) : last;
    return el("button", {
      class: "bar-incident",
      title: incident.message,
      "aria-label": `${incident.severity}: ${incident.message}`,
      data: { severity: incident.severity, state: incident.state },
      style: this.#span(from, to),
      onclick: () => this.reveal(incident.id),
    });
  }

  #mark(event) {
    return el("span", { class: "mark", title: `${event.kind} at step ${integer(event.step)}: ${event.text}`, data: { severity: event.severity }, style: { left: `${this.#percent(event.step)}%` } });
  }
}
