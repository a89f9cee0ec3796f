import { BridgeError, createClient, type Session, type SessionState } from "rtcbridge";
import {
  findDemoKey,
  findKey,
  findModel,
  forgetKey,
  keepKey,
  KeyRefused,
  socketUrl,
} from "./bridge.ts";
import { Controls } from "./controls.ts";
import { byId, byTestId } from "./dom.ts";
import { Figures } from "./figures.ts";
import { Source, SourceError, type SourceKind } from "./source.ts";
import { AWAY, ERROR_TEXTS, inLine, SLOW, SOURCE_TEXTS, STATES, type Trouble } from "./texts.ts";
import { Updates } from "./updates.ts";

declare global {
  interface Window {
    /** The newest session, for the browser's console: `await session.update({ … }, { via: "socket" })`. */
    session: Session;
  }
}

const SLOW_AFTER = 20_000; // ms in one state, after which the page says what may be the matter
const ACTIONS = { retry: "Try again", clip: "Use the clip", key: "Enter a key" } as const;

const start = byId<HTMLButtonElement>("start");
const stop = byId<HTMLButtonElement>("stop");
const result = byId<HTMLVideoElement>("result");
const ack = byTestId("ack");
const keyForm = byId<HTMLFormElement>("key-form");
const keyInput = byId<HTMLInputElement>("key");
const fileInput = byId<HTMLInputElement>("file");

const source = new Source(byId<HTMLVideoElement>("source"), document.body.dataset["clip"] ?? "");
const figures = new Figures();
const controls = new Controls(byId("params-wide"), byId("params-narrow"), (name, value) => {
  if (session) updates.set(name, value);
});
const updates = new Updates((params) => session?.update(params) ?? Promise.resolve(params), {
  sending: () => say("Sending…"),
  applied: (ms) => say(`Applied in ${ms.toFixed(0)} ms`),
  refused: (error) => {
    if (error instanceof BridgeError && error.code === "closed") return say("");
    say(`Not applied: ${error instanceof Error ? error.message : String(error)}`);
  },
});

let key: string | null = null;
let session: Session | null = null;
let kind: SourceKind = "clip";
let slowTimer: ReturnType<typeof setTimeout> | undefined;

function say(text: string): void {
  ack.textContent = text;
}

// ---- what is wrong, and what to do

let remedy: (() => void) | null = null;

function notice(trouble: Trouble, tone: "error" | "info" = "error"): void {
  const box = byId("notice");
  const button = byId("notice-action");
  byId("notice-title").textContent = trouble.title;
  byId("notice-help").textContent = trouble.help;
  box.dataset["tone"] = tone;
  box.hidden = false;
  button.hidden = !trouble.action;
  if (!trouble.action) return;
  button.textContent = ACTIONS[trouble.action];
  remedy = { retry, clip: () => void choose("clip"), key: () => void changeKey() }[trouble.action];
}

function clearNotice(): void {
  byId("notice").hidden = true;
}

function retry(): void {
  clearNotice();
  if (key) void run();
  else void prepare();
}

async function changeKey(): Promise<void> {
  clearNotice();
  if (await renewKey()) await run();
}

// ---- key and model

function askKey(): void {
  forgetKey();
  key = null;
  start.disabled = true;
  keyForm.hidden = false;
  byId("state-text").textContent = "Key needed";
  veil("result", "Enter your key above.");
  keyInput.value = "";
  keyInput.focus();
}

/** Find the key, then what it gives access to. Returns whether a session can be started. */
async function prepare(given?: string): Promise<boolean> {
  try {
    key = given ?? (await findKey());
    if (!key) {
      askKey();
      return false;
    }
    const model = await findModel(key);
    if (model) drawModel(model);
  } catch (error) {
    if (error instanceof KeyRefused) return renewKey();
    notice(ERROR_TEXTS.network);
    return false;
  }
  if (!keyForm.hidden) show("idle");
  keyForm.hidden = true;
  start.disabled = false;
  return true;
}

/** The key was refused: a demo that was restarted has another one; anyone else is asked. */
async function renewKey(): Promise<boolean> {
  const refused = key;
  forgetKey();
  const given = await findDemoKey().catch(() => null);
  if (given && given !== refused) return prepare(given);
  askKey();
  const { title, help } = ERROR_TEXTS.auth_failed;
  notice({ title, help });
  return false;
}

function drawModel(model: Parameters<Controls["draw"]>[0]): void {
  byId("model-title").textContent = model.title;
  controls.draw(model);
}

