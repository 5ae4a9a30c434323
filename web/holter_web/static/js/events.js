// What happened, newest first.

import { el, fill, throttle } from "./dom.js";
import { clock, integer, plural } from "./format.js";

const SHOWN = 300;

// An evaluation's event holds what each example came to, for comparisons; its mean is a curve already.
export const isTold = (event) => event.kind !== "evaluation";

export class EventLog {
  #events = [];

  constructor() {
    this.count = el("span", { class: "muted" });
    this.list = el("ol", { class: "events" });
    this.root = el("details", { class: "card fold", hidden: true }, el("summary", {}, el("h2", {}, "Events"), this.count), this.list);
    this.root.addEventListener("toggle", () => this.draw());
    this.draw = throttle(() => this.#draw(), 500);
  }

  set(events) {
    this.#events = events.filter(isTold).sort((a, b) => a.time - b.time);
    this.draw();
  }

  add(event) {
    if (!isTold(event)) return;
    this.#events.push(event);
    this.draw();
  }

  #draw() {
    this.root.hidden = this.#events.length === 0;
    fill(this.count, plural(this.#events.length, "event"));
    if (this.root.open) fill(this.list, this.#events.slice(-SHOWN).reverse().map(row));
  }
}

function row(event) {
  return el(
    "li",
    { data: { severity: event.severity } },
    el("time", { class: "muted" }, clock(event.time)),
    el("span", { class: "muted" }, event.step === null || event.step === undefined ? "" : `step ${integer(event.step)}`),
    el("span", { class: "tag" }, event.kind),
    el("span", { class: "event-text" }, event.text),
  );
}
