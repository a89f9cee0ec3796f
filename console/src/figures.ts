import type { FirstFrame, Stats } from "rtcbridge";
import { byId, byTestId, make } from "./dom.ts";

const PHASES: readonly [keyof Omit<FirstFrame, "total">, string][] = [
  ["auth", "Key"],
  ["line", "Line"],
  ["answer", "Answer"],
  ["ice", "Connection"],
  ["frame", "Frame"],
];

const NONE = "–";

/** Milliseconds in words that stay short: `84 ms`, `1.24 s`. */
export function duration(ms: number): [value: string, unit: string] {
  return ms < 1000 ? [ms.toFixed(0), "ms"] : [(ms / 1000).toFixed(ms < 10_000 ? 2 : 1), "s"];
}

/** Writes the figures of a session into the page. */
export class Figures {
  readonly #fps = byTestId("fps");
  readonly #latency = byTestId("latency");
  readonly #ttff = byTestId("ttff");
  readonly #more = byId("more-figures");
  #shown: FirstFrame | null = null;

  clear(): void {
    for (const tile of [this.#fps, this.#latency, this.#ttff]) tile.textContent = NONE;
    this.#more.replaceChildren();
    byId("phases").hidden = true;
    this.#shown = null;
  }

  show(stats: Stats): void {
    const fps = stats.fpsPresented ?? stats.fpsDecoded;
    if (fps !== null) write(this.#fps, fps.toFixed(1));
    if (stats.latency) {
      const [value, unit] = duration(stats.latency.ms);
      const estimated = stats.latency.kind === "estimated";
      write(this.#latency, (estimated ? "≈ " : "") + value, unit);
      this.#latency.title = estimated
        ? "Estimated: too little motion in the picture to measure. The sum of network, model and buffers."
        : "Measured: from a motion in the source to the same motion in the result.";
    }
    this.#phases(stats.firstFrame);
    this.#table(stats);
  }

  #phases(first: FirstFrame | null): void {
    if (!first || this.#shown) return;
    this.#shown = first;
    write(this.#ttff, ...duration(first.total));
    byId("phases").hidden = false;
    const parts = PHASES.map(([name]) => {
      const part = make("span", { className: `phase-${name}` });
      part.style.flexGrow = String(first[name]);
      return part;
    });
    byId("phase-bar").replaceChildren(...parts);
    const rows = PHASES.map(([name, title]) =>
      make("li", { className: `phase-${name}` }, `${title} `, make("b", {}, duration(first[name]).join(" "))),
    );
    byId("phase-list").replaceChildren(...rows);
  }

  #table(stats: Stats): void {
    const ms = (value: number | null | undefined): string =>
      value == null ? NONE : `${value.toFixed(0)} ms`;
    const rate = (value: number | null): string =>
      value === null ? NONE : `${(value / 1e6).toFixed(2)} Mbit/s`;
    const { node } = stats;
    const rows: [string, string][] = [
      ["Network round trip", ms(stats.rtt)],
      ["Model", ms(node?.model_ms)],
      ["Node, frames in → out", node ? `${node.fps_in.toFixed(0)} → ${node.fps_out.toFixed(0)} fps` : NONE],
      ["Frames that the node skipped", node ? String(node.dropped) : NONE],
      ["Result", stats.width ? `${stats.width} × ${stats.height}` : NONE],
      ["Jitter buffer", ms(stats.jitterBuffer)],
      ["Sent", rate(stats.bitrateOut)],
      ["Received", rate(stats.bitrateIn)],
    ];
    this.#more.replaceChildren(
      ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
  }
}

function write(tile: HTMLElement, value: string, unit = ""): void {
  tile.replaceChildren(value, ...(unit ? [make("small", {}, ` ${unit}`)] : []));
}
