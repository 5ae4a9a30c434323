// Incidents of all runs, newest first.

import { get } from "./api.js";
import { el, fill, throttle } from "./dom.js";
import { incidentCard } from "./incidents.js";
import { notice } from "./notice.js";

const SEVERITIES = ["critical", "warning", "info"];
const STATES = ["firing", "acknowledged", "resolved"];

export function incidentsView({ main, live, setTitle }) {
  const select = (name, all, values) =>
    el("select", { "aria-label": name, onchange: () => load() }, el("option", { value: "" }, all), values.map((value) => el("option", { value }, value)));
  const severity = select("severity", "Any severity", SEVERITIES);
  const state = select("state", "Any state", STATES);
  const list = el("div", { class: "incidents" });
  const head = el("div", { class: "page-head" }, el("h1", {}, "Incidents"), el("div", { class: "filters" }, severity, state));
  fill(main, el("section", { "aria-label": "Incidents" }, head, list));

  const captures = new Map(); // what was unfolded stays drawn
  let asked = 0;
  async function load() {
    const mine = ++asked;
    try {
      const { incidents } = await get("/incidents", { severity: severity.value, state: state.value, limit: 200 });
      if (mine !== asked) return;
      const firing = incidents.filter((incident) => incident.state === "firing" && incident.severity !== "info").length;
      setTitle("Incidents", firing);
      fill(list, incidents.length ? incidents.map((incident, index) => card(incident, index < 5, refresh, captures)) : nothing());
    } catch (error) {
      if (mine === asked) fill(list, notice(error));
    }
  }

  const refresh = throttle(load, 1500);
  load();
  const unsubscribe = live.subscribe({ topic: "runs" }, ({ type }) => {
    if (type === "incident" || type === "resumed" || type === "behind") refresh();
  });
  return () => {
    unsubscribe();
    refresh.cancel();
  };
}

function card(incident, unfolded, changed, captures) {
  const run = el("a", { href: `/runs/${encodeURIComponent(incident.run)}` }, incident.run_name || incident.run);
  return incidentCard(incident, { unfolded: unfolded && incident.state !== "resolved", changed, place: run, captures });
}

function nothing() {
  return el("div", { class: "card empty" }, el("h2", {}, "No incidents"), el("p", { class: "muted" }, "Nothing here is unhealthy. Incidents appear on this page and at your webhooks at the same moment."));
}
