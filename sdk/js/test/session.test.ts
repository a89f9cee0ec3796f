import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { BridgeError, createClient, ERRORS } from "../src/index.ts";
import { answered, begin, FakePeer, FakeSocket, FakeStream, KEY, live, settle, type Stage } from "./fakes.ts";

const FULL = "Maximum pool size reached. Cannot assign a new node.";
const LOST = "The node was lost.";

let stage: Stage;
beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "setInterval"] }));
afterEach(() => {
  stage.session.close();
  mock.timers.reset();
});

async function greeted(options = {}): Promise<Stage> {
  stage = await begin(options);
  stage.socket.open();
  await settle();
  stage.socket.tell({ type: "auth_success" });
  await settle();
  return stage;
}

test("credential, demand and offer go in one flight, before the bridge has said anything", async () => {
  stage = await begin();
  assert.equal(stage.socket.url, "wss://bridge.example/client");
  stage.socket.open();
  await settle();
  assert.deepEqual(stage.socket.sent, [
    { type: "CREDENTIAL", payload: { credential: KEY } },
    { type: "session_start" },
    { type: "offer", sdp: "offer 0" },
  ]);
});

test("from a node that waits to live", async () => {
  stage = await live();
  assert.deepEqual(stage.states, ["authenticating", "waiting", "negotiating", "live"]);
  await stage.session.ready;
  assert.equal(stage.peer.channel.label, "control");
});

test("candidates trickle behind the offer, from the bridge's word on, then their end", async () => {
  stage = await begin();
  stage.socket.open();
  await settle();
  assert.equal(stage.peer.localDescription, null, "nothing is gathered before the bridge can name its servers");
  stage.socket.tell({ type: "auth_success" });
  await settle();
  stage.peer.gather("late");
  stage.peer.gather("");
  stage.peer.gather(null);
  assert.deepEqual(stage.socket.sent.slice(2), [
    { type: "offer", sdp: "offer 0" },
    {
      type: "candidate",
      candidate: { sdpMid: "0", sdpMLineIndex: 0, candidate: "late" },
    },
    {
      type: "candidate",
      candidate: { sdpMid: "0", sdpMLineIndex: 0, candidate: "" },
    },
  ]);
});

test("remote candidates wait for the answer, keep their order, and a bad one stops no other", async () => {
  await greeted();
  const candidate = (text: string) => ({ type: "candidate", candidate: { candidate: text } }) as const;
  stage.socket.tell(candidate("a"), candidate("bad"), candidate("b"));
  await settle();
  assert.deepEqual(stage.peer.applied, []);
  stage.socket.tell({ type: "answer", sdp: "answer" }, candidate("c"), {
    type: "candidate",
    candidate: null,
  });
  await settle();
  assert.deepEqual(stage.peer.applied, ["answer", "a", "b", "c", null]);
  assert.deepEqual(stage.errors, ["bad_input"]);
});

test("pending: the offer is held at the bridge and not sent twice", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "pending" }, { type: "server_provisioning" });
  stage.socket.tell({ type: "node_status", status: "waiting" });
  await answered(stage);
  assert.deepEqual(stage.states, ["authenticating", "pending", "waiting", "negotiating", "live"]);
  assert.equal(stage.socket.types.filter((type) => type === "offer").length, 1);
});

test("in line: the offer is refused, the place is kept, and the offer is sent when a node waits", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "full" }, { type: "error", message: FULL });
  stage.peer.gather("x");
  stage.peer.gather(null);
  assert.equal(stage.session.state, "full");
  assert.deepEqual(stage.errors, []);
  assert.equal(stage.socket.sent.length, 3, "candidates of a refused offer would be dropped");
  stage.socket.tell({ type: "node_status", status: "waiting" });
  assert.deepEqual(stage.socket.sent.slice(3), [
    { type: "offer", sdp: "offer 0 + x" },
    {
      type: "candidate",
      candidate: { sdpMid: "0", sdpMLineIndex: 0, candidate: "" },
    },
  ]);
  await answered(stage);
  assert.deepEqual(stage.states, ["authenticating", "full", "waiting", "negotiating", "live"]);
});

