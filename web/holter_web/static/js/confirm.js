import { el } from "./dom.js";

// Asks before something that can't be undone. Resolves to true or false.
export function confirm({ title, text, action }) {
  return new Promise((resolve) => {
    const dialog = el(
      "dialog",
      { "aria-label": title },
      el("h2", {}, title),
      el("p", {}, text),
      el(
        "div",
        { class: "actions" },
        el("button", { class: "button", onclick: () => dialog.close("no") }, "Cancel"),
        el("button", { class: "button danger solid", onclick: () => dialog.close("yes") }, action),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
