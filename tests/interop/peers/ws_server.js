// The server of `ws`, the WebSocket library of Node.

"use strict";

const { once } = require("node:events");
const { createServer } = require("node:http");
const { WebSocketServer } = require("ws");
require("./scenario.js");

const REASON = "bye, é";
const ended = new interop.Mailbox();

function fragments(ws, data, binary) {
  const third = Math.ceil(data.length / 3);
  for (const at of [0, third, 2 * third]) {
    ws.send(data.subarray(at, at + third), { binary, fin: at === 2 * third });
  }
}

async function play(ws, request) {
  const [, kind, rest] = request.url.split("/");
  ws.on("message", (data, binary) => {
    if (kind === "fragments") fragments(ws, data, binary);
    else ws.send(data, { binary });
  });
  if (kind === "close") {
    ws.close(Number(rest), REASON);
  } else if (kind === "end") {
    ws.on("close", (code, reason) => ended.put([code, reason.toString()]));
  } else if (kind === "seen") {
    ws.send(JSON.stringify(await ended.take()));
  } else if (kind === "ping") {
    ws.ping("ping");
    await once(ws, "pong");
    ws.send("pong");
  }
}

async function listen(bits) {
  const http = createServer();
  const server = new WebSocketServer({
    server: http,
    handleProtocols: (offered) => (offered.has("second") ? "second" : false),
    perMessageDeflate: bits ? { serverMaxWindowBits: bits, clientMaxWindowBits: bits } : true,
    verifyClient: ({ req }, answer) => answer(req.url !== "/refuse", 403),
  });
  server.on("connection", play);
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return `ws://127.0.0.1:${http.address().port}`;
}

(async () => {
  const listening = {};
  for (const bits of ["", 9, 10, 11, 12, 13, 14, 15]) listening[bits] = await listen(bits);
  console.log(JSON.stringify(listening));
})();
