// The page. In the room “echo”, which is /communicate, only the server answers; the others are those of /chat.
//
// Text of others becomes text nodes only. Field and outbox keep what was typed until the server has it.

import { Chat } from "./chat.js";
import { Connection } from "./connection.js";
import * as log from "./log.js";

const ECHO = "echo";
const TYPING_EVERY = 2_000; // ms
const TYPING_LASTS = 4_000; // ms
const MOST_BYTES = 4_096;
const NOT_CONNECTED = "Not connected. Your text stays here until it can be sent.";
const REFUSED = "The server is there, but lets nobody in here. Try “echo”.";

const $ = (id) => document.getElementById(id);
const clean = (name) => name.normalize().replace(/\s+/g, " ").trim();
const token = () => crypto.getRandomValues(new Uint32Array(3)).join("-"); // no randomUUID without TLS
const hashOf = (room) => `#${new URLSearchParams({ room })}`;
const [field, hint, nameField, roomField, status] = "messageText hint name room status".split(" ").map($);

const session = stored("session", "session") || token(); // who we are across reconnects; one a tab
const outbox = JSON.parse(stored("session", "outbox") || "[]");
const nameList = new Intl.ListFormat("en");
const typists = new Map(); // names, and until when
let place; // where we are: { connection, chat?, send(text): what is wrong }
let typedAt = -TYPING_EVERY;
let typingIsDue, peopleAreDue;

function enter() {
	const asked = new URLSearchParams(location.hash.slice(1)).get("room") ?? "";
	const room = clean(asked) || stored("local", "room") || ECHO;
	const name = clean(nameField.value);
	roomField.value = room;
	if (room !== ECHO && !name) {
		if (!place) open(ECHO);
		say(`Choose a name to join “${room}”.`);
		return nameField.focus();
	}
	stored("local", "name", name);
	stored("local", "room", room);
	history.replaceState(null, "", hashOf(room));
	say("");
	open(room, name);
	if (matchMedia("(pointer: fine)").matches) field.focus(); // a phone would raise its keyboard
}

function open(room, name) {
	(place?.chat ?? place?.connection)?.close();
	typists.clear();
	log.clear(room === ECHO ? "rawws" : `${room} · rawws`, (first) => place?.chat?.older(first));
	place = room === ECHO ? openEcho() : openChat(room, name);
	$("where").textContent = room;
	showPeople();
	showState();
}

function openEcho() {
	const unanswered = []; // the server answers each text, in order, with `Received:` before it
	function text(text) {
		if (text.startsWith("Received:")) unanswered.shift();
		log.append(listItem({ text, time: Date.now() }), true);
	}
	function state() {
		if (connection.state === "connected") {
			// Other words stay: they may hold a text that stands nowhere else.
			if (hint.textContent === NOT_CONNECTED) say(field.value ? "Connected again. Your text is still here." : "");
		} else if (unanswered.length > 0) {
			const lost = unanswered.splice(0).join(" ");
			const broke = "The connection broke before the server answered";
			say(field.value ? `${broke} “${lost}”.` : `${broke}. Your text is back in the field.`);
			if (!field.value) write(lost);
		}
		showState();
	}
	const connection = new Connection("communicate", { text, state });
	function send(text) {
		if (!connection.send(text)) return NOT_CONNECTED;
		unanswered.push(text);
	}
	return { connection, send };
}

function openChat(room, name) {
	const pending = new Map(); // list items by client id

	function showPending({ client, text }) {
		const item = listItem({ text, own: true });
		item.classList.add("pending");
		pending.set(client, item);
		log.append(item);
	}
	function confirmed({ client, id, time }) {
		const item = pending.get(client);
		if (item) log.settle(stamp(item, id, time));
		return pending.delete(client);
	}
	const chat = new Chat("chat", { room, name, session, outbox }, {
		state: showState,
		confirmed,
		messages(kind, messages) {
			if (kind === "older") return log.prepend(messages.map(listItem));
			for (const message of messages) {
				if (typists.delete(message.name)) showTyping();
				if (!message.own || !confirmed(message)) log.append(listItem(message), !message.own && kind !== "recent");
			}
			if (kind === "recent") requestAnimationFrame(log.follow);
		},
		rejected({ client, message }) {
			const item = pending.get(client);
			item.classList.replace("pending", "rejected");
			item.dataset.time = `Not sent. ${message}`;
		},
		gap: () => log.append(element("li", { className: "note" }, "Messages may be missing here.")),
		people: () => (peopleAreDue ||= requestAnimationFrame(showPeople)),
		typing(who) {
			typists.set(who, performance.now() + TYPING_LASTS);
			showTyping();
		},
		renamed: (wanted) => say(`“${wanted}” is taken here: you are “${chat.name}”.`),
		refused: say,
		outbox: () => stored("session", "outbox", JSON.stringify(outbox)),
	});
	chat.pending.forEach(showPending);

	function send(text) {
		if (chat.connection.state === "closed") return NOT_CONNECTED;
		const { length } = new TextEncoder().encode(text);
		if (length > MOST_BYTES) return `Too long by ${length - MOST_BYTES} bytes.`;
		const client = token();
		showPending({ client, text });
		log.toEnd();
		chat.say(client, text);
	}
	return { connection: chat.connection, chat, send };
}

