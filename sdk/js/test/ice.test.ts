/** The ways to the node: the servers that the bridge names, their renewal, and the search for another path. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { SUBPROTOCOL } from "../src/wire.ts";
import { begin, FakeSocket, live, settle, WELCOME, type Stage } from "./fakes.ts";

const TURN = [{ urls: ["turn:t.example"], username: "1:s", credential: "c1" }];
const NEWER = [{ urls: ["turn:t.example"], username: "2:s", credential: "c2" }];
const OWN = [{ urls: "turn:own.example", username: "u", credential: "c" }];

let stage: Stage;
beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "setInterval"] }));
afterEach(() => {
  stage.session.close();
  mock.timers.reset();
});

async function welcomed(more: object, options = {}): Promise<Stage> {
  stage = await begin(options);
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell({ ...WELCOME, ...more });
  await settle();
  return stage;
}

async function liveV2(): Promise<Stage> {
  return (stage = await live({}, {}, true));
}

/** The newest socket opens, is welcomed, and has taken the session up. */
async function takenUp(received = 2, more: object = {}): Promise<void> {
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell({ ...WELCOME, ...more }, { type: "session_resume", session: "s", received });
  await settle();
}

const offers = (): number => stage.socket.types.filter((type) => type === "offer").length;

test("the bridge's servers are there before the first candidate is gathered, and the offer waits for nothing", async () => {
  await welcomed({ ice_servers: TURN });
  assert.deepEqual(stage.socket.types, ["CREDENTIAL", "session_start", "offer"]);
  assert.deepEqual(stage.peer.gatheredWith?.iceServers, TURN);
  assert.equal(stage.peer.gatheredWith?.iceTransportPolicy, "all");
});

test("relayed only, if the bridge wants it so", async () => {
  await welcomed({ ice_servers: TURN, ice_transport_policy: "relay" });
  assert.equal(stage.peer.gatheredWith?.iceTransportPolicy, "relay");
});

test("an app's own servers are there from the start, and where the bridge adds nothing, nothing is set again", async () => {
  await welcomed({}, { iceServers: OWN });
  assert.deepEqual(stage.peer.made.iceServers, OWN);
  assert.equal(stage.peer.configuration, stage.peer.made);
});

test("an app's own servers take their place, but the bridge's policy holds", async () => {
  await welcomed({ ice_servers: TURN, ice_transport_policy: "relay" }, { iceServers: OWN });
  assert.deepEqual(stage.peer.gatheredWith?.iceServers, OWN);
  assert.equal(stage.peer.gatheredWith?.iceTransportPolicy, "relay");
});

test("an app may be stricter than the bridge", async () => {
  await welcomed({ ice_servers: TURN }, { iceTransportPolicy: "relay" });
  assert.equal(stage.peer.gatheredWith?.iceTransportPolicy, "relay");
});

test("servers that the browser refuses are reported, and the session goes on without them", async () => {
  await welcomed({ ice_servers: [{ urls: "bad" }] });
  assert.deepEqual(stage.errors, ["bad_input"]);
  assert.notEqual(stage.peer.localDescription, null);
});

test("new credentials take the place of the old ones in mid-session, without another offer", async () => {
  await liveV2();
  stage.socket.tell({ type: "ice_servers", ice_servers: NEWER });
  assert.deepEqual(stage.peer.configuration.iceServers, NEWER);
  assert.equal(offers(), 1);
});

test("a new socket brings new credentials, too", async () => {
  await liveV2();
  stage.socket.drop(1006);
  mock.timers.tick(1000);
  await takenUp(2, { ice_servers: NEWER });
  assert.deepEqual(stage.peer.configuration.iceServers, NEWER);
  assert.equal(stage.session.state, "live");
});

test("an offer for another path that is not answered: the socket leads nowhere either", async () => {
  await liveV2();
  stage.peer.become("disconnected");
  await settle();
  assert.equal(offers(), 2);
  const older = stage.socket;
  mock.timers.tick(2_000);
  assert.equal(FakeSocket.made.length, 2);
  assert.equal(older.closedWith, null, "its Close frame would end the session, if it still leads anywhere");
  await takenUp();
  assert.equal(older.closedWith, 1000);
  assert.equal(stage.peer.restarts, 2, "the network may be another one than at the first offer");
  assert.equal(offers(), 2, "the one that was lost, and the new one");
  stage.socket.tell({ type: "answer", sdp: "to the first" });
  await settle();
  assert.deepEqual(stage.peer.applied, ["answer"], "it belongs to an offer that was replaced");
  stage.socket.tell({ type: "answer", sdp: "to the second" });
  await settle();
  assert.deepEqual(stage.peer.applied, ["answer", "to the second"]);
  stage.peer.become("connected");
  assert.equal(stage.session.state, "live");
  mock.timers.tick(60_000);
  assert.equal(FakeSocket.made.length, 2);
});

test("an answer in time leaves the socket alone", async () => {
  await liveV2();
  stage.peer.become("disconnected");
  await settle();
  stage.socket.tell({ type: "answer", sdp: "again" });
  await settle();
  mock.timers.tick(60_000);
  assert.equal(FakeSocket.made.length, 1);
});

test("a socket that cannot be replaced is left open: its Close frame would end what is live", async () => {
  await liveV2();
  const older = stage.socket;
  stage.peer.become("disconnected");
  await settle();
  stage.peer.become("connected");
  mock.timers.tick(2_000);
  for (let i = 0; i < 20; i++) {
    stage.socket.drop(1006);
    mock.timers.tick(20_000);
    await settle();
  }
  assert.equal(older.closedWith, null);
  assert.equal(stage.session.state, "live");
});

test("online again: another socket, and another path, before the old ones are found to be dead", async (t) => {
  const page = new EventTarget();
  const before = globalThis.addEventListener;
  globalThis.addEventListener = page.addEventListener.bind(page);
  t.after(() => (globalThis.addEventListener = before));
  await liveV2();
  page.dispatchEvent(new Event("online"));
  assert.equal(FakeSocket.made.length, 2);
  assert.equal(stage.session.state, "live");
  await takenUp();
  assert.equal(stage.peer.restarts, 1);
  assert.equal(offers(), 1);
  stage.session.close();
  page.dispatchEvent(new Event("online"));
  assert.equal(FakeSocket.made.length, 2);
});