test("a claim that ran out: back in the line, and served later", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "waiting" }, { type: "node_status", status: "full" });
  stage.socket.tell({ type: "error", message: FULL });
  assert.equal(stage.session.state, "full");
  mock.timers.tick(120_000);
  assert.equal(stage.session.state, "full", "there is no deadline in the line");
  stage.socket.tell({ type: "node_status", status: "waiting" });
  await answered(stage);
  assert.equal(stage.session.state, "live");
});

for (const [message, code] of [
  [FULL, "pool_full"],
  ["Failed to start a stopped node.", "start_failed"],
  ["The node did not answer.", "no_answer"],
  ["The node could not go on with the session.", "node_refused"],
  ["No media arrived in time after the answer.", "no_media"],
] as const) {
  test(`“${message}” ends a session that is not in the line`, async () => {
    await greeted();
    stage.socket.tell({ type: "node_status", status: "pending" }, { type: "error", message });
    await assert.rejects(stage.session.ready, { code, message });
    assert.equal(stage.session.state, "ended");
    assert.equal(stage.session.error?.retryable, true);
    assert.equal(stage.socket.closedWith, 1000);
    assert.ok(stage.peer.closed);
  });
}

test("any other text is reported and ends nothing", async () => {
  await greeted();
  stage.socket.tell({
    type: "error",
    message: "sdp: expected a non-empty string",
  });
  assert.deepEqual(stage.errors, ["bad_input"]);
  assert.equal(stage.session.state, "authenticating");
});

test("what is no message is passed over", async () => {
  await greeted();
  for (const data of ["{", "[]", "null", '{"type":7}', new ArrayBuffer(2)]) {
    stage.socket.onmessage?.({ data } as never);
  }
  assert.deepEqual(stage.errors, []);
});

for (const [when, close, code, retryable] of [
  ["before", 1008, "auth_failed", false],
  ["before", 1006, "network", true],
  ["after", 1008, "policy", false],
  ["after", 1009, "bad_input", false],
] as const) {
  test(`closed with ${close} ${when} auth_success: ${code}`, async () => {
    stage = await begin();
    stage.socket.open();
    await settle();
    if (when === "after") stage.socket.tell({ type: "auth_success" });
    stage.socket.drop(close);
    assert.equal(stage.session.error?.code, code);
    assert.equal(stage.session.error?.retryable, retryable);
  });
}

test("a bridge that cannot be reached: network, tried once with the extension and once without", async () => {
  stage = await begin();
  stage.socket.drop(1006);
  assert.equal(stage.session.state, "connecting");
  stage.socket.drop(1006);
  assert.equal(stage.session.error?.code, "network");
  assert.deepEqual(
    FakeSocket.made.map(({ protocols }) => protocols),
    [["rtcbridge.v2"], []],
  );
});

test("a socket that never opens", async () => {
  stage = await begin();
  mock.timers.tick(10_000);
  assert.equal(stage.session.error?.code, "network");
});

test("a bridge that says nothing to the credential", async () => {
  stage = await begin();
  stage.socket.open();
  await settle();
  mock.timers.tick(15_000);
  assert.equal(stage.session.error?.code, "network");
});

test("a node that waits and never answers", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "waiting" });
  mock.timers.tick(30_000);
  assert.equal(stage.session.error?.code, "no_answer");
});

test("an answer without media after it", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "waiting" }, { type: "answer", sdp: "answer" });
  await settle();
  mock.timers.tick(30_000);
  assert.equal(stage.session.error?.code, "ice_failed");
});

test("an answer that the browser refuses", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "waiting" }, { type: "answer", sdp: "bad" });
  await settle();
  assert.equal(stage.session.error?.code, "ice_failed");
});

test("a second answer changes nothing", async () => {
  stage = await live();
  stage.socket.tell({ type: "answer", sdp: "again" });
  await settle();
  assert.deepEqual(stage.peer.applied, ["answer"]);
});

