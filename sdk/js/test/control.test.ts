import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { answered, begin, live, settle, type Stage } from "./fakes.ts";

let stage: Stage;
beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "setInterval"] }));
afterEach(() => {
  stage.session.close();
  mock.timers.reset();
});

const MODEL = {
  type: "model",
  name: "styles",
  title: "Styles",
  params: [],
  values: { style: "candy" },
};

test("the model's declaration and its values", async () => {
  stage = await live();
  const seen: unknown[] = [];
  stage.session.on("model", (model) => seen.push(model));
  stage.session.on("values", (values) => seen.push(values));
  stage.peer.channel.tell(MODEL);
  assert.deepEqual(seen, [{ name: "styles", title: "Styles", params: [] }, { style: "candy" }]);
  assert.equal(stage.session.model?.name, "styles");
});

test("an update resolves with the values in force", async () => {
  stage = await live();
  const update = stage.session.update({ strength: 0.5 });
  assert.deepEqual(stage.peer.channel.sent, [{ type: "update", id: 1, params: { strength: 0.5 } }]);
  stage.peer.channel.tell({
    type: "updated",
    id: 1,
    values: { style: "candy", strength: 0.5 },
  });
  assert.deepEqual(await update, { style: "candy", strength: 0.5 });
});

test("an update that the model refuses", async () => {
  stage = await live();
  const update = stage.session.update({ strength: 7 });
  stage.peer.channel.tell({
    type: "error",
    id: 1,
    message: "strength: expected a number from 0 to 1",
  });
  await assert.rejects(update, {
    code: "rejected",
    message: "strength: expected a number from 0 to 1",
  });
  assert.deepEqual(stage.errors, []);
});

test("an update that nobody acknowledges; its late acknowledgement harms nothing", async () => {
  stage = await live();
  const update = stage.session.update({ strength: 0.5 });
  mock.timers.tick(10_000);
  await assert.rejects(update, { code: "timeout" });
  stage.peer.channel.tell({ type: "updated", id: 1, values: {} });
  stage.peer.channel.tell({ type: "updated", id: 99, values: {} });
});

test("updates wait for the channel, in order, without a deadline", async () => {
  stage = await begin();
  const first = stage.session.update({ a: 1 });
  const second = stage.session.update({ a: 2 });
  mock.timers.tick(9_000);
  stage.peer.channel.open();
  assert.deepEqual(
    stage.peer.channel.sent.map(({ params }) => params),
    [{ a: 1 }, { a: 2 }],
  );
  stage.peer.channel.tell({ type: "updated", id: 1, values: { a: 1 } });
  stage.peer.channel.tell({ type: "updated", id: 2, values: { a: 2 } });
  assert.deepEqual([await first, await second], [{ a: 1 }, { a: 2 }]);
});

test("an update over 16 KiB is not sent", async () => {
  stage = await live();
  await assert.rejects(stage.session.update({ prompt: "ü".repeat(8192) }), {
    code: "rejected",
  });
  assert.deepEqual(stage.peer.channel.sent, []);
});

test("first parameters go in front, and a new node gets what the old one had acknowledged", async () => {
  stage = await live({}, { style: "candy" });
  const { channel } = stage.peer;
  assert.deepEqual(channel.sent, [{ type: "update", id: 1, params: { style: "candy" } }]);
  channel.tell({
    type: "updated",
    id: 1,
    values: { style: "candy", strength: 1 },
  });
  const done = stage.session.update({ strength: 0.5 });
  channel.tell({
    type: "updated",
    id: 2,
    values: { style: "candy", strength: 0.5 },
  });
  await done;
  const open = stage.session.update({ style: "wave" });
  stage.socket.tell(
    { type: "error", message: "The node was lost." },
    { type: "node_status", status: "waiting" },
  );
  await settle();
  await answered(stage);
  const sent = stage.peer.channel.sent.map(({ params }) => params);
  assert.deepEqual(sent, [{ style: "candy", strength: 0.5 }, { style: "wave" }]);
  stage.peer.channel.tell({
    type: "updated",
    id: stage.peer.channel.sent[1]!.id,
    values: { style: "wave" },
  });
  assert.deepEqual(await open, { style: "wave" });
});

test("a model that fails, and messages that are none", async () => {
  stage = await live();
  stage.peer.channel.tell({ type: "error", message: "out of memory" });
  for (const text of ["{", "7", '{"type":"something"}']) stage.peer.channel.tell(text);
  assert.deepEqual(stage.errors, ["model_error"]);
});

test("what the node measures is part of the statistics", async () => {
  stage = await live();
  const seen: unknown[] = [];
  stage.session.on("stats", ({ node }) => seen.push(node?.model_ms));
  stage.peer.channel.tell({
    type: "stats",
    fps_in: 30,
    fps_out: 24,
    model_ms: 38,
    dropped: 2,
  });
  mock.timers.tick(1000);
  await settle();
  assert.deepEqual(seen, [38]);
});

test("an exception of a handler reaches the environment, not the other handlers", async () => {
  stage = await live();
  const thrown: (() => void)[] = [];
  mock.method(globalThis, "queueMicrotask", (rethrow: () => void) => thrown.push(rethrow));
  const seen: string[] = [];
  stage.session.on("model", () => {
    throw new Error("mine");
  });
  const off = stage.session.on("model", ({ name }) => seen.push(name));
  stage.peer.channel.tell(MODEL);
  assert.deepEqual(seen, ["styles"]);
  assert.throws(() => thrown[0]?.(), /mine/);
  off();
  stage.peer.channel.tell(MODEL);
  assert.equal(seen.length, 1);
  mock.restoreAll();
});
