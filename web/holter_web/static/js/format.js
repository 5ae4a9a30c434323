// Numbers, times and states as people read them.

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value.replace("-Infinity", "−∞").replace("Infinity", "+∞");
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+∞" : "−∞";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace("e+", "e").replace("-", "−");
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

export function integer(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US");
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined || typeof perSecond === "string" || perSecond <= 0) return "–";
  return perSecond < 0.5 ? `${number(1 / perSecond)} s/it` : `${number(perSecond)} it/s`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < MINUTE) return `${s} s`;
  if (s < HOUR) return `${Math.floor(s / MINUTE)} min ${s % MINUTE} s`;
  if (s < DAY) return `${Math.floor(s / HOUR)} h ${Math.floor((s % HOUR) / MINUTE)} min`;
  return `${Math.floor(s / DAY)} d ${Math.floor((s % DAY) / HOUR)} h`;
}

export function ago(time, now = Date.now() / 1000) {
  if (time === null || time === undefined) return "–";
  const s = now - time;
  if (s < 2) return "just now";
  if (s < MINUTE) return `${Math.floor(s)} s ago`;
  if (s < HOUR) return `${Math.floor(s / MINUTE)} min ago`;
  if (s < DAY) return `${Math.floor(s / HOUR)} h ago`;
  return `${Math.floor(s / DAY)} d ago`;
}

export function clock(time) {
  if (time === null || time === undefined) return "–";
  const date = new Date(time * 1000);
  const today = new Date().toDateString() === date.toDateString();
  const clockTime = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  return today ? clockTime : `${date.toLocaleDateString([], { month: "short", day: "numeric" })} ${clockTime}`;
}

export function plural(count, word) {
  return `${integer(count)} ${word}${count === 1 ? "" : "s"}`;
}

export const STATE_TONES = {
  running: "accent",
  finished: "quiet",
  stopped: "quiet",
  failed: "critical",
  lost: "critical",
  hung: "warning",
};

export const HEALTH_TONES = { healthy: "healthy", warning: "warning", critical: "critical" };

export function secondsLeft(run) {
  if (run.state !== "running" || !run.planned_steps || !run.steps_per_second) return null;
  const left = run.planned_steps - (run.last_step ?? 0);
  return left > 0 ? left / run.steps_per_second : null;
}
