/**
 * Round-trip latency as the viewer sees it, from the two pictures alone.
 *
 * The result shows, later, what the source showed: where something moves in the one, something moves in the
 * other one latency afterwards, whatever colours or brush strokes the model puts there. So:
 *
 * 1. Each presented frame of either video (`requestVideoFrameCallback`, WICG video-rvfc) is drawn to a
 *    16 × 9 canvas, and its luma is kept with the time at which the frame is on the screen
 *    (`expectedDisplayTime`).
 * 2. Over a window of some 3 s, the luma of each cell is put on one even time grid by linear interpolation
 *    between frames. This makes the frame rates of the two videos irrelevant: 30 a second in, 8 out, is fine.
 * 3. The motion of a cell is |luma(t) − luma(t − 100 ms)|, less its mean. The absolute value makes models that
 *    invert or recolour harmless; the normalisation below makes their contrast harmless.
 * 4. For each delay, each cell of the source is correlated (Pearson) with the same cell of the result that much
 *    later, and the mean over the cells is taken, weighted by how much moves in the source. The delay of the
 *    highest correlation is the latency; a parabola through the peak and its two neighbours gives it to a
 *    fraction of the grid. From second to second the correlations are averaged, older ones with less weight:
 *    what flickers in a painted picture averages out, the delay does not.
 *
 * Where cells do not correspond (a model that mirrors or moves the picture), the motion of the whole picture is
 * correlated instead, which needs a higher correlation to be believed.
 *
 * It is null, rather than wrong, when there is little motion, when the best correlation is low, or when another
 * delay fits nearly as well (periodic motion). What is measured is source on screen → result on screen: the
 * camera's own delay is in neither.
 */

export const COLUMNS = 16;
export const ROWS = 9;
const CELLS = COLUMNS * ROWS;

/** Luma (0 to 255) of each cell, of a frame on the screen at `time` (milliseconds). */
export interface Sample {
  time: number;
  luma: Float32Array;
}

/** A measured delay in milliseconds, and the correlation (0 to 1) at it. */
export interface Match {
  ms: number;
  correlation: number;
}

const STEP = 1000 / 60; // ms: the grid
const SPAN = 6; // steps: motion is the change over 100 ms
const WINDOW = 3000; // ms of the result that are looked at
const LONGEST = 1500; // ms: the longest delay that is looked for
const LEAST_MOTION = 0.8; // luma levels, root mean square, over the window
const LEAST_CORRELATION = 0.25; // with every cell
const LEAST_WHOLE = 0.6; // with the picture as one cell, where chance alone correlates more
const MEMORY = 0.6; // weight of the correlations before, at each new look
const RIVAL = 0.9; // a second peak this near to the first makes the delay ambiguous
const RIVAL_DISTANCE = 9; // steps: peaks nearer than this are one peak

/** The delay between two series of samples, each in the order of time; null when it cannot be told. */
export function estimate(source: readonly Sample[], result: readonly Sample[]): Match | null {
  return new Estimator().next(source, result);
}

/** Estimates again and again, with a memory of the correlations before. */
export class Estimator {
  #cells: Float64Array | null = null;
  #whole: Float64Array | null = null;

  /** The delay as of now; null when it cannot be told. */
  next(source: readonly Sample[], result: readonly Sample[]): Match | null {
    const newest = Math.min(source.at(-1)?.time ?? 0, result.at(-1)?.time ?? 0);
    const count = Math.floor(WINDOW / STEP);
    // The source should reach back further by the longest delay; if it is younger, less far is looked.
    const reach = Math.floor((newest - (source[0]?.time ?? newest)) / STEP) - count - SPAN;
    const back = Math.min(Math.floor(LONGEST / STEP), reach);
    const later = back < RIVAL_DISTANCE ? null : motion(result, newest, count);
    const earlier = later && motion(source, newest, count + back);
    if (!later || !earlier || rms(later) < LEAST_MOTION || rms(earlier) < LEAST_MOTION) {
      this.#cells = this.#whole = null;
      return null;
    }
    this.#cells = blend(this.#cells, correlations(earlier, later, CELLS, back));
    this.#whole = blend(this.#whole, correlations(whole(earlier), whole(later), 1, back));
    return peak(this.#cells, LEAST_CORRELATION) ?? peak(this.#whole, LEAST_WHOLE);
  }
}

/** The average of what was and what is, over the delays that both know. */
function blend(before: Float64Array | null, now: Float64Array): Float64Array {
  return now.map((score, lag) => MEMORY * (before?.[lag] ?? score) + (1 - MEMORY) * score);
}

/** The correlation for each delay of 0 to `back` steps. */
function correlations(earlier: Float32Array, later: Float32Array, cells: number, back: number): Float64Array {
  return Float64Array.from({ length: back + 1 }, (_, lag) => correlate(earlier, later, cells, back - lag));
}

/** The motion of all cells as one. */
function whole(motion: Float32Array): Float32Array {
  const count = motion.length / CELLS;
  const out = new Float32Array(count);
  motion.forEach((moved, i) => (out[i % count]! += moved));
  return out;
}

/** `count` steps of centred motion, cell-major, that end at `end`; null if the samples do not cover them. */
function motion(samples: readonly Sample[], end: number, count: number): Float32Array | null {
  const levels = resample(samples, end, count + SPAN);
  if (!levels) return null;
  const out = new Float32Array(CELLS * count);
  for (let cell = 0; cell < CELLS; cell++) {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      const at = (i + SPAN) * CELLS + cell;
      const moved = Math.abs(levels[at]! - levels[at - SPAN * CELLS]!);
      out[cell * count + i] = moved;
      sum += moved;
    }
    for (let i = 0; i < count; i++) out[cell * count + i]! -= sum / count;
  }
  return out;
}

