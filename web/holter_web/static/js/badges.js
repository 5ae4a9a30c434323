// State and health as words with a colour and a shape, never as a colour alone.

import { el, setData, setText } from "./dom.js";
import { HEALTH_TONES, STATE_TONES } from "./format.js";

export function stateBadge(state) {
  return showState(el("span", { class: "badge" }), state);
}

export function showState(badge, state) {
  setText(badge, state ?? "–");
  setData(badge, "tone", STATE_TONES[state] ?? "quiet");
  setData(badge, "state", state ?? "");
  return badge;
}

export function healthBadge(health) {
  return showHealth(el("span", { class: "badge" }), health);
}

export function showHealth(badge, health) {
  setText(badge, health ?? "–");
  setData(badge, "tone", HEALTH_TONES[health] ?? "quiet");
  return badge;
}

export function openIncidents(run) {
  const open = run.open_incidents ?? {};
  return (open.critical ?? 0) + (open.warning ?? 0);
}

export function openText(run) {
  const { critical = 0, warning = 0, info = 0 } = run.open_incidents ?? {};
  const parts = [critical && `${critical} critical`, warning && `${warning} warning`, info && `${info} info`];
  return parts.filter(Boolean).join(", ") || "none";
}

export function progressBar(run) {
  const bar = el("i");
  const track = el("div", { class: "progress", "aria-hidden": "true" }, bar);
  return { track, show: (now) => showProgress(track, bar, now) };
}

function showProgress(track, bar, run) {
  track.hidden = !run.planned_steps;
  if (!run.planned_steps) return;
  bar.style.width = `${Math.min(100, (100 * (run.last_step ?? 0)) / run.planned_steps)}%`;
}
