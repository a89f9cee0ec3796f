// The bridge's work on Node and the `ws` package, written the usual way: the yardstick of the relay benchmark.
//
// It speaks docs/protocol.md for a static pool: CREDENTIAL, session_start, offer, answer and candidates with a client;
// REGISTER, heartbeat, session_state and session_end with a node. Keys come from the environment, as digests.
import { createHmac, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const PING_INTERVAL_MS = 20_000;
const AUTH_TIMEOUT_MS = 10_000;
const HEARTBEAT_S = 5;
const MAX_MESSAGE = 64 * 1024;

const secret = "benchmark";
const digest = (key) => createHmac("sha256", secret).update(key).digest("base64");
const clientKeys = new Map([[digest(process.env.CLIENT_KEY), { project: "TEST01" }]]);
const nodeKeys = new Map([[digest(process.env.NODE_KEY), { pool: "default" }]]);

const nodes = new Map(); // id -> { id, socket, capacity, sessions: Set, seen }
const sessions = new Map(); // id -> { id, socket, node, state }

const send = (socket, message) => socket.send(JSON.stringify(message));

/** The fullest node that has a free slot, so that whole nodes stay empty. */
function pickNode() {
  let best = null;
  for (const node of nodes.values()) {
    if (node.sessions.size >= node.capacity) continue;
    if (best === null || node.sessions.size > best.sessions.size) best = node;
  }
  return best;
}

function startSession(socket) {
  if (socket.session) return send(socket, { type: "node_status", status: "waiting" });
  const node = pickNode();
  if (node === null) return send(socket, { type: "node_status", status: "full" });
  const session = { id: randomUUID(), socket, node, state: "reserved" };
  sessions.set(session.id, session);
  node.sessions.add(session.id);
  socket.session = session;
  send(socket, { type: "node_status", status: "waiting" });
}

function endSession(session, reason) {
  sessions.delete(session.id);
  session.node.sessions.delete(session.id);
  if (session.state !== "reserved") send(session.node.socket, { type: "session_end", session: session.id, reason });
}

function authenticate(socket, message, keys, type) {
  if (message.type !== type || typeof message.payload?.credential !== "string") return null;
  return keys.get(digest(message.payload.credential)) ?? null;
}

function onClientMessage(socket, data) {
  const message = JSON.parse(data);
  if (socket.identity === null) {
    socket.identity = authenticate(socket, message, clientKeys, "CREDENTIAL");
    if (socket.identity === null) return socket.close(1008);
    clearTimeout(socket.authTimer);
    return send(socket, { type: "auth_success" });
  }
  const session = socket.session;
  switch (message.type) {
    case "session_start":
      return startSession(socket);
    case "offer":
      if (typeof message.sdp !== "string" || !session) break;
      session.state = "offered";
      return send(session.node.socket, { type: "offer", session: session.id, sdp: message.sdp });
    case "candidate":
      if (typeof message.candidate !== "object" || !session) break;
      return send(session.node.socket, { type: "candidate", session: session.id, candidate: message.candidate });
  }
  send(socket, { type: "error", message: `${message.type}: not expected` });
}

function register(socket, message) {
  const identity = authenticate(socket, message, nodeKeys, "REGISTER");
  const { node: id, capacity } = message.payload ?? {};
  if (identity === null || typeof id !== "string" || !Number.isInteger(capacity)) return socket.close(1008);
  socket.node = { id, socket, capacity, sessions: new Set(), seen: Date.now() };
  nodes.set(id, socket.node);
  clearTimeout(socket.authTimer);
  send(socket, { type: "registered", node: id, epoch: 1, heartbeat: HEARTBEAT_S });
}

function onNodeMessage(socket, data) {
  const message = JSON.parse(data);
  if (socket.node === null) return register(socket, message);
  if (message.type === "heartbeat") {
    socket.node.seen = Date.now();
    return;
  }
  const session = sessions.get(message.session);
  if (session === undefined || session.node !== socket.node) return; // it has just ended
  switch (message.type) {
    case "answer":
      session.state = "answered";
      return send(session.socket, { type: "answer", sdp: message.sdp });
    case "candidate":
      return send(session.socket, { type: "candidate", candidate: message.candidate });
    case "session_state":
      session.state = message.state;
      return;
    case "error":
      send(session.socket, { type: "error", message: message.message });
      return endSession(session, "error");
  }
}

/** Run a handler; what it throws (broken JSON, a message of the wrong shape) ends the socket that caused it. */
const guarded = (socket, handler) => (data) => {
  try {
    handler(socket, data);
  } catch {
    socket.close(1008);
  }
};

function accept(socket, handler) {
  socket.alive = true;
  socket.identity = socket.node = socket.session = null;
  socket.authTimer = setTimeout(() => socket.close(1008), AUTH_TIMEOUT_MS);
  socket.on("pong", () => (socket.alive = true));
  socket.on("message", guarded(socket, handler));
  socket.on("error", () => socket.terminate());
  socket.on("close", () => {
    clearTimeout(socket.authTimer);
    if (socket.session && sessions.has(socket.session.id)) endSession(socket.session, "closed");
    if (socket.node) nodes.delete(socket.node.id);
  });
}

const wss = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MAX_MESSAGE });
const handlers = { "/client": onClientMessage, "/node": onNodeMessage };
const server = createServer((_request, response) => response.writeHead(404).end());

server.on("upgrade", (request, socket, head) => {
  const handler = handlers[request.url];
  if (handler === undefined) return socket.destroy();
  wss.handleUpgrade(request, socket, head, (ws) => accept(ws, handler));
});

setInterval(() => {
  for (const socket of wss.clients) {
    if (!socket.alive) socket.terminate();
    socket.alive = false;
    socket.ping();
  }
}, PING_INTERVAL_MS);

server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 }, () => console.log("listening"));
