// Addresses to views. A view is a function (context, ...parameters) that returns the way to leave it.

export class Router {
  #routes;
  #leave = null;
  #shown = null;
  #show;

  constructor(routes, show) {
    this.#routes = routes;
    this.#show = show;
    addEventListener("popstate", () => location.pathname !== this.#shown && this.#render());
    document.addEventListener("click", (event) => this.#click(event));
  }

  start() {
    this.#render();
  }

  go(address) {
    if (address !== location.pathname + location.search) history.pushState(null, "", address);
    this.#render();
    scrollTo(0, 0);
  }

  #click(event) {
    const link = event.target.closest?.("a[href]");
    const plain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    if (!link || !plain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
    const url = new URL(link.href);
    const ours = url.origin === location.origin && this.#match(url.pathname);
    if (!ours || (url.hash && url.pathname === location.pathname)) return;
    event.preventDefault();
    this.go(url.pathname + url.search + url.hash);
  }

  #match(path) {
    for (const { pattern, name, view } of this.#routes) {
      const found = pattern.exec(path);
      if (found) return { name, view, parameters: found.slice(1).map(decodeURIComponent) };
    }
    return null;
  }

  #render() {
    this.#leave?.();
    this.#shown = location.pathname;
    const found = this.#match(location.pathname) ?? this.#match("/");
    this.#leave = this.#show(found);
  }
}
