/** The transcripts under `protocol/vectors`, cut into what each client lives through. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const PROTOCOL = join(process.cwd(), "../../protocol");

export type Message = { type: string } & Record<string, unknown>;

export interface Step {
  at?: string;
  open?: string;
  connect?: string;
  subprotocol?: string;
  send?: Message;
  flight?: Message[];
  flood?: Message;
  expect?: Message;
  repeat?: number;
  expect_close?: number;
  close?: number | null;
  drop?: true;
  bridge?: "killed" | "started";
}

export interface Vector {
  name: string;
  rule: string;
  steps: Step[];
}

/** What happens to one client, in order. */
export type Event =
  | { kind: "open"; extended: boolean; resumed: boolean }
  | { kind: "told"; message: Message }
  | { kind: "media" } // the node says that it is up
  | { kind: "left" } // the client closes its socket
  | { kind: "dropped" }
  | { kind: "closed"; code: number }; // by the bridge

/** One client, over all the sockets on which it goes on with one session. */
export interface Life {
  id: string;
  events: Event[];
}

export function load(): { file: string; vector: Vector }[] {
  const files = readdirSync(join(PROTOCOL, "vectors")).sort();
  return files.flatMap((file) => {
    const { vectors } = JSON.parse(readFileSync(join(PROTOCOL, "vectors", file), "utf8")) as { vectors: Vector[] };
    return vectors.map((vector) => ({ file: file.replace(".json", ""), vector }));
  });
}

export const isClient = (actor = ""): boolean => /^c\d+$/.test(actor);

/** The value with the runner's own values put in. */
export function filled(value: unknown, key = ""): unknown {
  if (Array.isArray(value)) return value.map((each) => filled(each, key));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, of]) => [name, filled(of, name)]));
  }
  if (value === "$any") return key === "eta" ? 5 : "any";
  if (typeof value !== "string") return value;
  const text = value.replace(/\$fill:(\d+)/g, (_, times: string) => "x".repeat(Number(times)));
  return text.replace(/^\$text$/, "text").replace(/\{i\}/g, "0");
}

/** Whether this client speaks the older dialect, which the SDK does not. */
function speaksOlder(steps: Step[], actor: string): boolean {
  const sent = steps.filter(({ at }) => at === actor).flatMap(({ send, flight = [] }) => (send ? [send] : flight));
  return sent.some(({ type, payload }) => type === "ice_candidate" || (type === "offer" && payload !== undefined));
}

/** Of the session that the socket opened at `index` takes up, the client that had it before. */
function resumes(steps: Step[], index: number): string | null {
  const { at } = steps[index]!;
  const first = steps.slice(index + 1).find((step) => step.at === at && step.send);
  if (first?.send?.type !== "session_resume") return null;
  const before = /^\$resume\((c\d+)\)$/.exec(String(first.send.resume))?.[1];
  return before && before !== at ? before : null;
}

/** The lives of a vector's clients, but for those that speak the older dialect. */
export function lives(vector: Vector): Life[] {
  const { steps } = vector;
  const all: Life[] = [];
  const present = new Map<string, Life>();
  const ofSession = new Map<string, string>(); // `$s1` → who was sent its answer
  steps.forEach((step, index) => {
    if (step.bridge === "killed") for (const { events } of present.values()) events.push({ kind: "dropped" });
    if (step.send?.type === "session_state" && step.send.state === "connected") mediaOf(steps, index);
    if (!isClient(step.at) || speaksOlder(steps, step.at!)) return;
    const actor = step.at!;
    if (step.open || step.connect) return open(step, index, actor);
    const events = present.get(actor)?.events;
    if (!events) return;
    const { expect, repeat = 1 } = step;
    if (expect)
      for (let i = 0; i < repeat; i++) events.push({ kind: "told", message: filled(expect) as Message });
    if (expect?.type === "answer") {
      const said = steps.slice(0, index).reverse().find(({ send }) => send?.type === "answer")?.send;
      if (said) ofSession.set(String(said.session), actor);
    }
    if (step.expect_close) events.push({ kind: "closed", code: step.expect_close });
    if (step.drop) events.push({ kind: "dropped" });
    if (step.close !== undefined) events.push({ kind: "left" });
  });
  return all;

  function mediaOf(steps: Step[], index: number): void {
    const life = present.get(ofSession.get(String(steps[index]!.send!.session)) ?? "");
    const last = life?.events.at(-1)?.kind;
    if (last === "told" || last === "media") life!.events.push({ kind: "media" });
  }

  function open(step: Step, index: number, actor: string): void {
    const extended = step.subprotocol !== undefined;
    const before = present.get(resumes(steps, index) ?? "");
    const goesOn = before !== undefined && before.events.at(-1)?.kind !== "left";
    const life = goesOn ? before : { id: `${vector.name}, ${actor}`, events: [] };
    if (goesOn && before.events.at(-1)?.kind !== "dropped") life.events.push({ kind: "dropped" });
    if (!goesOn) all.push(life);
    present.set(actor, life);
    life.events.push({ kind: "open", extended, resumed: goesOn });
    if (!step.open) return;
    const welcome = { type: "auth_success", ...(extended && { session: actor, resume: `resume of ${actor}` }) };
    life.events.push({ kind: "told", message: welcome });
  }
}
