// Who is told of incidents, and what became of each delivery.

import { get, post, remove } from "./api.js";
import { confirm } from "./confirm.js";
import { el, fill } from "./dom.js";
import { clock } from "./format.js";
import { notice } from "./notice.js";

const TONES = { delivered: "healthy", failed: "critical", pending: "accent", sending: "accent" };
const REFRESH_MS = 3000;

export function webhooksView({ main, setTitle }) {
  setTitle("Webhooks");
  const message = el("div");
  const hooks = el("div", { class: "incidents" });
  const deliveries = el("tbody");
  const table = el("div", { class: "card table-card" }, el("table", {}, el("thead", {}, el("tr", {}, ["Created", "Webhook", "Type", "State", "Attempts", "Last answer", ""].map((name) => el("th", { scope: "col" }, name)))), deliveries));
  fill(main, el("section", { class: "stack", "aria-label": "Webhooks" }, el("h1", {}, "Webhooks"), message, form(added), hooks, el("h2", {}, "Deliveries"), table));

  async function load() {
    try {
      const [{ webhooks }, { deliveries: sent }] = await Promise.all([get("/webhooks"), get("/deliveries", { limit: 100 })]);
      const names = new Map(webhooks.map((hook) => [hook.id, hook.name || hook.url]));
      fill(hooks, webhooks.length ? webhooks.map((hook) => hookCard(hook, act)) : el("p", { class: "muted" }, "No webhook yet."));
      fill(deliveries, sent.length ? sent.map((delivery) => deliveryRow(delivery, names, act)) : el("tr", {}, el("td", { colspan: 7, class: "muted" }, "Nothing has been sent.")));
    } catch (error) {
      fill(message, notice(error));
    }
  }

  async function act(work) {
    fill(message);
    try {
      await work();
    } catch (error) {
      fill(message, notice(error));
    }
    await load();
  }

  function added(webhook) {
    fill(message, el("p", { class: "card notice" }, "Signing secret of the new webhook, shown only now: ", el("code", {}, webhook.secret)));
    load();
  }

  load();
  const timer = setInterval(load, REFRESH_MS);
  return () => clearInterval(timer);
}

function form(added) {
  const url = el("input", { type: "url", required: true, placeholder: "https://example.org/hook", "aria-label": "Address" });
  const name = el("input", { placeholder: "Name (optional)", "aria-label": "Name" });
  const severity = el("select", { "aria-label": "Least severity" }, ["warning", "critical", "info"].map((value) => el("option", { value }, `${value} and worse`)));
  const problem = el("div");
  const submit = async (event) => {
    event.preventDefault();
    fill(problem);
    try {
      const { webhook } = await post("/webhooks", { url: url.value, name: name.value, min_severity: severity.value });
      url.value = name.value = "";
      added(webhook);
    } catch (error) {
      fill(problem, notice(error));
    }
  };
  return el("form", { class: "card hook-form", onsubmit: submit }, el("div", { class: "filters" }, url, name, severity, el("button", { class: "button primary" }, "Add webhook")), problem);
}

function hookCard(hook, act) {
  const path = `/webhooks/${encodeURIComponent(hook.id)}`;
  const ask = async () => {
    const yes = await confirm({ title: "Remove this webhook?", text: `Nothing more is sent to ${hook.url}.`, action: "Remove" });
    if (yes) await act(() => remove(path));
  };
  return el(
    "div",
    { class: "card hook" },
    el("div", {}, el("strong", {}, hook.name || hook.url), el("p", { class: "muted" }, `${hook.url} · ${hook.min_severity} and worse${hook.project ? ` · ${hook.project} only` : ""}`)),
    el("div", { class: "actions" }, el("button", { class: "button small", onclick: () => act(() => post(`${path}/test`)) }, "Send a test"), el("button", { class: "button small danger", onclick: ask }, "Remove")),
  );
}

function deliveryRow(delivery, names, act) {
  const again = () => act(() => post(`/deliveries/${encodeURIComponent(delivery.id)}/redeliver`));
  return el(
    "tr",
    {},
    el("td", { class: "muted" }, clock(delivery.created_at)),
    el("td", {}, names.get(delivery.webhook) ?? delivery.webhook),
    el("td", {}, delivery.type),
    el("td", {}, el("span", { class: "badge", data: { tone: TONES[delivery.state] ?? "quiet" } }, delivery.state)),
    el("td", {}, String(delivery.attempts)),
    el("td", { class: "muted" }, delivery.last_error ?? delivery.last_status ?? "–"),
    el("td", {}, delivery.state === "failed" || delivery.state === "delivered" ? el("button", { class: "button small", onclick: again }, "Send again") : null),
  );
}
