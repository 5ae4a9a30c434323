// Starts the page: one live connection, one router, the status at the top.

import { compareView } from "./compare.js";
import { setText } from "./dom.js";
import { incidentsView } from "./inbox.js";
import { Live } from "./live.js";
import { Router } from "./router.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { webhooksView } from "./webhooks.js";

const main = document.getElementById("main");
const live = new Live(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`);

const WORDS = { connecting: "connecting", live: "live", reconnecting: "reconnecting", behind: "catching up" };
live.onStatus((status) => {
  const shown = document.getElementById("connection");
  shown.dataset.status = status;
  setText(shown, WORDS[status]);
});

// The tab says how many incidents are open, so that it can be watched from another one.
function setTitle(name, open = 0) {
  document.title = `${open ? `(${open}) ` : ""}${name} · Holter`;
  const icon = open ? "/static/favicon-alert.svg" : "/static/favicon.svg";
  const link = document.getElementById("favicon");
  if (link.getAttribute("href") !== icon) link.setAttribute("href", icon);
}

const routes = [
  { pattern: /^\/$/, name: "runs", view: runsView },
  { pattern: /^\/runs\/([^/]+)\/?$/, name: "runs", view: runView },
  { pattern: /^\/incidents\/?$/, name: "incidents", view: incidentsView },
  { pattern: /^\/compare\/?$/, name: "compare", view: compareView },
  { pattern: /^\/webhooks\/?$/, name: "webhooks", view: webhooksView },
];

const router = new Router(routes, ({ name, view, parameters }) => {
  for (const link of document.querySelectorAll("[data-nav]")) {
    if (link.dataset.nav === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  return view({ main, live, setTitle }, ...parameters);
});
router.start();