test("a lost node: back to the line on the same socket, a new offer when a node waits", async () => {
  stage = await live();
  const { stream } = stage.session;
  stage.socket.tell({ type: "error", message: LOST }, { type: "node_status", status: "pending" });
  assert.ok(FakePeer.made[0]!.closed);
  stage.socket.tell({ type: "node_status", status: "waiting" });
  await settle();
  assert.equal(FakePeer.made.length, 2);
  assert.deepEqual(stage.socket.sent.at(-1), { type: "offer", sdp: "offer 1" });
  await answered(stage);
  assert.deepEqual(stage.states.slice(4), ["reconnecting", "pending", "waiting", "negotiating", "live"]);
  assert.deepEqual(stage.errors, ["node_lost"]);
  assert.equal(stage.session.stream, stream);
  assert.equal(FakeSocket.made.length, 1);
  assert.equal(stage.socket.types.filter((type) => type === "session_start").length, 1);
});

test("a lost node while the offer is under way", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "waiting" }, { type: "error", message: LOST });
  stage.socket.tell({ type: "node_status", status: "waiting" });
  await settle();
  await answered(stage);
  assert.equal(stage.session.state, "live");
});

test("a lost node ends the session where the policy says so", async () => {
  stage = await live({ autoRejoin: false });
  stage.socket.tell({ type: "error", message: LOST });
  assert.equal(stage.session.error?.code, "node_lost");
});

test("media goes on without the socket, through a restart of the bridge", async () => {
  stage = await live();
  const signaling: string[] = [];
  stage.session.on("signaling", (state) => signaling.push(state));
  stage.socket.drop(1012);
  mock.timers.tick(120_000);
  assert.equal(stage.session.state, "live");
  assert.deepEqual(signaling, ["lost"]);
  assert.equal(FakeSocket.made.length, 1);
});

test("media that fails after the socket is gone: a new socket and a new peer connection", async () => {
  stage = await live();
  stage.socket.drop(1006);
  stage.peer.become("disconnected");
  assert.equal(stage.session.state, "reconnecting");
  stage.peer.become("failed");
  mock.timers.tick(500);
  await settle();
  assert.equal(FakeSocket.made.length, 2);
  stage.socket.open();
  await settle();
  stage.socket.tell({ type: "auth_success" }, { type: "node_status", status: "waiting" });
  await answered(stage);
  assert.deepEqual(stage.states.slice(4), ["reconnecting", "waiting", "negotiating", "live"]);
});

test("an interruption that heals", async () => {
  stage = await live();
  stage.peer.become("disconnected");
  stage.peer.become("connected");
  assert.deepEqual(stage.states.slice(3), ["live", "reconnecting", "live"]);
  assert.equal(FakePeer.made.length, 1);
});

test("a socket lost in the line: tried again with growing pauses, then given up", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "full" }, { type: "error", message: FULL });
  for (let attempt = 1; attempt <= 5; attempt++) {
    stage.socket.drop(1006);
    assert.equal(stage.session.state, "reconnecting");
    mock.timers.tick(12_000);
    assert.equal(FakeSocket.made.length, attempt + 1);
    stage.socket.open();
    await settle();
    stage.socket.tell({ type: "auth_success" }, { type: "node_status", status: "full" });
  }
  stage.socket.drop(1006);
  assert.equal(stage.session.error?.code, "network");
});

test("while it is brought back, a bridge that is not there yet is tried again too", async () => {
  await greeted();
  stage.socket.drop(1012);
  mock.timers.tick(500);
  stage.socket.drop(1006);
  assert.equal(stage.session.state, "reconnecting");
  mock.timers.tick(2000);
  assert.equal(FakeSocket.made.length, 3);
});

test("the node closes the connection and the bridge says why", async () => {
  stage = await live();
  stage.peer.channel.drop();
  stage.peer.become("failed");
  assert.equal(stage.session.state, "live");
  stage.socket.tell({
    type: "error",
    message: "The session reached its maximum length.",
  });
  assert.equal(stage.session.error?.code, "session_too_long");
});

test("an operator ends the session of a client in line", async () => {
  await greeted();
  stage.socket.tell({ type: "node_status", status: "full" });
  stage.socket.tell({ type: "error", message: "The session was ended by the operator." });
  assert.equal(stage.session.state, "ended");
  assert.equal(stage.session.error?.code, "session_ended");
  assert.equal(stage.session.error?.message, "The session was ended by the operator.");
});

test("the node closes the connection and nobody says why", async () => {
  stage = await live();
  stage.peer.channel.drop();
  mock.timers.tick(2000);
  assert.equal(stage.session.error?.code, "session_ended");
});

