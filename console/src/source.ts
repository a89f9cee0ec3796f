import type { SourceProblem } from "./texts.ts";

export type SourceKind = "camera" | "clip" | "file";

/** The source cannot be had; `problem` says why. */
export class SourceError extends Error {
  readonly problem: SourceProblem;

  constructor(problem: SourceProblem) {
    super(problem);
    this.problem = problem;
  }
}

type Capturing = HTMLVideoElement & {
  captureStream?: () => MediaStream;
  mozCaptureStream?: () => MediaStream;
};

const FRAME_RATE = 30;
const LARGEST = 1280; // pixels: longer sides of a file are drawn smaller where a canvas captures it

/** One video element and the stream that it stands for: the camera, or what the element plays. */
export class Source {
  stream: MediaStream | null = null;
  readonly video: HTMLVideoElement;
  readonly #clip: string;
  #release: (() => void) | null = null;
  #turn = 0;

  constructor(video: HTMLVideoElement, clip: string) {
    this.video = video;
    this.#clip = clip;
  }

  /**
   * Show `kind` in the element and return its stream, or null if another call came in between.
   * Rejects with SourceError, and then there is no source.
   */
  async use(kind: SourceKind, file?: File): Promise<MediaStream | null> {
    const turn = ++this.#turn;
    this.stop();
    const [stream, release] = kind === "camera" ? await this.#camera() : await this.#play(kind, file);
    if (turn !== this.#turn) {
      release();
      return null;
    }
    this.#release = release;
    return (this.stream = stream);
  }

  stop(): void {
    this.#release?.();
    this.#release = null;
    this.stream = null;
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    this.video.load();
  }

  async #camera(): Promise<[MediaStream, () => void]> {
    // Typed as always there; it is not, outside a secure context.
    const devices = navigator.mediaDevices as MediaDevices | undefined;
    if (!devices) throw new SourceError("insecure");
    try {
      const video = { width: { ideal: 640 }, height: { ideal: 360 }, frameRate: { ideal: FRAME_RATE } };
      const stream = await devices.getUserMedia({ video: { ...video, facingMode: "user" } });
      this.video.srcObject = stream;
      await this.video.play();
      return [stream, () => stream.getTracks().forEach((track) => track.stop())];
    } catch (error) {
      throw new SourceError(cameraProblem(error));
    }
  }

  async #play(kind: "clip" | "file", file?: File): Promise<[MediaStream, () => void]> {
    const url = file ? URL.createObjectURL(file) : this.#clip;
    this.video.src = url;
    try {
      await this.video.play();
    } catch (error) {
      if (file) URL.revokeObjectURL(url);
      // A newer source aborts this one: then this error is seen by nobody.
      throw new SourceError(error instanceof DOMException && error.name === "AbortError" ? "camera" : kind);
    }
    const [stream, stopDrawing] = await capture(this.video);
    const release = (): void => {
      stopDrawing();
      stream.getTracks().forEach((track) => track.stop());
      if (file) URL.revokeObjectURL(url);
    };
    return [stream, release];
  }
}

function cameraProblem(error: unknown): SourceProblem {
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
      return "denied";
    case "SecurityError":
      return "insecure";
    case "NotFoundError":
    case "OverconstrainedError":
      return "missing";
    case "NotReadableError":
    case "AbortError":
      return "busy";
    default:
      return "camera";
  }
}

/** The picture of a playing element as a stream: captured where the browser can, or else drawn on a canvas. */
async function capture(video: Capturing): Promise<[MediaStream, () => void]> {
  const captured = video.captureStream?.() ?? video.mozCaptureStream?.();
  if (!captured) return draw(video);
  if (!captured.getVideoTracks().length) {
    await new Promise((resolve) => captured.addEventListener("addtrack", resolve, { once: true }));
  }
  return [new MediaStream(captured.getVideoTracks()), () => undefined];
}

/** Safari has no captureStream on video elements. */
function draw(video: HTMLVideoElement): [MediaStream, () => void] {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { alpha: false });
  const scale = Math.min(1, LARGEST / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round((video.videoWidth * scale) / 2) * 2;
  canvas.height = Math.round((video.videoHeight * scale) / 2) * 2;
  let drawing = true;
  const step = (): void => {
    if (!drawing) return;
    context?.drawImage(video, 0, 0, canvas.width, canvas.height);
    video.requestVideoFrameCallback(step);
  };
  step();
  return [canvas.captureStream(FRAME_RATE), () => (drawing = false)];
}