function listItem({ text, name, own, by, id, time }) {
	const item = element("li", { dir: "auto", className: own ? "own" : "" });
	if (own || name) item.append(element("bdi", { className: "by" }, own ? "You" : name));
	if (by) item.dataset.by = by + name;
	item.append(...linked(text));
	return stamp(item, id, time);
}

function stamp(item, id, time) {
	const dateStyle = Date.now() - time < 43_200_000 ? undefined : "medium"; // 12 h
	item.dataset.time = time ? new Date(time).toLocaleString([], { dateStyle, timeStyle: "short" }) : "Sending…";
	if (id) item.dataset.id = id;
	return item;
}

/** Split a text into strings and links, which end before what cannot be seen or ends a sentence. */
function linked(text) {
	const parts = text.split(/(\bhttps?:\/\/[^\s\p{C}<>"]*[^\s\p{C}<>"'.,:;!?)\]}’”])/iu);
	const link = (href) => element("a", { href, target: "_blank", rel: "noopener noreferrer" }, href);
	return parts.map((part, index) => (index % 2 ? link(part) : part));
}

function showPeople() {
	const { chat } = place;
	peopleAreDue = 0;
	const names = [...(chat?.people ?? [])];
	const count = names[1] ? `${names.length} people` : names[0] && "1 person";
	$("count").textContent = chat ? count : "Only the server";
	const item = (name) => element("li", {}, element("bdi", {}, name), name === chat.name ? " (you)" : "");
	$("people").replaceChildren(...names.map(item));
}

function showTyping() {
	const names = [...typists.keys()].map((name) => `\u2068${name}\u2069`); // isolated
	const who = names.length > 3 ? "Several people" : nameList.format(names);
	$("typing").textContent = who && `${who} ${names.length > 1 ? "are" : "is"} typing…`;
}

function tellTyping() {
	typingIsDue = 0;
	if (!field.value) return;
	typedAt = performance.now();
	place.chat?.typing();
}

function showState() {
	const { chat, connection } = place;
	const { state, retryAt, refused } = connection;
	const outside = chat?.joined === false;
	const empty = chat ? "Nobody has said anything here yet." : "Say hello: the server sends it back.";
	$("empty").textContent = outside ? "" : empty;
	const closed = refused === undefined ? "" : `${REFUSED} ${refused}`;
	const words = {
		connecting: "Connecting…",
		connected: outside ? "Joining…" : "Connected",
		waiting: closed ? "Refused, reconnecting" : navigator.onLine ? "Reconnecting" : "No network, reconnecting",
		reconnecting: "Reconnecting…",
		replaced: "Open in another tab",
		closed: "Not connected",
	}[state];
	const [statusWords, countdown] = status.children;
	say(words, statusWords);
	if (closed || hint.textContent.startsWith(REFUSED)) say(closed);
	const seconds = Math.max(1, Math.ceil((retryAt - performance.now()) / 1_000));
	countdown.textContent = state === "waiting" ? ` in ${seconds} s…` : "";
	status.dataset.words = words;
}

function say(words, where = hint) {
	if (where.textContent !== words) where.textContent = words; // each write may be read out
}

function element(kind, properties, ...children) {
	const made = Object.assign(document.createElement(kind), properties);
	made.append(...children);
	return made;
}

function write(text) {
	field.value = text;
	stored("session", "draft", text);
}

/** Keep a value, if there is one, in a storage; return what is kept. */
function stored(where, key, value) {
	try {
		const storage = window[`${where}Storage`];
		if (value !== undefined) storage.setItem(key, value);
		return storage.getItem(key) ?? "";
	} catch {
		return ""; // none, or full
	}
}

$("composer").onsubmit = (event) => {
	event.preventDefault();
	const problem = field.value.trim() ? place.send(field.value) : "Write something first.";
	say(problem ?? "");
	if (!problem) write("");
	place.connection.retry();
	field.focus();
};
field.onkeydown = (event) => {
	if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
	event.preventDefault();
	field.form.requestSubmit();
};
field.oninput = () => {
	stored("session", "draft", field.value);
	typingIsDue ||= setTimeout(tellTyping, typedAt + TYPING_EVERY - performance.now());
};
$("choice").onsubmit = (event) => {
	event.preventDefault();
	history.pushState(null, "", hashOf(clean(roomField.value)));
	enter();
};
onhashchange = enter;

stored("session", "session", session);
nameField.value ||= stored("local", "name"); // typed before this script came
field.value ||= stored("session", "draft");
enter();
setInterval(() => {
	for (const [name, until] of typists) if (until < performance.now()) typists.delete(name);
	showTyping();
	showState();
	place.chat?.tick();
}, 1_000);
