// The list of messages as it is seen: where it is scrolled to, how long it gets, what has not been read.
//
// What comes is added once a frame, so that a flood costs no more than its frames. Who is at the end stays there,
// whatever grows or shrinks; for who reads further up nothing moves.

const LONGEST_LIST = 500; // list items
const LONGEST_READ = 2_000; // while someone reads further up
const BURST = 3; // list items a frame; more are neither animated nor read out

const [log, list, newest] = ["#log", "#messages", "#newest"].map((id) => document.querySelector(id));
let title, atTop, due;
let queue = [];
let scrolledUp = false; // kept, for asking lays out the page
let seenAt = 0; // scrollTop when it was asked last
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
	above(() => {
		list.prepend(...items);
		for (const item of list.children) group(item);
	});
	follow();
}

/** Move an item that is pending no longer to where it stands for everyone. */
export function settle(item) {
	flush();
	item.classList.remove("pending");
	if (item.matches(".pending ~ *")) list.querySelector(".pending").before(item);
}

function look() {
	const { scrollTop, scrollHeight, clientHeight } = log;
	// More below is not enough: it may have come just now.
	scrolledUp = scrollHeight - clientHeight - scrollTop > 2 && (scrolledUp || scrollTop < seenAt);
	seenAt = scrollTop;
	if (!scrolledUp && !document.hidden) unread = 0;
	const first = list.querySelector("[data-id]");
	if (first && scrollTop < 400) atTop(Number(first.dataset.id));
	show();
}

function flush() {
	due = 0;
	if (queue.length === 0) return;
	const burst = queue.length > BURST;
	list.ariaLive = burst ? "off" : "polite";
	const pending = list.querySelector(".pending");
	for (const item of queue) {
		item.classList.toggle("still", burst);
		list.insertBefore(item, item.matches(".pending") ? null : pending);
		group(item);
	}
	queue = [];
	above(() => {
		while (list.childElementCount > (scrolledUp ? LONGEST_READ : LONGEST_LIST)) list.firstChild.remove();
		group(list.firstChild);
	});
	show();
}

/** Change what is above a reader, who sees nothing move. */
function above(change) {
	const height = scrolledUp && log.scrollHeight;
	change();
	if (scrolledUp) log.scrollTop += log.scrollHeight - height;
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
	log.scrollTop = log.scrollHeight;
	look();
}

export function follow() {
	if (scrolledUp) look();
	else toEnd();
}

const observer = new ResizeObserver(follow);
for (const part of [log, list]) observer.observe(part);
log.onscroll = look;
newest.onclick = () => {
	toEnd();
	log.focus();
};
document.onvisibilitychange = () => {
	flush();
	look();
};
