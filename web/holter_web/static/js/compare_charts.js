// Figures of a comparison, drawn once they are in sight.

import { el, fill } from "./dom.js";
import { loadPlotly, touch } from "./plotly.js";

export class CompareCharts {
  #drawn = new Set();

  constructor() {
    this.root = el("div", { class: "compare-charts" });
    this.watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => this.#draw(entry.target)), { rootMargin: "200px" });
  }

  show(figures) {
    this.#clear();
    fill(this.root, figures.map((each) => {
      const plot = el("div", { class: "compare-plot", role: "img", "aria-label": `Chart of ${each.title}`, style: { minHeight: `${each.figure.layout.height}px` } });
      plot.figure = each.figure;
      this.watcher.observe(plot);
      return el("figure", { class: "card compare-chart", data: { figure: each.name } }, el("figcaption", {}, el("h3", {}, each.title)), plot);
    }));
  }

  stop() {
    this.watcher.disconnect();
    this.#clear();
  }

  #clear() {
    for (const plot of this.#drawn) window.Plotly?.purge(plot);
    this.#drawn.clear();
    this.watcher.disconnect();
  }

  async #draw(plot) {
    if (this.#drawn.has(plot)) return;
    this.#drawn.add(plot);
    const Plotly = await loadPlotly();
    if (!plot.isConnected) return;
    const { data, layout } = plot.figure;
    layout.dragmode = touch ? false : "zoom";
    await Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true, showTips: false });
  }
}
