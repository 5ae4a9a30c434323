// One chart: drawn from the service's figure once it is in sight, then extended point by point.

import { figurePath, get } from "./api.js";
import { el, fill, setText, throttle } from "./dom.js";
import { Legend } from "./legend.js";
import { append, decoded } from "./points.js";
import { loadPlotly, theme, touch } from "./plotly.js";

const REFETCH_MS = 1500;
const NOTE_CHARACTER = 5.4; // px
const GROWTH = 1500; // points appended to a trace before the service is asked for a thinner view
const BUCKETS = 480; // buckets asked for; each may give its first, last, least and largest point

export class Chart {
  #visible = false;
  #drawn = false;
  #stale = true;
  #loading = false;
  #again = false;
  #waiting = []; // live pieces not yet drawn
  #appended = 0;
  #stopped = false;

  constructor(board, figure) {
    this.board = board;
    this.title = el("h3");
    this.legend = new Legend((series, shown) => this.#toggle(series, shown));
    this.wide = el("button", { class: "icon-button", "aria-label": "Widen", title: "Widen", "aria-pressed": "false", onclick: () => this.#widen() }, "⤢");
    this.plot = el("div", { class: "plot", role: "img" });
    this.note = el("p", { class: "plot-note muted", hidden: true });
    this.eachRank = false;
    this.rankButton = el("button", { class: "ranks-chip", hidden: true, "aria-pressed": "false", title: "Show each rank", onclick: () => this.#showRanks() });
    this.root = el("figure", { class: "card chart" }, el("figcaption", {}, this.title, this.legend.root, this.rankButton, this.wide), this.plot, this.note);
    this.refetch = () => {
      this.#stale = true;
      this.#fetchSoon();
    };
    this.fetchSoon = throttle(() => this.#fetch(), REFETCH_MS);
    this.describe(figure);
  }

  describe(figure) {
    const grown = this.figure && figure.metrics.length !== this.figure.metrics.length;
    this.figure = figure;
    this.metrics = new Set(figure.metrics);
    setText(this.title, figure.title);
    this.plot.setAttribute("aria-label", `Chart of ${figure.metrics.join(", ")}`);
    this.root.dataset.figure = figure.name;
    if (grown) this.refetch();
  }

  stop() {
    this.#stopped = true;
    this.board.painter.forget(this);
    this.fetchSoon.cancel();
    if (this.#drawn) window.Plotly.purge(this.plot);
  }

  see(visible) {
    this.#visible = visible;
    if (visible && this.#stale) this.#fetchSoon();
  }

  wake() {
    if (this.#stale) this.#fetchSoon();
  }

  #fetchSoon() {
    if (this.#visible) this.fetchSoon();
  }

  // --- drawing ---------------------------------------------------------------------------------------------------

  async #fetch() {
    if (this.#loading) {
      this.#again = true;
      return;
    }
    this.#loading = true;
    this.#stale = false;
    this.#waiting = []; // the answer holds them; what arrives from now on is appended to it
    const { x } = this.board;
    const params = { x, theme: theme(), width: Math.min(BUCKETS, this.plot.clientWidth || BUCKETS), ...(this.eachRank ? { ranks: true } : {}), ...(this.board.smooth ? { smooth: this.board.smooth } : {}), ...this.#window() };
    try {
      const [Plotly, figure] = await Promise.all([loadPlotly(), get(figurePath(this.board.id, this.figure.name), params)]);
      if (!this.#stopped) await this.#draw(Plotly, figure);
      this.note.hidden = true;
    } catch (error) {
      setText(this.note, error.message);
      this.note.hidden = false;
    } finally {
      this.#loading = false;
    }
    if (this.#again) {
      this.#again = false;
      this.refetch();
    }
    if (this.#waiting.length) this.board.painter.ask(this);
  }

  // The zoomed part with a margin, so that lines run on to the edges of the chart.
  #window() {
    if (!this.board.zoom || !this.meta) return {};
    const [from, to] = this.board.zoom.map((value) => inService(this.meta, value));
    const margin = (to - from) / 4;
    return { from: Math.floor(from - margin), to: Math.ceil(to + margin) };
  }

  async #draw(Plotly, { data, layout }) {
    for (const trace of data) {
      // Live points are pushed onto them.
      trace.x = Array.from(decoded(trace.x));
      trace.y = Array.from(decoded(trace.y));
      if (this.legend.hides(trace.meta)) trace.visible = false;
    }
    Object.assign(layout, { showlegend: false, height: this.#height, autosize: true });
    // The page has the legend and the title; above the curve stand only the names of stages.
    layout.yaxis.fixedrange = true;
    Object.assign(layout.yaxis, this.#scale);
    layout.dragmode = touch ? false : "zoom";
    this.meta = layout.meta;
    this.rankButton.hidden = !(layout.meta.ranks > 1);
    setText(this.rankButton, `${layout.meta.ranks} ranks`);
    const range = this.#range();
    layout.xaxis.range = range;
    layout.xaxis.autorange = false;
    stretchBands(layout.shapes, range[1]);
    fitNotes(layout, this.plot.clientWidth);
    await Plotly.react(this.plot, data, layout, { displayModeBar: false, responsive: true, showTips: false, doubleClick: false });
    this.#appended = 0;
    if (!this.#drawn) this.#listen();
    this.#drawn = true;
    this.legend.show(data);
  }

  #listen() {
    this.plot.on("plotly_relayout", (change) => {
      const from = change["xaxis.range[0]"];
      const to = change["xaxis.range[1]"];
      if (from !== undefined && to !== undefined) this.board.setZoom([toNumber(from), toNumber(to)]);
    });
    this.plot.on("plotly_doubleclick", () => this.board.setZoom(null));
    this.plot.on("plotly_click", ({ points }) => {
      const at = points.find((point) => point.data.meta?.role === "incidents");
      if (at) this.board.reveal(at.data.meta.ids[at.pointIndex]);
    });
  }

  get #height() {
    return this.root.classList.contains("wide") ? 420 : 210;
  }

  #widen() {
    const wide = this.root.classList.toggle("wide");
    this.wide.setAttribute("aria-pressed", String(wide));
    if (this.#drawn) window.Plotly.relayout(this.plot, { height: this.#height, autosize: true });
    this.refetch();
  }

  #showRanks() {
    this.eachRank = !this.eachRank;
    this.rankButton.setAttribute("aria-pressed", String(this.eachRank));
    this.refetch();
  }

  #toggle({ metric, writer }, shown) {
    const indices = this.plot.data.flatMap((trace, index) => (trace.meta.metric === metric && trace.meta.writer === writer ? [index] : []));
    window.Plotly.restyle(this.plot, { visible: shown }, indices);
  }

  // --- range -----------------------------------------------------------------------------------------------------

  #range() {
    if (this.board.zoom) return this.board.zoom;
    const [from, to] = this.board.span;
    const { x, origin, x_scale: scale } = this.meta;
    const [low, high] = x === "step" ? [from, to] : x === "time" ? [from * 1000, to * 1000] : [(from - origin) / scale, (to - origin) / scale];
    return [low, high + (high - low) * 0.012];
  }

  stretch() {
    if (this.#drawn && this.#visible && !this.board.zoom) this.board.painter.ask(this);
  }

  zoomed() {
    if (this.#drawn && this.#visible) window.Plotly.relayout(this.plot, { "xaxis.range": this.#range() });
    this.refetch();
  }

  get #scale() {
    return this.board.log ? { type: "log", tickformat: "~g" } : { type: "linear", tickformat: "" };
  }

  setLog() {
    if (this.#drawn) window.Plotly.relayout(this.plot, { "yaxis.type": this.#scale.type, "yaxis.tickformat": this.#scale.tickformat });
  }

  // --- live ------------------------------------------------------------------------------------------------------

  extend(piece) {
    if (!this.metrics.has(piece.metric)) return;
    // A tab in the background draws nothing; it asks for the whole picture when it is looked at again.
    if (!this.#visible || !this.#drawn || document.hidden) {
      this.#stale = true;
      if (this.#loading) this.#waiting.push(piece);
      return;
    }
    this.#waiting.push(piece);
    this.board.painter.ask(this);
  }

  // Appends what has arrived since, in one draw; the painter says when.
  paint() {
    if (!this.#drawn || this.#loading || this.#stopped) return;
    if (!this.#visible) {
      this.#stale ||= this.#waiting.length > 0;
      this.#waiting = [];
      return;
    }
    const pieces = this.#waiting;
    this.#waiting = [];
    // A zoomed chart shows a part at its own resolution: the newest points are not in it.
    if (this.board.zoom) return;
    let added = 0;
    let missing = false;
    for (const piece of pieces) {
      // A mean over ranks is the service's to make: one rank's point says nothing of it.
      const count = this.meta.across?.includes(piece.metric) ? null : append(this.plot.data, this.meta, piece);
      if (count === null) missing = true;
      else added += count;
    }
    this.legend.update(pieces);
    this.#appended += added;
    if (this.#stretched() || added) window.Plotly.redraw(this.plot);
    // A moving average is the service's to make, too: it knows every point.
    if (missing || this.#appended > GROWTH || (added && this.board.smooth)) this.refetch();
  }

  #stretched() {
    const { layout } = this.plot;
    const range = this.#range();
    if (range[1] === layout.xaxis.range[1]) return false;
    layout.xaxis.range = range;
    stretchBands(layout.shapes, range[1]);
    fitNotes(layout, this.plot.clientWidth);
    return true;
  }
}

// What is still going on reaches to the newest point.
function stretchBands(shapes, end) {
  for (const shape of shapes ?? []) if (shape.name?.endsWith(" open")) shape.x1 = end;
}

// A stage's name is shown where its stage is wide enough for it; the timeline names them all.
function fitNotes({ annotations = [], xaxis, margin }, width) {
  const [low, high] = xaxis.range;
  const perUnit = (width - margin.l - margin.r) / (high - low);
  const notes = annotations.filter((note) => note.name === "stage");
  notes.forEach((note, index) => {
    const end = Math.min(high, notes[index + 1]?.x ?? high);
    note.visible = (end - Math.max(low, note.x)) * perUnit > note.text.length * NOTE_CHARACTER + 8;
  });
}

// A place on the axis in the unit in which the service counts it: steps, seconds UTC, or seconds since the start.
function inService({ x, x_scale: scale }, value) {
  if (x === "step") return value;
  return x === "time" ? value / 1000 : value * scale;
}

function toNumber(value) {
  return typeof value === "number" ? value : Date.parse(`${value.replace(" ", "T")}Z`);
}