/** Luma at `count` even steps up to `end`, time-major. */
function resample(samples: readonly Sample[], end: number, count: number): Float32Array | null {
  const first = samples[0];
  const begin = end - (count - 1) * STEP;
  if (!first || first.time > begin) return null;
  const out = new Float32Array(CELLS * count);
  let next = 1;
  for (let i = 0; i < count; i++) {
    const time = begin + i * STEP;
    while (next < samples.length - 1 && samples[next]!.time < time) next++;
    const a = samples[next - 1]!;
    const b = samples[next] ?? a;
    const part = b.time > a.time ? Math.min(1, Math.max(0, (time - a.time) / (b.time - a.time))) : 0;
    for (let cell = 0; cell < CELLS; cell++) {
      out[i * CELLS + cell] = a.luma[cell]! + part * (b.luma[cell]! - a.luma[cell]!);
    }
  }
  return out;
}

/** Weighted mean over the cells of the correlation of `later` with `earlier` from `offset` steps on. */
function correlate(earlier: Float32Array, later: Float32Array, cells: number, offset: number): number {
  const stride = earlier.length / cells;
  const count = later.length / cells;
  let total = 0;
  let weights = 0;
  for (let cell = 0; cell < cells; cell++) {
    let sum = 0;
    let squares = 0;
    let products = 0;
    let others = 0;
    for (let i = 0; i < count; i++) {
      const a = earlier[cell * stride + offset + i]!;
      const b = later[cell * count + i]!;
      sum += a;
      squares += a * a;
      products += a * b;
      others += b * b;
    }
    // `later` is centred, so the mean of `earlier` drops out of `products`.
    const moved = Math.sqrt(Math.max(0, squares - (sum * sum) / count));
    if (others > 0) total += products / Math.sqrt(others); // = correlation × moved
    weights += moved;
  }
  return weights > 0 ? total / weights : 0;
}

/** The highest score, if it is high and has no rival, to a fraction of a step. */
function peak(scores: Float64Array, least: number): Match | null {
  const best = scores.reduce((top, score, i) => (score > scores[top]! ? i : top), 0);
  const top = scores[best]!;
  if (top < least || best === scores.length - 1) return null;
  const isPeak = (i: number): boolean =>
    scores[i]! >= (scores[i - 1] ?? -1) && scores[i]! >= (scores[i + 1] ?? -1);
  for (let i = 0; i < scores.length; i++) {
    if (Math.abs(i - best) > RIVAL_DISTANCE && isPeak(i) && scores[i]! > RIVAL * top) return null;
  }
  const before = scores[best - 1] ?? top;
  const after = scores[best + 1]!;
  const bend = before - 2 * top + after;
  const shift = best > 0 && bend < 0 ? (before - after) / (2 * bend) : 0;
  return { ms: (best + shift) * STEP, correlation: top };
}

function rms(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

/** Keeps the samples of one video element while it plays. */
class Sampler {
  readonly samples: Sample[] = [];
  readonly #video: HTMLVideoElement;
  readonly #context: CanvasRenderingContext2D | null;
  readonly #onFrame: (() => void) | undefined;
  #handle = 0;

  constructor(video: HTMLVideoElement, onFrame?: () => void) {
    const canvas = document.createElement("canvas");
    canvas.width = COLUMNS;
    canvas.height = ROWS;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
    if (this.#context) this.#context.imageSmoothingQuality = "medium"; // averages, where "low" picks points
    this.#video = video;
    this.#onFrame = onFrame;
    this.#request();
  }

  stop(): void {
    this.#video.cancelVideoFrameCallback(this.#handle);
  }

  #request(): void {
    this.#handle = this.#video.requestVideoFrameCallback((_now, { expectedDisplayTime }) => {
      this.#request();
      this.#onFrame?.();
      this.#keep(expectedDisplayTime);
    });
  }

  #keep(time: number): void {
    const last = this.samples.at(-1);
    if (!this.#context || (last && time <= last.time)) return;
    this.#context.drawImage(this.#video, 0, 0, COLUMNS, ROWS);
    const { data } = this.#context.getImageData(0, 0, COLUMNS, ROWS);
    const luma = new Float32Array(CELLS);
    for (let i = 0; i < CELLS; i++) {
      luma[i] = 0.299 * data[4 * i]! + 0.587 * data[4 * i + 1]! + 0.114 * data[4 * i + 2]!;
    }
    this.samples.push({ time, luma });
    const oldest = time - WINDOW - LONGEST - 500;
    while (this.samples.length && this.samples[0]!.time < oldest) this.samples.shift();
  }
}

/** Measures the latency between two video elements, and counts the frames that the result presents. */
export class LatencyMeter {
  /** Frames of the result presented since the meter was made. */
  presented = 0;
  readonly #source: Sampler | null;
  readonly #result: Sampler;
  readonly #estimator = new Estimator();

  /** `onFrame` is called at each presented frame of the result. Needs `LatencyMeter.supported`. */
  constructor(source: HTMLVideoElement | null, result: HTMLVideoElement, onFrame: () => void) {
    this.#source = source && new Sampler(source);
    this.#result = new Sampler(result, () => {
      this.presented++;
      onFrame();
    });
  }

  static get supported(): boolean {
    return (
      typeof HTMLVideoElement !== "undefined" && "requestVideoFrameCallback" in HTMLVideoElement.prototype
    );
  }

  /** The latency now, or null. */
  measure(): Match | null {
    return this.#source && this.#estimator.next(this.#source.samples, this.#result.samples);
  }

  stop(): void {
    this.#source?.stop();
    this.#result.stop();
  }
}
