// The list of messages as it is seen: where it is scrolled to, how long it gets, what has not been read.
//
// What comes is added once a frame, so that a flood costs no more than its frames. The log scrolls from its end: at 0
// it follows by itself, what is added at the top moves nothing, what is added below a reader is made up for.

const LONGEST_LIST = 500; // list items
const LONGEST_READ = 2_000; // while someone reads further up
const BURST = 3; // list items a frame; more are neither animated nor read out

const log = document.querySelector("#log");
const list = document.querySelector("#messages");
const newest = document.querySelector("#newest");
let title, atTop, due;
let queue = [];
let scrolledUp = false; // kept, for asking lays out the page
let unread = 0;

/** Start anew; `onTop` is called with the first message's id when someone nears it. */
export function clear(newTitle, onTop) {
	title = newTitle;
	atTop = onTop;
	queue = [];
	list.replaceChildren();
	toEnd();
}

/** Add an item at the end, before those that are pending unless it is one. */
export function append(item, isNews) {
	queue.push(item);
	if (isNews && (scrolledUp || document.hidden)) unread++;
	if (queue.length > LONGEST_LIST || item.matches(".pending")) flush();
	else due ||= document.hidden ? setTimeout(flush, 250) : requestAnimationFrame(flush);
}

/** Add items at the top. */
export function prepend(items) {
	list.ariaLive = "off";
	list.prepend(...items);
	for (const item of list.children) group(item);
	look();
}

/** Move an item that is pending no longer to where it stands for everyone. */
export function settle(item) {
	flush();
	item.classList.remove("pending");
	if (item.matches(".pending ~ *")) list.querySelector(".pending").before(item);
}

export function look() {
	scrolledUp = log.scrollTop < -1;
	if (!scrolledUp && !document.hidden) unread = 0;
	const first = list.querySelector("[data-id]");
	if (first && log.scrollHeight + log.scrollTop - log.clientHeight < 400) atTop(Number(first.dataset.id));
	show();
}

function flush() {
	due = 0;
	if (queue.length === 0) return;
	const burst = queue.length > BURST;
	list.ariaLive = burst ? "off" : "polite";
	const height = scrolledUp && list.clientHeight;
	const pending = list.querySelector(".pending");
	for (const item of queue) {
		item.classList.toggle("still", burst);
		list.insertBefore(item, item.matches(".pending") ? null : pending);
		group(item);
	}
	queue = [];
	if (scrolledUp) log.scrollTop -= list.clientHeight - height;
	while (list.childElementCount > (scrolledUp ? LONGEST_READ : LONGEST_LIST)) list.firstChild.remove();
	group(list.firstChild);
	show();
}

/** Name a sender once above what he says in a row. */
function group(item) {
	const { by } = item.dataset;
	item.classList.toggle("follows", !!by && by === item.previousSibling?.dataset.by);
}

function show() {
	const words = unread ? `(${unread}) ${title}` : title;
	if (document.title !== words) document.title = words;
	newest.hidden = !scrolledUp;
	newest.textContent = unread ? `${unread} new ↓` : "Newest ↓";
}

export function toEnd() {
	log.scrollTop = 0;
	look();
}

log.onscroll = look;
newest.onclick = () => {
	toEnd();
	log.focus();
};
document.onvisibilitychange = () => {
	flush();
	look();
};
