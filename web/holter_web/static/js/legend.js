// The legend of a chart: a chip per line with its colour, name and newest value. A click hides the line.

import { el, fill, setData, setText } from "./dom.js";
import { number } from "./format.js";

const key = ({ metric, writer }) => JSON.stringify([metric, writer]);

export class Legend {
  #chips = new Map();
  #hidden = new Set();

  constructor(onToggle) {
    this.onToggle = onToggle;
    this.root = el("div", { class: "legend" });
  }

  hides(meta) {
    return meta?.metric !== undefined && this.#hidden.has(key(meta));
  }

  show(data) {
    const lines = data.filter((trace) => trace.meta?.role === "line");
    const latest = new Map();
    for (const trace of lines) latest.set(key(trace.meta), trace); // the newest attempt comes last
    const unchanged = latest.size === this.#chips.size && [...latest.keys()].every((name) => this.#chips.has(name));
    if (!unchanged) this.#build(latest);
    for (const [name, trace] of latest) {
      const chip = this.#chips.get(name);
      chip.swatch.style.background = trace.line.color;
      const markers = data.find((other) => other.meta?.role === "non_finite" && key(other.meta) === name && other.meta.attempt === trace.meta.attempt);
      showValue(chip.value, newest(trace, markers));
    }
  }

  #build(latest) {
    // A mean over ranks is drawn above its ranks, and so comes after them; in the legend it leads.
    const lines = [...latest].sort(([, a], [, b]) => Number(isMean(b.meta)) - Number(isMean(a.meta)));
    this.#chips = new Map(lines.map(([name, trace]) => [name, this.#chip(name, trace.meta)]));
    fill(this.root, [...this.#chips.values()].map((chip) => chip.node));
    this.root.classList.toggle("single", this.#chips.size === 1);
  }

  #chip(name, meta) {
    const swatch = el("i", { class: "swatch" });
    const value = el("b");
    const node = el("button", { class: "chip", title: meta.metric, "aria-pressed": String(!this.#hidden.has(name)) }, swatch, el("span", {}, meta.label), value);
    node.addEventListener("click", () => {
      const shown = this.#hidden.delete(name);
      if (!shown) this.#hidden.add(name);
      node.setAttribute("aria-pressed", String(shown));
      this.onToggle(meta, shown);
    });
    return { node, swatch, value };
  }

  // Live pieces: the newest value of each line.
  update(pieces) {
    for (const piece of pieces) {
      const chip = this.#chips.get(key(piece));
      if (chip && piece.values.length) showValue(chip.value, number(piece.values.at(-1)));
    }
  }
}

const isMean = ({ writer }) => writer.split("/")[0] === "ranks";

function showValue(node, text) {
  setText(node, text);
  setData(node, "odd", String(text === "NaN" || text.endsWith("∞")));
}

function newest(line, markers) {
  const { x, y } = line;
  let last = y.length - 1;
  while (last >= 0 && !Number.isFinite(y[last])) last--;
  const odd = markers?.x ?? [];
  if (odd.length && (last < 0 || odd[odd.length - 1] > x[last])) return number(markers.text.at(-1).split(" ")[0]);
  return last < 0 ? "–" : number(y[last]);
}
