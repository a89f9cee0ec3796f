import type { LatencyMeter } from "./latency.ts";
import type { NodeStats } from "./wire.ts";

/** Where the time to the first frame went, in milliseconds; the parts add up to `total`. */
export interface FirstFrame {
  total: number;
  /** Until the credential was accepted. */
  auth: number;
  /** Until a node was ready. */
  line: number;
  /** Until the node's answer. */
  answer: number;
  /** Until the media connection was up (ICE and DTLS). */
  ice: number;
  /** Until the first frame was there to see. */
  frame: number;
}

/** `measured` in the two pictures, or `estimated` as the sum of measured parts (see `latency.ts`). */
export interface Latency {
  ms: number;
  kind: "measured" | "estimated";
}

/** What is known about a session, once a second. Null is "not known (yet)". */
export interface Stats {
  /** Frames of the result a second: decoded, and presented by the attached element. */
  fpsDecoded: number | null;
  fpsPresented: number | null;
  /** Frames of the source a second, encoded and sent. */
  fpsSent: number | null;
  width: number | null;
  height: number | null;
  /** Bits a second. */
  bitrateIn: number | null;
  bitrateOut: number | null;
  /** Milliseconds: network round trip, jitter buffer and decoder of the result, encoder of the source. */
  rtt: number | null;
  jitterBuffer: number | null;
  decode: number | null;
  encode: number | null;
  packetsLost: number | null;
  latency: Latency | null;
  firstFrame: FirstFrame | null;
  /** What the node measures of itself. */
  node: NodeStats | null;
}

export const NO_STATS: Readonly<Stats> = {
  fpsDecoded: null,
  fpsPresented: null,
  fpsSent: null,
  width: null,
  height: null,
  bitrateIn: null,
  bitrateOut: null,
  rtt: null,
  jitterBuffer: null,
  decode: null,
  encode: null,
  packetsLost: null,
  latency: null,
  firstFrame: null,
  node: null,
};

/** The moments of one way to the first frame, in milliseconds of `performance.now()`. */
export class Marks {
  #times: Partial<Record<"start" | "auth" | "line" | "answer" | "ice" | "frame", number>> = {};

  constructor() {
    this.mark("start");
  }

  /** Keep the first time of `name`; returns whether it was the first. */
  mark(name: keyof Omit<FirstFrame, "total"> | "start"): boolean {
    if (this.#times[name] !== undefined) return false;
    this.#times[name] = performance.now();
    return true;
  }

  get firstFrame(): FirstFrame | null {
    const { start, auth, line, answer, ice, frame } = this.#times;
    if (start === undefined || frame === undefined) return null;
    // A step that was not seen, or was overtaken by the next, took no time of its own.
    const after = (time: number | undefined, least: number): number =>
      Math.min(frame, Math.max(time ?? least, least));
    const a = after(auth, start);
    const l = after(line, a);
    const w = after(answer, l);
    const i = after(ice, w);
    return {
      total: frame - start,
      auth: a - start,
      line: l - a,
      answer: w - l,
      ice: i - w,
      frame: frame - i,
    };
  }
}

interface Counters {
  time: number;
  presented: number;
  inbound: Numbers;
  outbound: Numbers;
}

type Numbers = Record<string, number | undefined>;

/** Turns the counters of `getStats()` (W3C webrtc-stats) into rates between two calls. */
export class StatsReader {
  #last: Counters | null = null;

  /** Read the connection's counters. `node` and `meter` add what only they know. */
  async read(
    connection: RTCPeerConnection,
    meter: LatencyMeter | null,
    node: NodeStats | null,
  ): Promise<Stats> {
    const { inbound, outbound, pair } = select(await connection.getStats());
    const now: Counters = {
      time: performance.now(),
      presented: meter?.presented ?? 0,
      inbound,
      outbound,
    };
    const last = this.#last;
    this.#last = now;
    const seconds = last ? (now.time - last.time) / 1000 : 0;
    const change = (side: "inbound" | "outbound", name: string): number | null => {
      const value = now[side][name];
      return last && value !== undefined ? value - (last[side][name] ?? 0) : null;
    };
    const rate = (value: number | null): number | null =>
      value !== null && seconds > 0 ? value / seconds : null;
    const each = (total: number | null, count: number | null): number | null =>
      total !== null && count ? (1000 * total) / count : null;
    const framesIn = change("inbound", "framesDecoded");
    const framesOut = change("outbound", "framesEncoded");
    const bits = (bytes: number | null): number | null => (bytes === null ? null : rate(8 * bytes));
    const stats: Stats = {
      ...NO_STATS,
      fpsDecoded: rate(framesIn),
      fpsPresented: meter && last ? rate(now.presented - last.presented) : null,
      fpsSent: rate(framesOut),
      width: inbound["frameWidth"] ?? null,
      height: inbound["frameHeight"] ?? null,
      bitrateIn: bits(change("inbound", "bytesReceived")),
      bitrateOut: bits(change("outbound", "bytesSent")),
      rtt: pair["currentRoundTripTime"] === undefined ? null : 1000 * pair["currentRoundTripTime"],
      jitterBuffer: each(
        change("inbound", "jitterBufferDelay"),
        change("inbound", "jitterBufferEmittedCount"),
      ),
      decode: each(change("inbound", "totalDecodeTime"), framesIn),
      encode: each(change("outbound", "totalEncodeTime"), framesOut),
      packetsLost: inbound["packetsLost"] ?? null,
      node,
    };
    return { ...stats, latency: latency(stats, meter) };
  }
}

/** What the pictures say, or else the sum of the parts that were measured. */
function latency(stats: Stats, meter: LatencyMeter | null): Latency | null {
  const match = meter?.measure();
  if (match) return { ms: match.ms, kind: "measured" };
  const { rtt, encode, jitterBuffer, decode, node } = stats;
  if (rtt === null || !stats.fpsDecoded) return null;
  // A frame waits half an interval, on average, for the model (latest wins), and is encoded and decoded twice.
  const wait = node && node.fps_out > 0 ? 500 / node.fps_out : 0;
  const codec = 2 * ((encode ?? 0) + (decode ?? 0));
  return {
    ms: rtt + codec + wait + (node?.model_ms ?? 0) + (jitterBuffer ?? 0),
    kind: "estimated",
  };
}

/** Frames of the result decoded so far. */
export async function framesDecoded(connection: RTCPeerConnection): Promise<number> {
  return select(await connection.getStats()).inbound["framesDecoded"] ?? 0;
}

/** The video entries and the candidate pair in use. */
function select(report: RTCStatsReport): {
  inbound: Numbers;
  outbound: Numbers;
  pair: Numbers;
} {
  const found: { inbound: Numbers; outbound: Numbers; pair: Numbers } = {
    inbound: {},
    outbound: {},
    pair: {},
  };
  report.forEach((entry: { type: string; kind?: string; nominated?: boolean; state?: string }) => {
    const numbers = entry as unknown as Numbers;
    if (entry.type === "inbound-rtp" && entry.kind === "video") found.inbound = numbers;
    if (entry.type === "outbound-rtp" && entry.kind === "video") found.outbound = numbers;
    if (entry.type === "candidate-pair" && entry.nominated && entry.state === "succeeded")
      found.pair = numbers;
  });
  return found;
}
