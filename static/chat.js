// A person in a room of /chat, across lost connections. It knows the protocol, nothing of the page.
//
// Each message comes once and in order: a new connection names the last id that came, and gets what was missed.
// What is said stays in the outbox until it is confirmed, and is sent again with its client id, which counts once.

import { Connection } from "./connection.js";

const MOST_UNCONFIRMED = 32; // the server remembers as many
const SILENCE = 10_000; // ms without a word while a message waits: the connection is dead
const SECOND_TRY = 2_000; // ms until the server is asked again for what it could not do

export class Chat {
	/** Whether the server has let us into the room. */
	joined = false;
	people = new Set();

	#outbox;
	#on;
	#by; // the mark of our own messages; none until the server welcomes us
	#last; // the greatest id that came
	#oldest = 0; // the server has nothing before this id
	#asking = 0; // for what is older than this id
	#heardAt = 0;
	#timer;

	/** `outbox`: [{room, client, text}] of any rooms. `on`: a function for whatever happens. */
	constructor(path, { room, name, session, outbox }, on) {
		this.room = room;
		this.name = name; // until the server gives us one, perhaps with a number
		this.#outbox = outbox;
		this.#on = on;
		const text = (json) => this.#receive(JSON.parse(json));
		const state = () => {
			this.#by = undefined;
			this.#left();
			this.#send({ type: "hello", name, session, rooms: [{ room, last: this.#last }] });
		};
		this.connection = new Connection(path, { text, state });
	}

	get pending() {
		return this.#outbox.filter(({ room }) => room === this.room);
	}

	say(client, text) {
		this.#outbox.push({ room: this.room, client, text });
		this.#on.outbox();
		this.#flush();
	}

	typing() {
		if (this.joined) this.#send({ type: "typing", room: this.room });
	}

	/** Ask for what was said before an id, if there may be more. */
	older(before) {
		if (!this.joined || this.#asking || !(before > this.#oldest)) return;
		this.#asking = before;
		this.#send({ type: "history", room: this.room, before });
	}

	/** To be called every second. */
	tick() {
		const since = Math.max(this.#heardAt, this.pending[0]?.sentAt ?? Infinity);
		if (performance.now() - since > SILENCE) this.connection.restart();
	}

	close() {
		clearTimeout(this.#timer);
		this.connection.close();
	}

	#left() {
		clearTimeout(this.#timer);
		this.joined = false;
		this.#asking = 0;
		for (const entry of this.#outbox) delete entry.sentAt;
		this.#on.state();
	}

	#receive(message) {
		const { type, room = this.room, id, name } = message;
		this.#heardAt = performance.now();
		if (room !== this.room) return;
		if (type === "welcome") this.#by = message.by;
		else if (type === "gap") this.#on.gap();
		else if (type === "history") this.#history(message);
		else if (type === "message") this.#deliver("live", [message]);
		else if (type === "confirmed") this.#settle("confirmed", message);
		else if (type === "error") this.#failed(message);
		else if (type === "presence") this.#present(message);
		else if (type === "typing" && name !== this.name) this.#on.typing(name);
		if (type === "presence" || type === "typing") this.#last = id;
	}

	#history({ kind, more, messages }) {
		if (kind !== "missed" && !more) this.#oldest = messages[0]?.id ?? this.#asking;
		if (kind === "older") this.#asking = 0;
		this.#deliver(kind, messages);
	}

	#deliver(kind, messages) {
		const isOlder = kind === "older";
		if (!isOlder) messages = messages.filter(({ id }) => !(id <= this.#last));
		for (const message of messages) {
			message.own = message.by === this.#by;
			if (!isOlder) this.#last = message.id;
		}
		this.#on.messages(kind, messages);
		for (const message of messages) if (message.own && !isOlder) this.#settle("confirmed", message);
	}

	#present({ event, name, members, wanted }) {
		if (event === "members") {
			this.name = name;
			this.people = new Set(members);
			this.joined = true;
			this.#on.state();
			if (wanted) this.#on.renamed(wanted);
			this.#flush();
		} else {
			this.people[event === "joined" ? "add" : "delete"](name);
		}
		this.#on.people();
	}

	#failed(error) {
		if (error.code === "unavailable" || error.code === "not_joined") {
			this.#left();
			const join = { type: "join", room: this.room, last: this.#last };
			this.#timer = setTimeout(() => this.#send(join), SECOND_TRY);
		} else if (error.client) {
			this.#settle("rejected", error);
		} else {
			this.#on.refused(error.message);
			if (this.#by) return;
			this.close(); // it will not get better
			for (const { client } of this.pending) this.#settle("rejected", { ...error, client });
		}
	}

	/** Take out of the outbox what the server has decided on. */
	#settle(how, message) {
		const at = this.#outbox.findIndex(({ room, client }) => room === this.room && client === message.client);
		if (at < 0) return;
		this.#outbox.splice(at, 1);
		this.#on[how](message);
		this.#on.outbox();
		this.#flush();
	}

	#flush() {
		if (!this.joined) return;
		for (const entry of this.pending.slice(0, MOST_UNCONFIRMED)) {
			const { room, client, text } = entry;
			if (!entry.sentAt && this.#send({ type: "message", room, client, text })) entry.sentAt = performance.now();
		}
	}

	#send(message) {
		return this.connection.send(JSON.stringify(message));
	}
}
