// What the agent has kept for an incident: the flight recorder's last steps, the stacks of a training that hangs.
// Both are long, so they are fetched when somebody unfolds them.

import { get, runPath } from "./api.js";
import { el, fill, setText } from "./dom.js";
import { integer } from "./format.js";
import { notice } from "./notice.js";
import { loadPlotly, onTheme, theme } from "./plotly.js";

const NORMS = { gradient: "Gradients", weight: "Weights" };
const COPIED_MS = 1600;

// A sentence for the head of the card, one for each thing that was kept.
export function sentences({ flight, stacks }) {
  return [flight, stacks].filter(Boolean).map(({ text }) => el("span", { class: "incident-sentence" }, text));
}

// The folds of one incident. A panel that was made before is taken again, so that a card may be redrawn around it.
export function captureFolds({ run, flight, stacks }, panels) {
  const known = (captured, make) => {
    if (!captured) return null;
    const key = `${run} ${captured.event}`;
    if (!panels.has(key)) panels.set(key, make(run, captured));
    return panels.get(key);
  };
  return [known(flight, flightFold), known(stacks, stacksFold)];
}

function fold(kind, title, load) {
  const body = el("div", { class: "capture-body" });
  const root = el("details", { class: "evidence capture", data: { kind } }, el("summary", {}, title), body);
  let loaded = false;
  root.addEventListener("toggle", async () => {
    if (!root.open || loaded) return;
    loaded = true;
    try {
      await load(body);
    } catch (error) {
      loaded = false; // unfolding it again tries again
      fill(body, notice(error));
    }
  });
  return root;
}

const eventPath = (run, { event }) => `${runPath(run)}/events/${encodeURIComponent(event)}`;

// --- stacks ------------------------------------------------------------------------------------------------------

function stacksFold(run, stacks) {
  return fold("stacks", "Stacks", async (body) => {
    const { event } = await get(eventPath(run, stacks));
    const text = String(event.data?.stacks ?? "");
    const head = el("div", { class: "capture-head" }, el("span", { class: "capture-title" }, "Where each Python thread stood"), text ? copyButton("Copy", text) : null);
    fill(body, head, text ? el("pre", { class: "stacks-text", tabindex: "0", "aria-label": "Stacks" }, text) : el("p", { class: "muted" }, "No stacks came with it."));
  });
}

// --- flight ------------------------------------------------------------------------------------------------------

function flightFold(run, flight) {
  return fold("flight", "Flight recorder", async (body) => {
    const map = new HeatMap(run, flight);
    fill(body, map.root, batch(flight.batch), fullRecord(flight));
    await map.draw();
  });
}

class HeatMap {
  #norm = "gradient";
  #asked = 0;

  constructor(run, flight) {
    this.path = `${eventPath(run, flight)}/figure`;
    this.buttons = Object.entries(NORMS).map(([norm, name]) => el("button", { type: "button", "aria-pressed": String(norm === this.#norm), onclick: () => this.#choose(norm) }, name));
    this.key = el("span", { class: "capture-key muted" }, el("i", { "aria-hidden": "true" }), "not finite");
    this.plot = el("div", { class: "heat", role: "img", "aria-label": "Norm of each tensor at each step" });
    this.note = el("p", { class: "muted", hidden: true });
    const head = el("div", { class: "capture-head" }, el("span", { class: "capture-title" }, "Norm of each tensor, step by step"), this.key, el("span", { class: "segments" }, this.buttons));
    this.root = el("div", { class: "capture-map" }, head, this.plot, this.note);
    const forget = onTheme(() => (this.root.isConnected ? this.draw().catch(() => {}) : forget()));
  }

  #choose(norm) {
    this.#norm = norm;
    Object.keys(NORMS).forEach((name, index) => this.buttons[index].setAttribute("aria-pressed", String(name === norm)));
    this.draw().catch((error) => this.#say(error.message));
  }

  async draw() {
    const asked = ++this.#asked;
    const width = this.plot.clientWidth || 800;
    const [Plotly, { data, layout }] = await Promise.all([loadPlotly(), get(this.path, { norm: this.#norm, theme: theme(), width })]);
    if (asked !== this.#asked) return;
    const { layers, steps } = layout.meta;
    const empty = layers === 0 || steps === 0;
    this.plot.hidden = empty;
    this.#say(empty ? "The recorder kept no norms." : "");
    if (empty) return;
    await Plotly.react(this.plot, data, { ...layout, autosize: true }, { displayModeBar: false, responsive: true, showTips: false });
  }

  #say(text) {
    setText(this.note, text);
    this.note.hidden = !text;
  }
}

function batch(found) {
  const ids = Array.isArray(found?.ids) ? found.ids.map(String) : [];
  if (!ids.length && !found?.fingerprint) return null;
  const count = Number.isInteger(found.count) ? found.count : ids.length;
  const more = count - ids.length;
  const head = el(
    "div",
    { class: "capture-head" },
    el("span", { class: "capture-title" }, Number.isInteger(found.step) ? `Batch of step ${integer(found.step)}` : "Batch"),
    el("span", { class: "muted" }, `${integer(count)} example${count === 1 ? "" : "s"}${more > 0 && ids.length ? `, ${integer(ids.length)} of them here` : ""}`),
    ids.length ? copyButton("Copy ids", ids.join("\n")) : null,
  );
  const fingerprint = found.fingerprint ? el("p", { class: "muted" }, "fingerprint ", el("code", {}, found.fingerprint)) : null;
  return el("div", { class: "capture-batch" }, head, ids.length ? el("p", { class: "ids" }, ids.map((id) => el("code", {}, id))) : null, fingerprint);
}

function fullRecord({ file }) {
  if (typeof file !== "string" || !file) return null;
  return el("div", { class: "capture-batch" }, el("div", { class: "capture-head" }, el("span", { class: "capture-title" }, "Full record"), el("span", { class: "muted" }, "on the training's machine")), el("code", { class: "path" }, `holter.flight.load(${JSON.stringify(file)})`));
}

// --- copying -----------------------------------------------------------------------------------------------------

function copyButton(name, text) {
  const button = el("button", {
    class: "button small",
    type: "button",
    onclick: async () => {
      const done = await copy(text);
      setText(button, done ? "Copied" : "Could not copy");
      setTimeout(() => setText(button, name), COPIED_MS);
    },
  }, name);
  return button;
}

// The clipboard interface is there on https and on this machine only; a page on another host copies a selection.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "visually-hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
