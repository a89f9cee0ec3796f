/** The transcripts of the wire, played to this client: what the bridge says there, and what we make of it. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, mock, test } from "node:test";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { SUBPROTOCOL, type FromBridge } from "../src/wire.ts";
import { begin, FakeSocket, KEY, settle, type Stage } from "./fakes.ts";
import { Rules, type Seen } from "./rules.ts";
import { filled, isClient, lives, load, PROTOCOL, type Event, type Life, type Message } from "./vectors.ts";

const SCHEMA = JSON.parse(readFileSync(join(PROTOCOL, "schema.json"), "utf8")) as object;
const ajv = new Ajv2020({ strict: false, schemas: { wire: SCHEMA } });
const VALID: Record<string, ValidateFunction> = Object.fromEntries(
  ["FromClient", "FromExtendedClient", "ToClient", "ToExtendedClient"].map((name) => [
    name,
    ajv.getSchema(`wire#/$defs/${name}`)!,
  ]),
);
const ALL = load();
const LIVES = ALL.flatMap(({ file, vector }) => lives(vector).map((life) => ({ file, life })));

beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "setInterval"] }));
afterEach(() => mock.timers.reset());

function valid(direction: string, message: unknown): void {
  const validate = VALID[direction]!;
  assert.ok(validate(message), `${JSON.stringify(message)}: ${ajv.errorsText(validate.errors)}`);
}

function seen({ session, errors }: Stage, peer: Stage["peer"]): Seen {
  const { state, error, place } = session;
  const applied = peer.closed ? [] : (peer.applied as Seen["applied"]);
  return { state, error: error?.code ?? null, errors, place: place?.position ?? null, applied };
}

/** One client's life with an SDK in its place. */
class Player {
  readonly rules = new Rules();
  sockets = 0;

  constructor(readonly stage: Stage) {}

  async do(event: Event): Promise<void> {
    await this[event.kind](event as never);
    await settle();
    const { state, error, errors, place, applied } = this.rules;
    assert.deepEqual(seen(this.stage, this.stage.peer), { state, error, errors, place, applied }, JSON.stringify(event));
  }

  /** For what comes on this socket nobody is there any more, as after a refusal that has ended the session. */
  get deaf(): boolean {
    return this.rules.over || this.stage.session.state === "ended";
  }

  async open({ extended, resumed }: Event & { kind: "open" }): Promise<void> {
    if (resumed && this.deaf) return;
    if (resumed) mock.timers.tick(300); // the first try comes soon
    this.sockets += 1;
    assert.equal(FakeSocket.made.length, this.sockets);
    const { socket } = this.stage;
    assert.deepEqual(socket.protocols, [SUBPROTOCOL]);
    socket.open(extended ? SUBPROTOCOL : "");
    await settle();
    const resume = { type: "session_resume", resume: this.token, received: this.rules.received };
    const next = resumed ? [resume] : [{ type: "session_start" }, { type: "offer", sdp: "offer 0" }];
    assert.deepEqual(socket.sent, [{ type: "CREDENTIAL", payload: { credential: KEY } }, ...next]);
    this.rules.open(extended, resumed);
  }

  token = "";

  told({ message }: Event & { kind: "told" }): void {
    if (!this.deaf && message.type === "auth_success" && !this.token) this.token = String(message.resume ?? "");
    this.stage.socket.tell(message as FromBridge);
    this.rules.told(message);
  }

  media(): void {
    this.rules.media();
    if (this.rules.live) this.stage.peer.become("connected");
  }

  dropped(): void {
    this.closed({ kind: "closed", code: 1006 });
  }

  closed({ code }: Event & { kind: "closed" }): void {
    this.stage.socket.drop(code);
    this.rules.closed(code);
  }

  left(): void {
    const { closedWith } = this.stage.socket;
    this.stage.session.close();
    this.rules.left();
    if (closedWith === null) assert.equal(this.stage.socket.closedWith, 1000);
  }
}

async function play({ events }: Life): Promise<void> {
  const player = new Player(await begin());
  for (const event of events) await player.do(event);
  const direction = player.rules.extended ? "FromExtendedClient" : "FromClient";
  for (const { sent } of FakeSocket.made) for (const message of sent) valid(direction, message);
  player.stage.session.close();
}

for (const { file, life } of LIVES) test(`${file}: ${life.id}`, () => play(life));

test("only clients of the older dialect are left out", () => {
  const clients = ALL.flatMap(({ vector }) =>
    vector.steps.filter(({ at, open, connect }) => isClient(at) && (open || connect)),
  );
  assert.ok(LIVES.length > 180, `${LIVES.length} of ${clients.length}`);
});

test("all that the bridge says to clients is in the schema", () => {
  for (const { vector } of ALL) {
    const extended = new Set(vector.steps.filter(({ subprotocol }) => subprotocol).map(({ at }) => at));
    for (const { at, expect } of vector.steps) {
      if (expect && isClient(at)) valid(extended.has(at) ? "ToExtendedClient" : "ToClient", filled(expect) as Message);
    }
  }
});