// ---- the source

async function choose(next: SourceKind, file?: File): Promise<void> {
  kind = next;
  const radio = document.querySelector<HTMLInputElement>(`input[name="source"][value="${next}"]`);
  if (radio) radio.checked = true;
  byId("file-row").hidden = next !== "file";
  clearNotice();
  if (next === "file" && !file) return fileInput.click();
  veil("source", next === "camera" ? "Waiting for the camera. The browser may ask you to allow it." : "");
  try {
    const stream = await source.use(next, file);
    if (!stream) return; // chosen anew meanwhile
    veil("source", "");
    await session?.replaceStream(stream);
  } catch (error) {
    if (kind !== next) return;
    const problem = error instanceof SourceError ? error.problem : "camera";
    veil("source", "No picture");
    notice(SOURCE_TEXTS[problem]);
  }
}

function veil(of: "source" | "result", text: string): void {
  byId(`${of}-veil`).hidden = !text;
  byId(`${of}-veil-text`).textContent = text;
}

// ---- the session

async function run(): Promise<void> {
  clearNotice();
  if (!source.stream) await choose(kind, fileInput.files?.[0]);
  if (!source.stream || !key || session) return;
  figures.clear();
  say("");
  const client = createClient({ url: socketUrl(), credential: key });
  const opened = client.connect({ stream: source.stream, params: controls.values });
  session = opened;
  window.session = opened;
  opened.on("state", (state) => onState(opened, state));
  opened.on("model", drawModel);
  opened.on("values", (values) => controls.show(values));
  opened.on("stats", (stats) => {
    figures.show(stats);
    if (stats.firstFrame && opened.state === "live") veil("result", "");
  });
  opened.on("error", (error) => {
    if (error.code === "network" && opened.state === "live") notice(AWAY, "info");
    else notice(ERROR_TEXTS[error.code], error.code === "node_lost" ? "info" : "error");
  });
  opened.on("signaling", (signaling) => {
    if (signaling === "open") clearNotice();
    else if (opened.state === "live") notice(AWAY, "info");
  });
  opened.on("place", (place) => place && opened === session && show(opened.state));
  opened.attach(result, source.video);
  show("connecting");
  start.hidden = true;
  stop.hidden = false;
}

function onState(of: Session, state: SessionState): void {
  if (of !== session) return;
  show(state);
  if (state === "live") clearNotice();
  if (state !== "ended") return;
  session = null;
  start.hidden = false;
  stop.hidden = true;
  result.srcObject = null;
  if (!of.error) return;
  const trouble = ERROR_TEXTS[of.error.code];
  notice(
    of.error.code === "bad_input" ? { ...trouble, help: `${trouble.help} (${of.error.message})` } : trouble,
  );
  if (trouble.action === "key") forgetKey();
}

function show(state: SessionState | "idle"): void {
  const { label, sentence } = STATES[state];
  byTestId("state").dataset["state"] = state;
  byId("state-text").textContent = label;
  const seen = state === "live" && session?.stats.firstFrame;
  const place = state === "full" || state === "pending" ? session?.place : null;
  veil("result", seen ? "" : place ? inLine(place) : sentence);
  byId("spinner").hidden = state === "ended" || state === "idle";
  clearTimeout(slowTimer);
  const hint = state === "idle" ? undefined : SLOW[state];
  if (hint) slowTimer = setTimeout(() => veil("result", hint), SLOW_AFTER);
}

// ---- wiring

start.addEventListener("click", () => void run());
stop.addEventListener("click", () => session?.close());
byId("notice-action").addEventListener("click", () => remedy?.());
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  clearNotice();
  const given = keyInput.value.trim();
  void prepare(given).then((ready) => ready && keepKey(given));
});
byId("source-select").addEventListener("change", (event) => {
  void choose((event.target as HTMLInputElement).value as SourceKind);
});
fileInput.addEventListener("change", () => {
  const file = fileInput.files?.[0];
  byId("file-name").textContent = file?.name ?? "No file chosen";
  if (file) void choose("file", file);
});
addEventListener("pagehide", () => session?.close());

async function boot(): Promise<void> {
  const auto = new URLSearchParams(location.search).get("autostart");
  const chosen = choose(auto === "camera" ? "camera" : "clip");
  const [ready] = await Promise.all([prepare(), chosen]);
  if (ready && auto) await run();
}

// Not before `load`: an element that waits for its first frame would hold that event up.
addEventListener("load", () => void boot());
