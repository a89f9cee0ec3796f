import { LatencyMeter } from "./latency.ts";
import { framesDecoded, Marks, NO_STATS, StatsReader, type Stats } from "./stats.ts";
import type { NodeStats } from "./wire.ts";

const INTERVAL = 1000; // ms between two reports
const FIRST_FRAME_INTERVAL = 50; // ms between two looks for the first frame, where no element tells

/** Watches one session: its figures once a second, and the way to its first frame. */
export class Monitor {
  readonly marks = new Marks();
  /** The newest figures. */
  stats: Stats = { ...NO_STATS };
  /** What the node last said of itself. */
  node: NodeStats | null = null;

  readonly #report: (stats: Stats) => void;
  #connection: RTCPeerConnection | null = null;
  #meter: LatencyMeter | null = null;
  #elements: {
    result: HTMLVideoElement;
    source: HTMLVideoElement | null;
  } | null = null;
  #ticker: ReturnType<typeof setInterval> | undefined;

  constructor(report: (stats: Stats) => void) {
    this.#report = report;
  }

  /** Measure what these elements show. */
  attach(result: HTMLVideoElement, source: HTMLVideoElement | null): void {
    this.#elements = { result, source };
    this.#meter?.stop();
    this.#meter = null;
    if (this.#connection) this.#measure();
  }

  /** Media of `connection` is up. */
  start(connection: RTCPeerConnection): void {
    if (this.#connection === connection) return;
    this.stop();
    this.#connection = connection;
    this.#measure();
    if (!this.#meter) void this.#awaitFrame(connection);
    const reader = new StatsReader();
    this.#ticker = setInterval(() => void this.#read(reader, connection), INTERVAL);
  }

  stop(): void {
    clearInterval(this.#ticker);
    this.#connection = null;
    this.#meter?.stop();
    this.#meter = null;
    this.node = null;
  }

  #measure(): void {
    if (!this.#elements || !LatencyMeter.supported) return;
    const { source, result } = this.#elements;
    this.#meter = new LatencyMeter(source, result, () => this.#onFrame());
  }

  async #read(reader: StatsReader, connection: RTCPeerConnection): Promise<void> {
    const stats = await reader.read(connection, this.#meter, this.node);
    if (connection === this.#connection) this.#publish(stats);
  }

  /** Without an element the first decoded frame counts. */
  async #awaitFrame(connection: RTCPeerConnection): Promise<void> {
    while (connection === this.#connection && !this.#meter) {
      if (await framesDecoded(connection)) return this.#onFrame();
      await new Promise((resolve) => setTimeout(resolve, FIRST_FRAME_INTERVAL));
    }
  }

  #onFrame(): void {
    if (this.marks.mark("frame")) this.#publish(this.stats);
  }

  #publish(stats: Stats): void {
    this.stats = { ...stats, firstFrame: this.marks.firstFrame };
    this.#report(this.stats);
  }
}