test("close: a Close frame, everything released, no event after `ended`", async () => {
  stage = await live();
  const pending = stage.session.update({ strength: 1 });
  const { socket, peer } = stage;
  stage.session.close();
  await assert.rejects(pending, { code: "closed" });
  await assert.rejects(stage.session.update({}), { code: "closed" });
  assert.equal(stage.session.error, null);
  assert.equal(socket.closedWith, 1000);
  socket.tell({ type: "node_status", status: "waiting" });
  peer.become("failed");
  mock.timers.tick(60_000);
  assert.equal(stage.states.at(-1), "ended");
  assert.equal(FakeSocket.made.length, 1);
});

test("close before anything happened", async () => {
  stage = await begin();
  stage.session.close();
  await assert.rejects(stage.session.ready, BridgeError);
  assert.equal(stage.session.state, "ended");
});

test("a credential may be fetched; one that cannot be is auth_failed", async () => {
  stage = await begin({ credential: async () => "sk_OTHER1_x" });
  stage.socket.open();
  await settle();
  assert.deepEqual(stage.socket.sent[0], {
    type: "CREDENTIAL",
    payload: { credential: "sk_OTHER1_x" },
  });
  stage.session.close();
  stage = await begin({ credential: () => Promise.reject(new Error("no")) });
  stage.socket.open();
  await settle();
  assert.equal(stage.session.error?.code, "auth_failed");
});

test("a token is fetched while the socket opens, and wins over a credential", async () => {
  let asked = 0;
  stage = await begin({ token: () => `ek_${++asked}` });
  assert.equal(asked, 1);
  stage.socket.open();
  await settle();
  assert.deepEqual(stage.socket.sent[0], { type: "CREDENTIAL", payload: { credential: "ek_1" } });
  assert.equal(asked, 1);
  stage.session.close();
  const thrown = (): string => {
    throw new Error("logged out");
  };
  stage = await begin({ token: thrown });
  stage.socket.open();
  await settle();
  assert.equal(stage.session.error?.code, "auth_failed");
  assert.match(stage.session.error?.message ?? "", /logged out/);
});

test("without a token and a credential there is no client", () => {
  assert.throws(() => createClient({ url: "https://bridge.example" }), TypeError);
});

test("a limit of the key ends a session that is asked for, and no other", async () => {
  for (const code of ["session_limit", "rate_limited"] as const) {
    stage = await begin();
    stage.socket.open();
    await settle();
    stage.socket.tell({ type: "auth_success" }, { type: "error", message: ERRORS[code].text! });
    assert.equal(stage.session.error?.code, code);
    assert.ok(stage.session.error?.retryable);
  }
  stage = await live();
  stage.socket.tell({ type: "error", message: ERRORS.rate_limited.text! });
  assert.equal(stage.session.state, "live");
  assert.deepEqual(stage.errors, ["rate_limited"]);
});

test("another source goes to the same sender, and a kind that was not offered is an error", async () => {
  stage = await live();
  const track = { kind: "video" };
  await stage.session.replaceStream(new FakeStream([track]) as unknown as MediaStream);
  assert.deepEqual(stage.peer.replaced, [["video", track]]);
  assert.equal(stage.socket.types.filter((type) => type === "offer").length, 1);
  const audio = { kind: "audio" } as unknown as MediaStreamTrack;
  await assert.rejects(stage.session.replaceTrack(audio), {
    code: "bad_input",
  });
});

test("mute blackens the source", async () => {
  const track = { kind: "video", enabled: true };
  stage = await live();
  await stage.session.replaceTrack(track as unknown as MediaStreamTrack);
  stage.session.mute("video");
  assert.equal(track.enabled, false);
  stage.session.mute("video", false);
  assert.equal(track.enabled, true);
});

test("tracks of the result: a new one takes the place of the old of its kind", async () => {
  stage = await live();
  const receiver = { jitterBufferTarget: 400 as number | null };
  stage.peer.ontrack?.({ track: { kind: "video", n: 1 }, receiver } as never);
  stage.peer.ontrack?.({ track: { kind: "video", n: 2 }, receiver } as never);
  assert.deepEqual(stage.session.stream.getTracks(), [{ kind: "video", n: 2 }]);
  assert.equal(receiver.jitterBufferTarget, 0);
});
