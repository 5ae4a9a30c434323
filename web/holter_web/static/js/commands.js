// What was asked of the training and how far it got: requested → delivered → acknowledged → done.

import { el, fill } from "./dom.js";
import { clock } from "./format.js";

const STAGES = ["requested", "delivered", "acknowledged", "done"];
const SHOWN = 3;
const NAMES = { stop: "Stop", checkpoint: "Checkpoint", dump: "Dump" };

export class CommandTrail {
  #commands = new Map();

  constructor() {
    this.list = el("ol", { class: "card trail" });
    this.root = el("section", { "aria-label": "Commands", "aria-live": "polite", hidden: true }, this.list);
  }

  show(command) {
    const known = this.#commands.get(command.id);
    // Answers and live messages race; a command never goes back.
    if (known && rank(command) < rank(known)) return;
    this.#commands.set(command.id, command);
    const latest = [...this.#commands.values()].sort((a, b) => b.requested_at - a.requested_at).slice(0, SHOWN);
    fill(this.list, latest.map(row));
    this.root.hidden = false;
  }
}

function rank(command) {
  return command.state === "failed" ? STAGES.length : STAGES.indexOf(command.state);
}

function row(command) {
  const reached = rank(command);
  const failed = command.state === "failed";
  const stages = failed ? [...STAGES.slice(0, 3), "failed"] : STAGES;
  return el(
    "li",
    { data: { command: command.name, state: command.state } },
    el("strong", {}, NAMES[command.name] ?? command.name),
    el("ol", { class: "stages" }, stages.map((stage, index) => step(stage, command, reached >= index || (failed && index === 3)))),
    command.result ? el("span", { class: "muted result" }, command.result) : null,
  );
}

function step(stage, command, reached) {
  const at = command[`${stage === "failed" ? "done" : stage}_at`];
  return el("li", { data: { stage, reached: String(reached) } }, stage, reached && at ? el("time", { class: "muted" }, clock(at)) : null);
}
