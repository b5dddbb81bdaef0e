// A WebSocket that comes back by itself. It knows the network and the clock, nothing of the page.
//
// Its delays double and are jittered, lest a thousand browsers return to a restarted server at once. It does not
// wait when there is hope: the network came back, the tab is looked at.

const FIRST_DELAY = 1_000; // ms; a delay is between one half and all of its bound
const LONGEST_DELAY = 30_000; // ms
const CONNECT_TIMEOUT = 10_000; // ms; where packets vanish it takes minutes
const STEADY_AFTER = 1_000; // ms; what ends sooner counts as a failure
const REPLACED = 4000; // close code: another tab has our place

export class Connection {
	/** Is connecting, connected, waiting, reconnecting, closed or, until `retry`, replaced. */
	state = "connecting";
	/** How long it is "waiting", in ms of `performance.now()`. */
	retryAt = 0;
	/** Why the server lets nobody in; may be empty. */
	refused;

	#path;
	#on;
	#socket;
	#failures = 0;
	#timer;
	#closed = new AbortController();

	/** `on.state()` is called when `state` has changed, `on.text(text)` with what the server says. */
	constructor(path, on) {
		this.#path = path;
		this.#on = on;
		const { signal } = this.#closed;
		const hope = () => this.state === "waiting" && this.retry();
		addEventListener("online", hope, { signal });
		// A page that is left may be kept, but not with its socket.
		addEventListener("pagehide", () => this.state === "replaced" || this.restart(), { signal });
		addEventListener("pageshow", hope, { signal });
		document.addEventListener("visibilitychange", () => document.hidden || hope(), { signal });
		this.#connect();
	}

	/** Send a text, or return false: there is no connection. */
	send(text) {
		if (this.#socket.readyState !== WebSocket.OPEN) return false;
		this.#socket.send(text);
		return true;
	}

	/** Try again now, unless there is a connection or an attempt. */
	retry() {
		if (this.state !== "waiting" && this.state !== "replaced") return;
		this.#enter("reconnecting");
		this.#connect();
	}

	restart() {
		this.#drop();
		this.#wait();
	}

	close() {
		this.#closed.abort();
		this.#drop();
		this.state = "closed";
	}

	#drop() {
		clearTimeout(this.#timer);
		const socket = this.#socket;
		socket.onopen = socket.onmessage = socket.onclose = null;
		socket.close();
	}

	#connect() {
		clearTimeout(this.#timer);
		const url = new URL(this.#path, location).href.replace("http", "ws"); // also below a prefix
		const socket = (this.#socket = new WebSocket(url));
		this.#timer = setTimeout(() => socket.close(), CONNECT_TIMEOUT);
		socket.onopen = () => {
			clearTimeout(this.#timer);
			this.#timer = setTimeout(() => (this.#failures = 0), STEADY_AFTER);
			this.refused = undefined;
			this.#enter("connected");
		};
		socket.onmessage = ({ data }) => this.#on.text(data);
		socket.onclose = ({ code }) => {
			clearTimeout(this.#timer);
			if (this.state !== "connected") this.#ask();
			if (code === REPLACED) this.#enter("replaced");
			else this.#wait();
		};
	}

	/** Browsers do not say why. */
	async #ask() {
		const socket = this.#socket;
		const answer = await fetch(this.#path).catch(() => {});
		const why = answer?.status === 503 ? await answer.text() : answer && "";
		if (socket !== this.#socket || this.state !== "waiting") return;
		this.refused = why;
		this.#on.state();
	}

	#wait() {
		const bound = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures++);
		const delay = bound * (0.5 + Math.random() / 2);
		this.retryAt = performance.now() + delay;
		this.#timer = setTimeout(() => this.retry(), delay);
		this.#enter("waiting");
	}

	#enter(state) {
		this.state = state;
		this.#on.state();
	}
}
