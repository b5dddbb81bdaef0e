// Node's own WebSocket.

"use strict";

require("./scenario.js");

const [urls, ...cells] = process.argv.slice(2);
const tell = (told) => console.log(JSON.stringify(told));

interop.play(interop.whatwg(WebSocket), JSON.parse(urls), cells, tell);
