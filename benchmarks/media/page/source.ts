/** What is sent: a moving picture at 30 frames a second, each with the time at which it was drawn. */

import { cellSize, draw } from "./barcode.ts";

/**
 * Just off half the screen's 60 Hz, so that the phase between drawing and screen goes through all its values
 * every 5 s, as it does with a camera, and no measurement depends on the phase at which it happened to begin.
 */
export const FPS = 29.9;
const BLOBS = 400;

/** Fills a context with one frame; `step` counts the frames. */
export type Painter = (context: CanvasRenderingContext2D, step: number) => void;

export class Source {
  readonly canvas = document.createElement("canvas");
  readonly stream: MediaStream;
  drawn = 0;
  readonly #context: CanvasRenderingContext2D;
  readonly #paint: Painter;
  readonly #track: CanvasCaptureMediaStreamTrack;
  readonly #start = performance.now();
  #step = 0;
  #timer = 0;

  constructor(width: number, height: number, paint: Painter = pan(width, height)) {
    this.canvas.width = width;
    this.canvas.height = height;
    const context = this.canvas.getContext("2d", { alpha: false });
    if (!context) throw new Error("no canvas");
    this.#context = context;
    this.#paint = paint;
    // Rate 0: a frame is captured when it is asked for, which is once for each that was drawn. With a rate of
    // 30 the browser's own limiter beats against the timer and drops some.
    this.stream = this.canvas.captureStream(0);
    this.#track = this.stream.getVideoTracks()[0] as CanvasCaptureMediaStreamTrack;
    this.#next();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#track.stop();
  }

  /** Frames are due on a fixed grid, so that a late one does not make all behind it late. */
  #next(): void {
    const passed = performance.now() - this.#start;
    this.#step = Math.max(this.#step + 1, Math.ceil((passed * FPS) / 1000)); // timers may fire early
    this.#timer = setTimeout(() => this.#frame(), (this.#step * 1000) / FPS - passed);
  }

  #frame(): void {
    const time = performance.now();
    this.#paint(this.#context, this.#step);
    draw(this.#context, cellSize(this.canvas.height), time);
    this.#track.requestFrame();
    this.drawn++;
    this.#next();
  }
}

/** A camera that pans over a drawn landscape: every pixel moves, as with a hand-held phone. */
function pan(width: number, height: number): Painter {
  const wide = document.createElement("canvas");
  wide.width = width + 256;
  wide.height = height + 128;
  const context = wide.getContext("2d", { alpha: false });
  if (!context) throw new Error("no canvas");
  let seed = 1;
  const random = (): number => (seed = (seed * 48271) % 2147483647) / 2147483647;
  for (let i = 0; i < BLOBS; i++) {
    const radius = 8 + (random() * height) / 8;
    context.fillStyle = `hsl(${random() * 360} ${30 + random() * 50}% ${20 + random() * 60}%)`;
    context.beginPath();
    context.arc(random() * wide.width, random() * wide.height, radius, 0, 2 * Math.PI);
    context.fill();
  }
  return (target, step) => {
    const x = 128 + 127 * Math.sin(step / 40);
    const y = 64 + 63 * Math.sin(step / 27);
    target.drawImage(wide, -x, -y);
  };
}

/** The frames of a playing video, covering the picture. */
export function show(video: HTMLVideoElement, width: number, height: number): Painter {
  return (target) => target.drawImage(video, 0, 0, width, height);
}
