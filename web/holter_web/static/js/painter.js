// Draws live charts one after another and rests in between. A redraw by plotly costs 15 to 50 ms, so ten charts that
// each drew at their own pace would leave no time for scrolling; here drawing takes a third of the time at most.

const CHART_PAUSE_MS = 400;
const REST = 2; // times the cost of the last draw

export class Painter {
  #waiting = new Set();
  #drawnAt = new WeakMap();
  #timer = null;

  // Calls `chart.paint()` soon; asking again before it happened changes nothing.
  ask(chart) {
    this.#waiting.add(chart);
    this.#timer ??= setTimeout(() => requestAnimationFrame(() => this.#next()), this.#due(chart));
  }

  forget(chart) {
    this.#waiting.delete(chart);
  }

  #due(chart) {
    return Math.max(0, (this.#drawnAt.get(chart) ?? -Infinity) + CHART_PAUSE_MS - performance.now());
  }

  #next() {
    this.#timer = null;
    const [chart] = [...this.#waiting].sort((a, b) => this.#due(a) - this.#due(b));
    if (!chart) return;
    this.#waiting.delete(chart);
    const start = performance.now();
    chart.paint();
    const cost = performance.now() - start;
    this.#drawnAt.set(chart, performance.now());
    if (this.#waiting.size === 0) return;
    const soonest = Math.min(...[...this.#waiting].map((other) => this.#due(other)));
    this.#timer = setTimeout(() => requestAnimationFrame(() => this.#next()), Math.max(cost * REST, soonest));
  }
}
