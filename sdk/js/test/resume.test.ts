import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { BridgeError } from "../src/index.ts";
import { SUBPROTOCOL, type FromBridge } from "../src/wire.ts";
import { begin, FakeSocket, KEY, live, settle, WELCOME, type Stage } from "./fakes.ts";

let stage: Stage;
let signaling: string[];
beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "setInterval"] }));
afterEach(() => {
  stage.session.close();
  mock.timers.reset();
});

async function liveV2(options = {}): Promise<Stage> {
  stage = await live(options, {}, true);
  signaling = [];
  stage.session.on("signaling", (word) => signaling.push(word));
  return stage;
}

/** The socket drops, and the next one opens and is welcomed. */
async function cut(code = 1006): Promise<void> {
  stage.socket.drop(code);
  mock.timers.tick(20_000);
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell({ type: "auth_success", session: "other", resume: "another token" });
}

test("the session is taken up on a new socket, with the count of what was taken", async () => {
  await liveV2();
  await cut();
  assert.equal(FakeSocket.made.length, 2);
  assert.deepEqual(stage.socket.sent, [
    { type: "CREDENTIAL", payload: { credential: KEY } },
    { type: "session_resume", resume: "token", received: 2 }, // node_status and answer
  ]);
  assert.deepEqual(signaling, ["lost"]);
  stage.socket.tell({ type: "session_resume", session: "s", received: 2 });
  assert.deepEqual(signaling, ["lost", "open"]);
  assert.equal(stage.session.state, "live");
  assert.deepEqual(stage.errors, []);
});

test("each socket is shown a token of its own; one that cannot be had now is asked for again", async () => {
  let asked = 0;
  let fails = false;
  const token = async (): Promise<string> => {
    asked += 1;
    if (fails) throw new Error("the back end is away");
    return `ek_${asked}`;
  };
  stage = await live({ token }, {}, true);
  fails = true;
  stage.socket.drop(1006);
  mock.timers.tick(20_000);
  const second = stage.socket;
  second.open(SUBPROTOCOL);
  await settle();
  assert.deepEqual(second.sent, []);
  fails = false;
  mock.timers.tick(20_000);
  assert.notEqual(stage.socket, second);
  stage.socket.open(SUBPROTOCOL);
  await settle();
  assert.equal(asked, 3);
  assert.deepEqual(stage.socket.sent[0], { type: "CREDENTIAL", payload: { credential: "ek_3" } });
  stage.socket.tell({ type: "session_resume", session: "s", received: 2 });
  assert.equal(stage.session.state, "live");
  assert.equal(stage.session.error, null);
});

test("what the bridge has not taken is sent again, in order, and what was said meanwhile behind it", async () => {
  await liveV2();
  stage.peer.gather("a");
  stage.socket.drop(1012);
  stage.peer.gather("b");
  mock.timers.tick(20_000);
  stage.peer.gather("c");
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.peer.gather("d");
  stage.socket.tell(WELCOME, { type: "session_resume", session: "s", received: 2 }); // session_start and offer
  const candidates = stage.socket.sent.slice(2).map((message) => JSON.stringify(message));
  assert.deepEqual(
    candidates.map((text) => /"candidate":"(\w)"/.exec(text)?.[1]),
    ["a", "b", "c", "d"],
  );
});

test("a change of parameters over the socket is acknowledged, also after a drop", async () => {
  await liveV2();
  const first = stage.session.update({ strength: 0.5 }, { via: "socket" });
  assert.deepEqual(stage.socket.sent.at(-1), { type: "update", id: 1, params: { strength: 0.5 } });
  stage.socket.tell({ type: "updated", id: 1, values: { strength: 0.5 } });
  assert.deepEqual(await first, { strength: 0.5 });
  stage.socket.drop(1006);
  const second = stage.session.update({ strength: 2 }, { via: "socket" });
  second.catch(() => undefined);
  mock.timers.tick(20_000); // nothing is late while there is no socket
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell(WELCOME, { type: "session_resume", session: "s", received: 3 });
  assert.deepEqual(stage.socket.sent.at(-1), { type: "update", id: 2, params: { strength: 2 } });
  stage.socket.tell({ type: "error", message: "too much", code: "update_refused", retryable: false, id: 2 });
  await assert.rejects(second, { code: "rejected", message: "too much" });
  assert.deepEqual(stage.errors, []);
  stage.peer.channel.open(); // as that of a new node, which gets what was acknowledged
  assert.deepEqual(stage.peer.channel.sent.at(-1)?.params, { strength: 0.5 });
});

test("a change that is never acknowledged", async () => {
  await liveV2();
  const late = stage.session.update({}, { via: "socket" });
  mock.timers.tick(10_000);
  await assert.rejects(late, { code: "timeout" });
});

test("a bridge without the extension takes no parameters over the socket", async () => {
  stage = await live();
  await assert.rejects(stage.session.update({}, { via: "socket" }), { code: "update_unsupported" });
});

test("each sixteenth message is acknowledged, and what the bridge has acknowledged is not kept", async () => {
  await liveV2();
  const said: FromBridge[] = Array.from({ length: 14 }, () => ({ type: "candidate", candidate: null }));
  stage.socket.tell({ type: "ack", received: 2 }, ...said);
  assert.deepEqual(stage.socket.sent.at(-1), { type: "ack", received: 16 });
  await cut();
  stage.socket.tell({ type: "session_resume", session: "s", received: 2 });
  assert.equal(stage.socket.sent.length, 2);
});

