// The client of `ws`, the WebSocket library of Node.

"use strict";

const { WebSocket } = require("ws");
require("./scenario.js");

function connect(url, { subprotocols = [], window }) {
  const limits = window ? { serverMaxWindowBits: window, clientMaxWindowBits: window } : {};
  const ws = new WebSocket(url, subprotocols, { perMessageDeflate: limits });
  const messages = new interop.Mailbox();
  const end = new Promise((ended) => ws.on("close", (code, reason) => ended([code, reason.toString()])));
  ws.on("message", (data, binary) => messages.put(binary ? new Uint8Array(data) : data.toString()));
  return new Promise((resolve, reject) => {
    ws.on("unexpected-response", (_, response) => {
      reject({ refused: response.statusCode });
      ws.terminate();
    });
    ws.on("error", reject);
    ws.on("open", () =>
      resolve({
        subprotocol: ws.protocol,
        send: (data) => ws.send(data),
        receive: () => messages.take(),
        sendFragments(pieces) {
          for (const [at, piece] of pieces.entries()) ws.send(piece, { fin: at === pieces.length - 1 });
        },
        ping() {
          const pong = new Promise((answered) => ws.once("pong", answered));
          ws.ping("ping");
          return pong;
        },
        close(code, reason) {
          ws.close(code, reason);
          return end;
        },
        closed: () => end,
      }),
    );
  });
}

const [urls, ...cells] = process.argv.slice(2);
interop.play(connect, JSON.parse(urls), cells, (told) => console.log(JSON.stringify(told)));
