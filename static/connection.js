// A WebSocket that comes back by itself. It knows the network and the clock, nothing of the page.
//
// Events: "state" whenever `state` changed, "text" with one text of the server as its detail.
// Lost connections are tried again after delays that double and are jittered, so that a thousand browsers do
// not return to a restarted server in the same instant; at once when there is reason to hope: the network came
// back, the tab is looked at again, or someone called `retry`.

const FIRST_DELAY = 1_000; // ms; each delay is between one half and the whole of its bound
const LONGEST_DELAY = 30_000; // ms
const CONNECT_TIMEOUT = 10_000; // ms; a network that swallows packets would take minutes to say so
const STEADY_AFTER = 5_000; // ms; a connection that ends sooner counts as a failure, or we would hammer the server

export class Connection extends EventTarget {
  /** "connecting", "connected", "waiting" (for `retryAt`) or "reconnecting". */
  state = "connecting";
  /** When the next attempt starts while "waiting", in ms of `performance.now()`. */
  retryAt = 0;

  #url;
  #socket = null;
  #failures = 0;
  #retryTimer = 0;

  constructor(url) {
    super();
    this.#url = url;
    addEventListener("online", () => this.retry());
    addEventListener("pageshow", () => this.retry()); // back from the back-forward cache, which cuts sockets
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.retry();
    });
    this.#connect("connecting");
  }

  /** Send a text. False: there is no connection, and nothing was sent. */
  send(text) {
    if (this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  /** Try again now instead of waiting. Without effect in any other state. */
  retry() {
    if (this.state === "waiting") this.#connect("reconnecting");
  }

  #connect(state) {
    clearTimeout(this.#retryTimer);
    const socket = new WebSocket(this.#url);
    const giveUp = setTimeout(() => socket.close(), CONNECT_TIMEOUT);
    let openedAt = Infinity;
    socket.onopen = () => {
      clearTimeout(giveUp);
      openedAt = performance.now();
      this.#enter("connected");
    };
    socket.onmessage = ({ data }) => this.dispatchEvent(new CustomEvent("text", { detail: data }));
    socket.onclose = () => {
      clearTimeout(giveUp);
      if (performance.now() - openedAt >= STEADY_AFTER) this.#failures = 0;
      this.#wait();
    };
    this.#socket = socket;
    this.#enter(state);
  }

  #wait() {
    const bound = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures++);
    const delay = bound * (0.5 + Math.random() / 2);
    this.retryAt = performance.now() + delay;
    this.#retryTimer = setTimeout(() => this.retry(), delay);
    this.#enter("waiting");
  }

  #enter(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
