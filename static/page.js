// The page: what is typed goes to the server, what the server says becomes one list item.
//
// Text of the server reaches the document as text nodes only. What was typed is never thrown away: it stays in
// the field when it cannot be sent, comes back to it when the connection broke before the answer, and outlives
// a reload.

import { Connection } from "./connection.js";

const LONGEST_LIST = 500; // list items; older ones go, so that a tab left open for a week stays quick
const NOT_CONNECTED = "Not connected. Your text stays here until it can be sent.";

const form = document.querySelector("#composer");
const field = document.querySelector("#messageText");
const hint = document.querySelector("#hint");
const log = document.querySelector("#log");
const messages = document.querySelector("#messages");
const status = document.querySelector("#status");
const [statusWords, countdown] = status.children;

const url = new URL("communicate", location.href); // beside the page, also behind a proxy that adds a prefix
url.protocol = url.protocol.replace("http", "ws"); // http: to ws:, https: to wss:
const connection = new Connection(url);

// Texts that were sent and not yet answered; the server answers each, in order, with `Received:` before it.
let unanswered = [];

let scrolledUp = false; // kept by an event, since asking the log would lay out the page for every message
log.addEventListener("scroll", () => (scrolledUp = log.scrollTop < 0), { passive: true });

connection.addEventListener("text", ({ detail: text }) => {
  if (text.startsWith("Received:")) unanswered.shift();
  addMessage(text);
});

connection.addEventListener("state", () => {
  if (connection.state === "connected") {
    // Other words stand until something is sent: they may hold a text that stands nowhere else.
    if (hint.textContent === NOT_CONNECTED) say(field.value ? "Connected again. Your text is still here." : "");
  } else if (unanswered.length > 0) {
    const lost = unanswered.join(" ");
    unanswered = [];
    if (field.value) {
      say(`The connection broke before the server answered “${lost}”.`);
    } else {
      write(lost);
      say("The connection broke before the server answered. Your text is back in the field.");
    }
  }
  showState();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value;
  if (!text) {
    say("Write something first.");
  } else if (connection.send(text)) {
    unanswered.push(text);
    write("");
    say("");
  } else {
    say(NOT_CONNECTED);
    connection.retry();
  }
  field.focus();
});

function addMessage(text) {
  const item = document.createElement("li");
  item.dir = "auto";
  item.dataset.time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  item.append(text);
  // The log counts from its end: at 0 it follows by itself, further up what is being read has to be held.
  const height = scrolledUp && messages.getBoundingClientRect().height;
  messages.append(item);
  if (scrolledUp) log.scrollTop -= messages.getBoundingClientRect().height - height;
  if (messages.childElementCount > LONGEST_LIST) messages.firstElementChild.remove();
}

function write(text) {
  field.value = text;
  keepDraft();
}

function keepDraft() {
  try {
    sessionStorage.setItem("draft", field.value);
  } catch {
    // A browser that is told to store nothing, or is full: then the draft lives as long as the page.
  }
}

function keptDraft() {
  try {
    return sessionStorage.getItem("draft") ?? "";
  } catch {
    return "";
  }
}

function say(words) {
  if (hint.textContent !== words) hint.textContent = words;
}

function showState() {
  const words = {
    connecting: "Connecting…",
    connected: "Connected",
    waiting: navigator.onLine ? "Reconnecting" : "No network, reconnecting",
    reconnecting: "Reconnecting…",
  }[connection.state];
  // Only what changed is written: every write to a live region may be read out.
  if (statusWords.textContent !== words) statusWords.textContent = words;
  const seconds = Math.max(1, Math.ceil((connection.retryAt - performance.now()) / 1_000));
  countdown.textContent = connection.state === "waiting" ? ` in ${seconds} s…` : "";
  status.dataset.state = connection.state;
}

field.addEventListener("input", keepDraft);
field.value ||= keptDraft(); // someone may have typed before this script came
showState();
setInterval(showState, 1_000);
if (matchMedia("(pointer: fine)").matches) field.focus(); // on a phone this would raise the keyboard
