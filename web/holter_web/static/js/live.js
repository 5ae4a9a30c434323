// One socket for the whole tab. Subscriptions survive a lost connection: they are sent again, and their handlers are
// told to ask the REST view for what they missed.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
const PING_MS = 20_000;

export class Live {
  #socket = null;
  #subscriptions = new Map();
  #listeners = new Set();
  #tries = 0;
  #count = 0;
  #behindUntil = 0;
  #everOpen = false;
  #timer = null;
  status = "connecting";

  constructor(url) {
    this.url = url;
    this.#open();
    setInterval(() => this.#send({ type: "ping" }), PING_MS);
    // A laptop that wakes, or a network that returns, should not wait for the back-off.
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#hurry());
  }

  // Calls `handler` with every message of the topic, and with {type: "resumed"} after a gap. Returns the way to stop.
  subscribe(topic, handler) {
    const id = `s${++this.#count}`;
    this.#subscriptions.set(id, { topic, handler });
    this.#send({ type: "subscribe", id, ...topic });
    return () => {
      this.#subscriptions.delete(id);
      this.#send({ type: "unsubscribe", id });
    };
  }

  onStatus(listener) {
    this.#listeners.add(listener);
    listener(this.status);
    return () => this.#listeners.delete(listener);
  }

  #tell(status) {
    if (status === this.status) return;
    this.status = status;
    for (const listener of this.#listeners) listener(status);
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #open() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = () => socket === this.#socket && this.#lost();
  }

  #opened() {
    this.#tries = 0;
    this.#tell("live");
    const again = this.#everOpen;
    this.#everOpen = true;
    for (const [id, { topic, handler }] of this.#subscriptions) {
      this.#send({ type: "subscribe", id, ...topic });
      if (again) handler({ type: "resumed" });
    }
  }

  #lost() {
    this.#socket = null;
    this.#tell("reconnecting");
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#tries++);
    this.#timer = setTimeout(() => this.#open(), wait * (0.5 + Math.random() / 2));
  }

  #hurry() {
    if (this.#timer !== null) this.#open();
  }

  #receive(message) {
    if (message.type === "behind") this.#behind();
    this.#subscriptions.get(message.id)?.handler(message);
  }

  #behind() {
    this.#tell("behind");
    this.#behindUntil = performance.now() + 2500;
    setTimeout(() => {
      if (this.status === "behind" && performance.now() >= this.#behindUntil) this.#tell("live");
    }, 2600);
  }
}
