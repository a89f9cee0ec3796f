/** What the benchmark calls in the page, as `bench.…`. */

import { selfCheck, since } from "./barcode.ts";
import { bare, product, type Link } from "./links.ts";
import { Reader, type Seen } from "./reader.ts";
import { show, Source } from "./source.ts";

const FIRST_FRAME_TIMEOUT = 20_000; // ms
const LOOK_BACK = 3000; // ms that the client's latency figure looks back
const LEAD = 3000; // ms more, of the source, that it must have seen before

export interface Target {
  url: string;
  /** The product's key; "" for the bare peer. */
  credential: string;
}

type Counters = Record<string, number>;

let source: Source | null = null;
let link: Link | null = null;
let reader: Reader | null = null;
let video: HTMLVideoElement | null = null;
let begun = { time: 0, drawn: 0, counters: {} as Counters };

function element(): HTMLVideoElement {
  const made = document.createElement("video");
  made.muted = true;
  made.playsInline = true;
  document.body.append(made);
  return made;
}

/** Start to draw at this size. The picture is on the page, as a source that a person would see. */
async function draw(width: number, height: number): Promise<void> {
  source?.stop();
  source?.canvas.remove();
  source = new Source(width, height);
  document.body.append(source.canvas);
}

async function open(target: Target): Promise<void> {
  if (!source) throw new Error("nothing is drawn yet");
  video = element();
  reader = new Reader(video);
  const stream = source.stream;
  link = target.credential
    ? await product(target.url, target.credential, stream, video)
    : await bare(target.url, stream, video);
  const late = new Promise<never>((_, reject) =>
    setTimeout(() => reject(new Error("no frame came back")), FIRST_FRAME_TIMEOUT),
  );
  await Promise.race([reader.first, late]);
}

function close(): void {
  reader?.stop();
  link?.close();
  if (video) video.srcObject = null;
  video?.remove();
  reader = link = video = null;
}

/** One fresh session, up to its first frame: milliseconds, and the phases that the client reports. */
async function firstFrame(target: Target): Promise<Record<string, number>> {
  await open(target);
  if (!link || !reader) throw new Error("closed");
  const { marks } = link;
  const { code, latency } = await reader.first;
  const shown = performance.now() - since(code, performance.now()) + latency;
  const phases = await link.phases();
  const times = {
    fromOffer: shown - marks.offer,
    fromOpen: shown - marks.open,
    fromBegin: shown - marks.begin,
    ...phases,
  };
  close();
  return times;
}

/** Counters of the video, both ways (W3C webrtc-stats). */
async function counters(): Promise<Counters> {
  const found: Counters = {};
  (await link?.connection.getStats())?.forEach((entry: Record<string, unknown>) => {
    if (entry["kind"] !== "video") return;
    const side = entry["type"] === "inbound-rtp" ? "in" : entry["type"] === "outbound-rtp" ? "out" : null;
    for (const [name, value] of Object.entries(entry)) {
      if (side && typeof value === "number") found[`${side}.${name}`] = value;
    }
  });
  return found;
}

async function begin(): Promise<void> {
  reader?.reset();
  begun = { time: performance.now(), drawn: source?.drawn ?? 0, counters: await counters() };
}

export interface Window {
  seconds: number;
  drawn: number;
  presented: number;
  unreadable: number;
  overtaken: number;
  seen: Seen[];
  counters: Counters;
}

async function end(): Promise<Window> {
  if (!reader || !source) throw new Error("closed");
  const now = await counters();
  const change = Object.entries(now).map(([name, value]) => [name, value - (begun.counters[name] ?? 0)]);
  return {
    seconds: (performance.now() - begun.time) / 1000,
    drawn: source.drawn - begun.drawn,
    presented: reader.presented,
    unreadable: reader.unreadable,
    overtaken: reader.overtaken,
    seen: reader.seen,
    counters: { ...Object.fromEntries(change), "in.frameWidth": now["in.frameWidth"] ?? 0 } as Counters,
  };
}

interface Compared {
  said: number | null;
  truth: number;
}

/** What the client says of the latency, once a second, and what the barcodes say over the same three seconds. */
async function latencyCheck(target: Target, clip: string, seconds: number): Promise<Compared[]> {
  const width = 640;
  const height = 360;
  const playing = element();
  playing.src = clip;
  playing.loop = true;
  await playing.play();
  const moving = new Source(width, height, show(playing, width, height));
  const before = element();
  before.srcObject = moving.stream;
  await before.play();
  const after = element();
  const made = await product(target.url, target.credential, moving.stream, after);
  made.session?.attach(after, before);
  const [sent, back] = [new Reader(before), new Reader(after)];
  await back.first;
  const found: Compared[] = [];
  const start = performance.now() + LOOK_BACK + LEAD;
  await new Promise<void>((resolve) => {
    made.session?.on("stats", ({ latency }) => {
      if (performance.now() < start) return;
      const shown = new Map(sent.seen.map(({ code, display }) => [code, display]));
      const recent = performance.now() - LOOK_BACK;
      const delays = back.seen
        .filter(({ code, display }) => display > recent && shown.has(code))
        .map(({ code, display }) => display - (shown.get(code) ?? 0));
      const said = latency?.kind === "measured" ? latency.ms : null;
      if (delays.length) found.push({ said, truth: delays.reduce((sum, delay) => sum + delay, 0) / delays.length });
      if (found.length >= seconds) resolve();
    });
  });
  for (const one of [sent, back]) one.stop();
  made.close();
  moving.stop();
  for (const one of [playing, before, after]) one.remove();
  return found;
}

Object.assign(window, { bench: { selfCheck, since, draw, open, close, firstFrame, begin, end, latencyCheck } });