test("a bridge that goes on without knowing how it began is told only what is still of use", async () => {
  await liveV2(); // session_start and an offer that was answered are not acknowledged
  stage.peer.gather("a");
  stage.session.update({ strength: 2 }, { via: "socket" }).catch(() => undefined);
  await cut();
  stage.socket.tell({ type: "session_resume", session: "s", received: 0, anew: true });
  assert.deepEqual(stage.socket.sent[2], { type: "ack", received: 0 });
  assert.deepEqual(
    stage.socket.sent.slice(3).map((message) => message.type),
    ["candidate", "update"],
  );
  stage.socket.tell({ type: "candidate", candidate: null });
  await cut();
  assert.deepEqual(stage.socket.sent.at(-1), { type: "session_resume", resume: "token", received: 1 });
  stage.socket.tell({ type: "session_resume", session: "s", received: 1 });
  assert.deepEqual(
    stage.socket.sent.slice(2).map((message) => message.type),
    ["update"],
  );
  assert.deepEqual(stage.errors, []);
});

for (const code of ["resume_unknown", "resume_gap"]) {
  test(`${code} while media is up: it goes on without the socket, and says so`, async () => {
    await liveV2();
    await cut();
    stage.socket.tell({ type: "error", message: "no", code, retryable: false });
    assert.equal(stage.session.state, "live");
    assert.deepEqual(stage.errors, ["network"]);
    mock.timers.tick(600_000);
    assert.equal(FakeSocket.made.length, 2);
  });
}

test("in line the place is kept", async () => {
  stage = await begin();
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell(WELCOME, { type: "node_status", status: "full", position: 3, eta: 20 });
  assert.deepEqual(stage.session.place, { position: 3, eta: 20 });
  await cut(1013);
  stage.socket.tell({ type: "session_resume", session: "s", received: 2 });
  assert.equal(stage.session.state, "full");
  stage.socket.tell({ type: "node_status", status: "full", position: 1 });
  assert.deepEqual(stage.session.place, { position: 1, eta: undefined });
  stage.socket.tell({ type: "node_status", status: "waiting" });
  assert.equal(stage.session.place, null);
});

test("it gives up after about a minute of tries with growing pauses", async () => {
  await liveV2();
  stage.socket.drop(1006);
  const times: number[] = [];
  for (let now = 0, made = 1; now < 200_000; now += 100) {
    mock.timers.tick(100);
    if (FakeSocket.made.length === made) continue;
    times.push(now);
    stage.socket.drop(1006); // with the extension
    stage.socket.drop(1006); // and without
    made = FakeSocket.made.length;
  }
  assert.equal(times.length, 11);
  assert.ok(times.at(-1)! > 20_000 && times.at(-1)! < 100_000, String(times));
  assert.equal(stage.session.state, "live");
  assert.deepEqual(stage.errors, ["network"]);
});

for (const [close, code] of [
  [1008, "policy"],
  [1000, "network"],
] as const) {
  test(`a socket that is closed with ${close} is not replaced`, async () => {
    await liveV2();
    stage.socket.drop(close);
    mock.timers.tick(600_000);
    assert.equal(FakeSocket.made.length, 1);
    assert.equal(stage.session.state, "live", code);
  });
}

test("nor is any without autoRejoin", async () => {
  await liveV2({ autoRejoin: false });
  stage.socket.drop(1006);
  mock.timers.tick(600_000);
  assert.equal(FakeSocket.made.length, 1);
});

test("errors by their code, with what the bridge says of trying again", async () => {
  stage = await begin();
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell(WELCOME);
  stage.socket.tell({ type: "error", message: "Busy.", code: "pool_full", retryable: true, retry_after: 9 });
  const { error } = stage.session;
  assert.ok(error instanceof BridgeError);
  assert.deepEqual([error.code, error.message, error.retryable, error.retryAfter], ["pool_full", "Busy.", true, 9]);
});

test("a connection that is interrupted looks for another path, on the same connection", async () => {
  await liveV2();
  stage.peer.become("disconnected");
  await settle();
  assert.equal(stage.peer.restarts, 1);
  assert.deepEqual(stage.socket.sent.at(-1), { type: "offer", sdp: "offer 0 again" });
  stage.socket.tell({ type: "answer", sdp: "another answer" });
  await settle();
  assert.deepEqual(stage.peer.applied, ["answer", "another answer"]);
  stage.peer.become("connected");
  assert.equal(stage.session.state, "live");
});

test("interrupted together with the socket, it does so when the socket is back", async () => {
  await liveV2();
  stage.socket.drop(1006);
  stage.peer.become("disconnected");
  await settle();
  assert.equal(stage.peer.restarts, 0);
  mock.timers.tick(20_000);
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell(WELCOME, { type: "session_resume", session: "s", received: 2 });
  await settle();
  assert.equal(stage.peer.restarts, 1);
  assert.deepEqual(stage.socket.sent.at(-1), { type: "offer", sdp: "offer 0 again" });
});

test("a session that the bridge ends before media is up ends here", async () => {
  stage = await begin();
  stage.socket.open(SUBPROTOCOL);
  await settle();
  stage.socket.tell(WELCOME, { type: "session_end", reason: "media failed" });
  assert.equal(stage.session.error?.code, "session_ended");
});
