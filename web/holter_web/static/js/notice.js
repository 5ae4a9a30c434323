import { el } from "./dom.js";

// What went wrong, and what to do: the service's own words.
export function notice(error) {
  return el("p", { class: "notice error", role: "alert" }, error.message, error.hint ? el("span", { class: "hint" }, error.hint) : null);
}
