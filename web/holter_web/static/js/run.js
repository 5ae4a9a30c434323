// One run: loads its parts, keeps them current from the live topic, and leaves nothing behind.

import { get, runPath } from "./api.js";
import { openIncidents } from "./badges.js";
import { ChartBoard } from "./board.js";
import { CommandTrail } from "./commands.js";
import { el, fill, throttle } from "./dom.js";
import { EventLog } from "./events.js";
import { configPanel } from "./facts.js";
import { RunHeader } from "./header.js";
import { IncidentPanel } from "./incidents.js";
import { notice } from "./notice.js";
import { RankPanel } from "./ranks.js";
import { Timeline } from "./timeline.js";

const EVENTS_SHOWN = 500;
const RETRY_MS = 3000;

export function runView({ main, live, setTitle }, id) {
  const view = new RunView(live, setTitle, id);
  fill(main, view.root);
  view.start();
  return () => view.stop();
}

class RunView {
  #stopped = false;

  constructor(live, setTitle, id) {
    Object.assign(this, { live, setTitle, id });
    this.message = el("div");
    this.trail = new CommandTrail(id);
    this.header = new RunHeader(id, (command) => this.trail.show(command));
    this.incidents = new IncidentPanel();
    this.timeline = new Timeline((incident) => this.incidents.reveal(incident));
    this.ranks = new RankPanel(id);
    this.board = new ChartBoard(id, (incident) => this.incidents.reveal(incident));
    this.events = new EventLog();
    this.facts = el("div", { class: "facts" });
    this.body = el("div", { hidden: true });
    fill(this.body, this.header.root, this.trail.root, this.incidents.root, this.timeline.root, this.ranks.root, this.board.root, this.events.root, this.facts);
    this.root = el("article", { class: "run", "aria-label": "Run" }, this.message, this.body);
    this.reload = throttle(() => this.load(), 2000);
  }

  async start() {
    this.timer = setInterval(() => this.header.tick(), 1000);
    while (!(await this.load()) && !this.#stopped) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    if (this.#stopped || !this.run) return;
    // The topic is named by the run's full id; the address may hold a prefix of it.
    this.unsubscribe = this.live.subscribe({ topic: "run", run: this.run.id }, (message) => this.hear(message));
  }

  // An address that ends in #incident-ID shows that incident, once.
  unfoldLinked() {
    const linked = /^#incident-(.+)$/.exec(location.hash);
    if (!linked || this.linked === linked[1]) return;
    this.linked = linked[1];
    setTimeout(() => this.incidents.reveal(this.linked));
  }

  stop() {
    this.#stopped = true;
    clearInterval(this.timer);
    this.reload.cancel();
    this.unsubscribe?.();
    this.ranks.stop();
    this.board.stop();
  }

  // True when there is nothing to try again: the run is shown, or there is no such run.
  async load() {
    const path = runPath(this.id);
    try {
      const [{ run }, { incidents }, { events }, { commands }] = await Promise.all([
        get(path),
        get("/incidents", { run: this.id, limit: 200 }),
        get(`${path}/events`, { limit: EVENTS_SHOWN }),
        get(`${path}/commands`),
      ]);
      if (this.#stopped) return true;
      fill(this.message);
      this.incidents.set(incidents);
      this.unfoldLinked();
      this.events.set(events);
      this.timeline.set(incidents, events);
      commands.forEach((command) => this.trail.show(command));
      fill(this.facts, configPanel("Config", run.config), configPanel("Environment", run.environment));
      this.show(run);
      this.body.hidden = false;
      await Promise.all([this.board.load(run), this.ranks.load().catch(() => {})]);
      return true;
    } catch (error) {
      if (!this.#stopped) fill(this.message, notice(error));
      return error.status >= 400 && error.status < 500;
    }
  }

  show(run) {
    // Live messages may leave out what only the detail carries.
    this.run = { ...this.run, ...run };
    this.header.show(this.run);
    this.timeline.show(this.run);
    this.board.show(this.run);
    this.setTitle(this.run.name || this.run.id, openIncidents(this.run));
  }

  hear(message) {
    switch (message.type) {
      case "points":
        this.board.extend(message.series);
        this.ranks.changed();
        break;
      case "run":
        this.show(message.run);
        this.ranks.changed();
        break;
      case "incident":
        this.incidents.apply(message.incident);
        this.timeline.apply(message.incident);
        this.board.changed();
        break;
      case "event":
        this.events.add(message.event);
        this.timeline.add(message.event);
        if (message.event.kind === "stage") this.board.changed();
        break;
      case "command":
        this.trail.show(message.command);
        break;
      case "behind":
      case "resumed":
        this.reload();
        this.board.changed();
        break;
      default:
    }
  }
}
