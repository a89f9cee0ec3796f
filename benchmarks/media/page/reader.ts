/** Reads the time out of every frame that a video element presents. */

import { Decoder, since } from "./barcode.ts";

/** One presented frame: when it was drawn (its code), and when it was seen. */
export interface Seen {
  code: number;
  /** Milliseconds from drawing to `presentationTime`, at which the browser handed it to the screen. */
  latency: number;
  /** `expectedDisplayTime`, in steps of the screen's refresh; what the SDK's own figure is made from. */
  display: number;
  width: number;
}

export class Reader {
  seen: Seen[] = [];
  /** Frames that were presented without a code that can be read, since `reset`. */
  unreadable = 0;
  /** Callbacks that came too late to see their picture, since `reset`. */
  overtaken = 0;
  readonly #decoder = new Decoder();
  readonly #video: HTMLVideoElement;
  #handle = 0;
  #presented = 0;
  #before = 0;
  #first: ((seen: Seen) => void) | null = null;
  /** Resolves with the first frame that has a code. */
  readonly first = new Promise<Seen>((resolve) => (this.#first = resolve));

  constructor(video: HTMLVideoElement) {
    this.#video = video;
    this.#request();
  }

  /** Frames presented since `reset`, as the browser counts them. */
  get presented(): number {
    return this.#presented - this.#before;
  }

  reset(): void {
    this.seen = [];
    this.unreadable = 0;
    this.overtaken = 0;
    this.#before = this.#presented;
  }

  stop(): void {
    this.#video.cancelVideoFrameCallback(this.#handle);
  }

  #request(): void {
    this.#handle = this.#video.requestVideoFrameCallback((_now, metadata) => {
      this.#request();
      this.#presented = metadata.presentedFrames;
      // The element may have gone on to the next picture: what is read must be the one that is told about.
      const frame = new VideoFrame(this.#video);
      const same = Math.abs(frame.timestamp / 1e6 - metadata.mediaTime) < 0.001;
      const code = same ? this.#decoder.read(frame, metadata.height) : null;
      frame.close();
      if (!same) {
        this.overtaken++;
        return;
      }
      if (code === null) {
        this.unreadable++;
        return;
      }
      const latency = since(code, metadata.presentationTime);
      const seen = { code, latency, display: metadata.expectedDisplayTime, width: metadata.width };
      this.seen.push(seen);
      this.#first?.(seen);
      this.#first = null;
    });
  }
}
