// What the run is and how it stands, and the two things one can ask of it.

import { post, runPath } from "./api.js";
import { progressBar, showHealth, showState } from "./badges.js";
import { confirm } from "./confirm.js";
import { el, fill, setText } from "./dom.js";
import { ago, clock, duration, integer, rate, secondsLeft } from "./format.js";
import { notice } from "./notice.js";

const STOP = {
  title: "Stop this training?",
  text: "It ends at its next step, and what has been logged is kept. It can't be started again from here.",
  action: "Stop the training",
};

export class RunHeader {
  constructor(id, onCommand) {
    this.id = id;
    this.onCommand = onCommand;
    this.project = el("a", { class: "muted", href: "/" });
    this.name = el("h1");
    this.state = el("span", { class: "badge" });
    this.health = el("span", { class: "badge" });
    this.tags = el("span", { class: "tags" });
    this.reason = el("p", { class: "muted reason", hidden: true });
    this.checkpoint = el("button", { class: "button", onclick: () => this.ask("checkpoint") }, "Checkpoint");
    this.stop = el("button", { class: "button danger", onclick: () => this.askStop() }, "Stop");
    this.actions = el("div", { class: "actions" }, this.checkpoint, this.stop);
    this.message = el("div");
    this.tiles = Object.fromEntries(["Step", "Speed", "Time left", "Elapsed", "Last seen", "Attempt"].map((name) => [name, tile(name)]));
    this.progress = progressBar();
    this.started = el("dd", { class: "since muted" });
    this.tiles.Elapsed.node.append(this.started);
    this.tiles.Step.node.append(this.progress.track);
    this.root = el(
      "header",
      { class: "run-head" },
      el(
        "div",
        { class: "run-title" },
        el("div", { class: "names" }, this.project, el("div", { class: "title-line" }, this.name, this.state, this.health, this.tags), this.reason),
        this.actions,
      ),
      this.message,
      el("dl", { class: "tiles card" }, Object.values(this.tiles).map((entry) => entry.node)),
    );
  }

  show(run) {
    this.run = run;
    setText(this.project, run.project);
    this.project.href = `/?project=${encodeURIComponent(run.project)}`;
    setText(this.name, run.name || run.id);
    showState(this.state, run.state);
    showHealth(this.health, run.health);
    fill(this.tags, (run.tags ?? []).map((tag) => el("span", { class: "tag" }, tag)));
    this.reason.hidden = !run.state_reason;
    setText(this.reason, run.state_reason ?? "");
    const alive = run.state === "running" || run.state === "hung";
    this.stop.disabled = this.checkpoint.disabled = !alive;
    this.actions.hidden = !alive;
    this.tiles["Time left"].node.hidden = !alive;
    this.#tile("Step", run.planned_steps ? `${integer(run.last_step ?? 0)} / ${integer(run.planned_steps)}` : integer(run.last_step));
    this.progress.show(run);
    this.#tile("Speed", rate(run.steps_per_second));
    this.#tile("Attempt", integer(run.attempt ?? 1));
    this.tiles.Attempt.node.hidden = !(run.attempt > 1);
    this.tick();
  }

  tick() {
    const { run } = this;
    if (!run) return;
    const left = secondsLeft(run);
    this.#tile("Time left", left === null ? "–" : `about ${duration(left)}`);
    this.#tile("Last seen", ago(run.last_seen_at));
    const end = run.finished_at ?? (run.state === "running" ? Date.now() / 1000 : run.last_seen_at);
    this.#tile("Elapsed", duration(end - run.started_at));
    setText(this.started, `since ${clock(run.started_at)}`);
  }

  #tile(name, text) {
    setText(this.tiles[name].value, text);
  }

  async askStop() {
    if (await confirm(STOP)) await this.ask("stop");
  }

  async ask(name) {
    fill(this.message);
    try {
      const { command } = await post(`${runPath(this.id)}/commands`, { name, args: {} });
      this.onCommand(command);
    } catch (error) {
      fill(this.message, notice(error));
    }
  }
}

function tile(name) {
  const value = el("dd");
  return { value, node: el("div", { class: "tile" }, el("dt", {}, name), value) };
}
