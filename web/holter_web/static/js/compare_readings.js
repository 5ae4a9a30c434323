// The tree with the path that was taken, the honest reading beside it, and the knobs that follow.

import { el } from "./dom.js";

export function readings(found) {
  return el("div", { class: "compare-readings" }, tree(found), honest(found.honest));
}

function tree(found) {
  const taken = new Map(found.literal.path.map((step) => [step.node, step]));
  const names = new Map(found.outcomes.map((outcome) => [outcome.id, outcome.say]));
  const ends = (id) => names.get(id) ?? `go on: ${found.tree.find((node) => node.id === id)?.question ?? id}`;
  const item = (node) => {
    const step = taken.get(node.id);
    const branch = (answer, target) => el("li", { class: "branch", data: { taken: String(step?.answer === answer) } }, el("b", {}, answer), ` → ${ends(target)}`);
    return el(
      "li",
      { class: "node", data: { taken: String(Boolean(step)) }, "aria-current": step ? "step" : null },
      el("p", { class: "question" }, node.question, step ? el("span", { class: "visually-hidden" }, " (on the path)") : null),
      step ? el("p", { class: "muted" }, step.because) : null,
      el("ul", {}, branch("yes", node.then), branch("no", node.else)),
    );
  };
  return el(
    "section",
    { class: "card compare-tree", "aria-label": "Decision tree" },
    el("h2", {}, "The tree, literally"),
    el("ol", {}, found.tree.map(item)),
    el("p", { class: "end" }, el("b", {}, found.literal.verdict), `: ${found.literal.say}`),
  );
}

function honest(reading) {
  const leads = reading.leads.map((lead) => el("li", {}, el("b", {}, `${lead.criterion} ${lead.state.replace("_", " ")}`), ` → ${lead.outcomes.join(" / ")}`));
  return el(
    "section",
    { class: "card compare-honest", "aria-label": "Honest reading" },
    el("h2", {}, "The honest reading"),
    el("p", {}, el("b", {}, reading.verdict), `: ${reading.say}`),
    reading.vetoes.length ? el("p", {}, `Veto: ${reading.vetoes.join(", ")}`) : null,
    leads.length ? [el("h3", {}, "Which answer would lead where"), el("ul", {}, leads)] : null,
    reading.needs.length ? [el("h3", {}, "What would decide"), el("ul", {}, reading.needs.map((need) => el("li", {}, need)))] : null,
  );
}

export function knobs(found) {
  if (!found.length) return null;
  const item = (knob) => [
    el("h3", {}, `${knob.component}: ${knob.state}`),
    el("p", { class: "muted" }, knob.arithmetic),
    knob.advice.length ? el("ul", {}, knob.advice.map((advice) => el("li", {}, advice))) : null,
  ];
  return el("section", { class: "card compare-knobs", "aria-label": "Knobs" }, el("h2", {}, "Knobs"), found.flatMap(item));
}
