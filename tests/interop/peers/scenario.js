// What a client in JavaScript plays; scenario.py says what each cell is, and what the server does on which path.
//
// `play(connect, urls, cells, tell)`: `connect(url, {subprotocols, window})` resolves to a connection with
// `subprotocol`, `send`, `receive`, `sendFragments`, `ping`, `close(code, reason)` and `closed()`, or throws
// `{refused: status}`; `codes` are those that its library lets a client close with. `whatwg(WebSocket)` is such a
// connect for what browsers have. The file is a plain script, for a page and for Node.

"use strict";

globalThis.interop = (() => {
  const TEXT = "grüße, €, \u{1f600}";
  const REASON = "bye, é";
  const WINDOWS = [9, 10, 11, 12, 13, 14, 15];
  const ALL_CODES = [1000, 1001, 1008, 1011, 3000, 4999];

  function message() {
    let number = 1;
    const text = [];
    for (const bits of WINDOWS) {
      for (let blocks = 1 << (15 - bits); blocks > 0; blocks -= 1) {
        let block = "";
        for (let at = 0; at < 3 << (bits - 2); at += 1) {
          number = (number * 75 + 74) % 65537;
          block += "abcdefghijklmnop"[Math.floor(number / 16) % 16];
        }
        text.push(block, block);
      }
    }
    return text.join("");
  }

  const bytes = (times) => Uint8Array.from({ length: 256 * times }, (_, at) => at % 256);

  function plain(value) {
    return value instanceof Uint8Array ? `bytes ${value.length} ${value.join(",")}` : JSON.stringify(value);
  }

  function expect(found, wanted) {
    if (plain(found) !== plain(wanted)) {
      throw new Error(`${plain(found)?.slice(0, 80)} instead of ${plain(wanted).slice(0, 80)}`);
    }
  }

  async function play(connect, urls, cells, tell) {
    const open = (path, options = {}) => connect(urls[""] + path, options);

    async function echo(path, ...messages) {
      const connection = await open(path);
      for (const sent of messages) {
        connection.send(sent);
        expect(await connection.receive(), sent);
      }
      await connection.close(1000, "");
    }

    async function wire(connection) {
      connection.send("wire");
      return JSON.parse(await connection.receive());
    }

    async function compressed(ways) {
      const text = message();
      const sizes = { client: [], server: [] };
      for (const [url, window] of ways) {
        const connection = await connect(`${url}/wire`, { window });
        const before = await wire(connection);
        connection.send(text);
        expect(await connection.receive(), text);
        const after = await wire(connection);
        sizes.client.push(after[0] - before[0]);
        sizes.server.push(after[1] - before[1]);
        await connection.close(1000, "");
      }
      return sizes;
    }

    const plays = {
      text: () => echo("/echo", TEXT),
      binary: () => echo("/echo", bytes(1)),
      empty: () => echo("/echo", "", new Uint8Array()),
      large: () => echo("/echo", bytes(4096), "é".repeat(1 << 19)),
      server_fragments: () => echo("/fragments", TEXT.repeat(40), bytes(1)),
      asked: () => compressed(WINDOWS.map((bits) => [urls[""], bits])),
      given: () => compressed(WINDOWS.map((bits) => [urls[bits], undefined])),
      async client_fragments() {
        const connection = await open("/echo");
        connection.sendFragments(["Zwölf ", "Boxkämpfer", " jagen Viktor"]);
        expect(await connection.receive(), "Zwölf Boxkämpfer jagen Viktor");
        await connection.close(1000, "");
      },
      async subprotocol() {
        const connection = await open("/echo", { subprotocols: ["first", "second"] });
        expect(connection.subprotocol, "second");
        await connection.close(1000, "");
        const other = await open("/echo");
        expect(other.subprotocol, "");
        await other.close(1000, "");
      },
      async client_ping() {
        const connection = await open("/echo");
        await connection.ping();
        await connection.close(1000, "");
      },
      async server_ping() {
        const connection = await open("/ping");
        expect(await connection.receive(), "pong");
        await connection.close(1000, "");
      },
      async client_close() {
        for (const code of connect.codes ?? ALL_CODES) {
          await (await open("/end")).close(code, REASON);
          const connection = await open("/seen");
          expect(JSON.parse(await connection.receive()), [code, REASON]);
          await connection.close(1000, "");
        }
      },
      async server_close() {
        for (const code of ALL_CODES) {
          expect(await (await open(`/close/${code}`)).closed(), [code, REASON]);
        }
      },
      async refusal() {
        try {
          await open("/refuse");
        } catch (error) {
          expect(error.refused, connect.refusal ?? 403);
          return;
        }
        throw new Error("the refusal was no error");
      },
    };

    for (const cell of cells) {
      const told = { cell };
      try {
        Object.assign(told, await plays[cell]());
      } catch (error) {
        told.problem = String(error?.stack ?? JSON.stringify(error));
      }
      tell(told);
    }
  }

  // Messages wait here until somebody receives them; `end` is an event of the connection's end.
  class Mailbox {
    #waiting = [];
    #takers = [];

    put(value) {
      const taker = this.#takers.shift();
      if (taker) taker(value);
      else this.#waiting.push(value);
    }

    take() {
      if (this.#waiting.length) return Promise.resolve(this.#waiting.shift());
      return new Promise((resolve) => this.#takers.push(resolve));
    }
  }

  function whatwg(WebSocket) {
    const connect = (url, { subprotocols = [] }) =>
      new Promise((resolve, reject) => {
        const ws = new WebSocket(url, subprotocols);
        const messages = new Mailbox();
        let closed;
        const end = new Promise((ended) => (closed = ended));
        ws.binaryType = "arraybuffer";
        ws.onmessage = ({ data }) => messages.put(typeof data === "string" ? data : new Uint8Array(data));
        ws.onclose = ({ code, reason }) => {
          closed([code, reason]);
          reject({ refused: code }); // after it was opened this says nothing any more
        };
        ws.onopen = () =>
          resolve({
            subprotocol: ws.protocol,
            send: (data) => ws.send(data),
            receive: () => messages.take(),
            close(code, reason) {
              ws.close(code, reason);
              return end;
            },
            closed: () => end,
          });
      });
    connect.codes = [1000, 3000, 4999]; // no others may be given to close()
    connect.refusal = 1006; // a page is not told the status
    return connect;
  }

  return { Mailbox, play, whatwg };
})();
