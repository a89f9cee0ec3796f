import assert from "node:assert/strict";
import { test } from "node:test";
import { COLUMNS, estimate, ROWS, type Sample } from "../src/latency.ts";

type Paint = (luma: number, cell: number, random: () => number) => number;

/** A small generator with a fixed seed (mulberry32), so that a failure can be looked at. */
function randomness(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A picture of three soft blobs on paths that do not repeat, at `time` ms: luma of one cell. */
function scene(time: number, cell: number): number {
  const x = cell % COLUMNS;
  const y = Math.floor(cell / COLUMNS);
  const t = time / 1000;
  let luma = 60 + 4 * x;
  for (const [a, b, c, d] of [
    [1.7, 0.61, 2.3, 0.83],
    [0.9, 1.37, 1.1, 1.93],
    [2.9, 0.37, 0.7, 2.57],
  ] as const) {
    const bx = (COLUMNS / 2) * (1 + 0.9 * Math.sin(a * t + b * Math.sin(1.3 * b * t)));
    const by = (ROWS / 2) * (1 + 0.9 * Math.sin(c * t + d * Math.sin(0.7 * d * t)));
    luma += 150 * Math.exp(-((x - bx) ** 2 + (y - by) ** 2) / 3);
  }
  return Math.min(255, luma);
}

interface Film {
  fps: number;
  delay?: number;
  jitter?: number;
  paint?: Paint;
  still?: boolean;
  seconds?: number;
}

function film({
  fps,
  delay = 0,
  jitter = 0,
  paint = (luma) => luma,
  still = false,
  seconds = 6,
}: Film): Sample[] {
  const random = randomness(fps * 1000 + delay);
  const noise = (): number => jitter * (random() + random() - 1);
  return Array.from({ length: Math.floor(seconds * fps) }, (_, i) => {
    const taken = (1000 * i) / fps;
    const luma = Float32Array.from({ length: COLUMNS * ROWS }, (_, cell) =>
      Math.round(paint(scene(still ? 0 : taken, cell), cell, random)),
    );
    return { time: 5000 + taken + delay + noise(), luma };
  });
}

const PAINTS: Record<string, Paint> = {
  "as it is": (luma) => luma,
  "with low contrast": (luma) => 120 + 0.15 * luma,
  inverted: (luma) => 255 - luma,
  posterized: (luma) => 64 * Math.floor(luma / 64) + 20,
  "with gamma": (luma) => 255 * (luma / 255) ** 2.5,
  solarized: (luma) => (luma > 128 ? 2 * (255 - luma) : 2 * luma),
  "with a gain of its own in each cell": (luma, cell) => luma * (0.3 + ((cell * 7) % 5) / 5),
  noisy: (luma, _, random) => luma + 24 * (random() - 0.5),
  "with brush strokes": (luma, cell) => 0.6 * luma + 60 * Math.sin(luma / 18 + cell),
};

for (const [name, paint] of Object.entries(PAINTS)) {
  for (const [fps, delay] of [
    [30, 40],
    [30, 183],
    [12, 263],
    [8, 611],
  ] as const) {
    test(`a result ${name}, ${fps} frames a second, ${delay} ms late`, () => {
      const match = estimate(film({ fps: 30, jitter: 3 }), film({ fps, delay, jitter: 6, paint }));
      assert.ok(match, "no delay was found");
      assert.ok(Math.abs(match.ms - delay) < 10, `found ${match.ms.toFixed(1)} ms`);
    });
  }
}

test("a mirrored result is matched by its motion as a whole", () => {
  const result = film({ fps: 30, delay: 150 }).map(({ time, luma }) => ({
    time,
    luma: luma.map((_, cell) => luma[cell + COLUMNS - 1 - 2 * (cell % COLUMNS)]!),
  }));
  const match = estimate(film({ fps: 30 }), result);
  assert.ok(match && Math.abs(match.ms - 150) < 10, `found ${match?.ms}`);
});

test("the two clocks need not begin together: a source that began late is still matched", () => {
  const source = film({ fps: 30 }).slice(40);
  const match = estimate(source, film({ fps: 30, delay: 120 }));
  assert.ok(match && Math.abs(match.ms - 120) < 10, `found ${match?.ms}`);
});

test("no motion gives no figure", () => {
  assert.equal(estimate(film({ fps: 30, still: true }), film({ fps: 30, delay: 100, still: true })), null);
});

test("noise alone gives no figure", () => {
  const noise: Paint = (_luma, _cell, random) => 255 * random();
  assert.equal(estimate(film({ fps: 30 }), film({ fps: 30, delay: 100, paint: noise })), null);
});

test("another film gives no figure", () => {
  const other = film({ fps: 30, delay: 100, seconds: 30 })
    .slice(-180)
    .map(({ time, luma }) => ({
      time: time - 24_000,
      luma,
    }));
  assert.equal(estimate(film({ fps: 30 }), other), null);
});

test("motion that repeats gives no figure", () => {
  const blink = (delay: number): Sample[] =>
    film({ fps: 30, delay }).map(({ time }, i) => ({
      time,
      luma: new Float32Array(COLUMNS * ROWS).fill(i % 15 < 7 ? 40 : 200),
    }));
  assert.equal(estimate(blink(0), blink(100)), null);
});

test("too little to look at gives no figure", () => {
  assert.equal(estimate([], []), null);
  assert.equal(estimate(film({ fps: 30, seconds: 2 }), film({ fps: 30, delay: 50, seconds: 2 })), null);
});
