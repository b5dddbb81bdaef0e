// A WebSocket that comes back by itself. It knows the network and the clock, nothing of the page.
//
// Its delays double and are jittered, so that a thousand browsers do not return to a restarted server in the same
// instant; it tries at once when there is reason to hope: the network came back, the tab is looked at.

const FIRST_DELAY = 1_000; // ms; each delay is between one half and the whole of its bound
const LONGEST_DELAY = 30_000; // ms
const CONNECT_TIMEOUT = 10_000; // ms; a network that swallows packets takes minutes
const STEADY_AFTER = 5_000; // ms; what ends sooner counts as a failure
const REPLACED = 4000; // close code: another tab took our place, and would lose it again

export class Connection {
	/** Is connecting, connected, waiting, reconnecting, closed or, until `retry`, replaced. */
	state;
	/** How long it is "waiting", in ms of `performance.now()`. */
	retryAt = 0;

	#url;
	#on;
	#socket;
	#failures = 0;
	#timer;
	#closed = new AbortController();

	/** `on.state()` is called when `state` has changed, `on.text(text)` with what the server says. */
	constructor(url, on) {
		this.#url = url;
		this.#on = on;
		const { signal } = this.#closed;
		const hope = () => this.state === "waiting" && this.retry();
		addEventListener("online", hope, { signal });
		addEventListener("pageshow", hope, { signal }); // the back-forward cache cuts sockets
		document.addEventListener("visibilitychange", () => document.hidden || hope(), { signal });
		this.state = "connecting";
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
		const socket = (this.#socket = new WebSocket(this.#url));
		this.#timer = setTimeout(() => socket.close(), CONNECT_TIMEOUT);
		let openedAt = Infinity;
		socket.onopen = () => {
			clearTimeout(this.#timer);
			openedAt = performance.now();
			this.#enter("connected");
		};
		socket.onmessage = ({ data }) => this.#on.text(data);
		socket.onclose = ({ code }) => {
			clearTimeout(this.#timer);
			if (performance.now() - openedAt >= STEADY_AFTER) this.#failures = 0;
			if (code === REPLACED) this.#enter("replaced");
			else this.#wait();
		};
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
