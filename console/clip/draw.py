"""Draw the moving clip that the page offers as a source: a lake at the end of a summer day.

Everything moves on a loop of 12 s with different harmonics, so that the last frame leads into the first and no
shorter stretch repeats: the latency meter needs motion that is unlike itself at any other time.

    python console/clip/draw.py console/clip/clip.webm
"""

import itertools
import math
import sys
from collections.abc import Iterator
from fractions import Fraction

import av
import cv2
import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 30, 12
FRAMES = FPS * SECONDS
SCALE = 2  # drawn at twice the size, averaged down
SUB = 4  # fractional bits of OpenCV's coordinates
BITRATE = 360_000  # bits a second
HORIZON = 212
Color = tuple[int, int, int]
Points = list[tuple[float, float]]


def wave(t: float, *harmonics: tuple[int, float, float]) -> float:
    """A function of the loop's phase `t` (0 to 1), from (cycles, amplitude, phase) harmonics."""
    return sum(a * math.sin(2 * math.pi * (n * t + p)) for n, a, p in harmonics)


class Canvas:
    """OpenCV drawing in units of the final picture, RGB colours, anti-aliased."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def polygon(self, points: Points, color: Color) -> None:
        """Fill a polygon."""
        array = np.array(points) * SCALE * (1 << SUB)
        cv2.fillPoly(self.image, [array.round().astype(np.int32)], color, cv2.LINE_AA, SUB)

    def line(self, points: Points, color: Color, width: float) -> None:
        """Stroke an open line."""
        array = (np.array(points) * SCALE * (1 << SUB)).round().astype(np.int32)
        cv2.polylines(self.image, [array], False, color, max(1, round(width * SCALE)), cv2.LINE_AA, SUB)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, angle: float = 0.0) -> None:
        """Fill an ellipse; `angle` in degrees."""
        turns = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        xs, ys = rx * np.cos(turns), ry * np.sin(turns)
        self.polygon(list(zip(x + c * xs - s * ys, y + s * xs + c * ys, strict=True)), color)


def sky() -> np.ndarray:
    """The parts that do not move: a warm sky and its lake, as one gradient."""
    stops = [
        (0, (46, 74, 140)),
        (90, (122, 120, 176)),
        (160, (240, 158, 128)),
        (HORIZON, (255, 214, 140)),
        (HORIZON + 1, (226, 160, 120)),
        (262, (86, 112, 160)),
        (HEIGHT, (24, 48, 92)),
    ]
    ys = np.arange(HEIGHT * SCALE) / SCALE
    column = np.stack([np.interp(ys, [y for y, _ in stops], [c[i] for _, c in stops]) for i in range(3)], axis=1)
    return np.repeat(column[:, None, :], WIDTH * SCALE, axis=1).round().astype(np.uint8)


def hills(canvas: Canvas, base: float, height: float, seed: int, color: Color, drift: float = 0.0) -> None:
    """One range of hills, from a fixed set of harmonics."""
    rng = np.random.default_rng(seed)
    parts = [(rng.uniform(0.6, 1.4) / (k + 1), 2 + 3 * k, rng.uniform(0, 7)) for k in range(5)]
    xs = np.linspace(-10, WIDTH + 10, 120)
    ys = base - height * (0.9 + sum(a * np.sin(n * (xs + drift) / 150 + p) for a, n, p in parts) / 2.2)
    canvas.polygon([*zip(xs, np.minimum(ys, base), strict=True), (WIDTH + 10, base), (-10, base)], color)


def sun(canvas: Canvas, t: float) -> None:
    """The sun, breathing, low over the lake, and its broken light on the water."""
    x, y = 430 + wave(t, (1, 16, 0.1)), 150 + wave(t, (1, 12, 0.4))
    glow = 6 + wave(t, (3, 2, 0.2), (5, 2, 0.7))
    canvas.ellipse(x, y, 40 + glow, 40 + glow, (255, 206, 132))
    canvas.ellipse(x, y, 34, 34, (255, 236, 176))
    for i in range(15):
        py = HORIZON + 6 + i * i * 0.62
        half = (26 + 3.2 * i) * (0.55 + 0.45 * math.sin(2 * math.pi * ((3 + i % 4) * t + i * 0.37)))
        px = x + wave(t, (2 + i % 3, 5 + i, i * 0.21))
        canvas.ellipse(px, py, half, 1.3 + i * 0.14, (255, 216, 150))


def balloon(canvas: Canvas, x: float, y: float, size: float, tilt: float, colors: list[Color]) -> None:
    """A striped hot-air balloon with its basket."""
    c, s = math.cos(tilt), math.sin(tilt)

    def at(px: float, py: float) -> tuple[float, float]:
        return x + size * (c * px - s * py), y + size * (s * px + c * py)

    def outline(edge: float) -> Points:
        angles = np.linspace(-math.pi / 2, math.pi / 2, 24)
        side = [(edge * math.cos(a) * (1 - 0.35 * max(0.0, math.sin(a)) ** 2), math.sin(a)) for a in angles]
        return [(px, py * (1.0 if py < 0 else 1.25)) for px, py in side]

    edges = np.linspace(1, -1, 8)
    for i, (left, right) in enumerate(itertools.pairwise(edges)):
        points = outline(left) + outline(right)[::-1]
        canvas.polygon([at(*p) for p in points], colors[i % len(colors)])
    for px in (-0.16, 0.16):
        canvas.line([at(px * 1.1, 1.2), at(px, 1.62)], (70, 52, 48), 0.8)
    canvas.polygon([at(-0.2, 1.6), at(0.2, 1.6), at(0.16, 1.92), at(-0.16, 1.92)], (120, 78, 48))


def bird(canvas: Canvas, x: float, y: float, size: float, flap: float) -> None:
    """A bird of two curved wings."""
    lift = math.sin(flap)
    for side in (-1, 1):
        wing = [
            (x + side * size * k, y - size * (lift * math.sin(k * 1.6) - 0.25 * k * k))
            for k in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        canvas.line(wing, (38, 36, 60), max(1.2, size / 9))


def boat(canvas: Canvas, x: float, y: float, roll: float, size: float) -> None:
    """A sailing boat that rolls, and a smear of it in the water."""
    c, s = math.cos(roll), math.sin(roll)

    def at(px: float, py: float) -> tuple[float, float]:
        return x + size * (c * px - s * py), y + size * (s * px + c * py)

    canvas.ellipse(x, y + size * 0.42, size * 0.95, size * 0.12, (44, 60, 100))
    canvas.polygon([at(-1, 0), at(1.1, 0), at(0.7, 0.36), at(-0.75, 0.36)], (150, 44, 52))
    canvas.polygon([at(-1, 0), at(1.1, 0), at(1.04, 0.08), at(-0.97, 0.08)], (246, 236, 220))
    canvas.polygon([at(0.04, -2.2), at(0.95, -0.15), at(0.04, -0.15)], (250, 240, 214))
    canvas.polygon([at(-0.06, -2.0), at(-0.8, -0.15), at(-0.06, -0.15)], (238, 120, 72))
    canvas.line([at(-0.01, -2.3), at(-0.01, 0)], (80, 56, 44), 1.6)


def ball(canvas: Canvas, t: float) -> None:
    """A beach ball that bounces along the shore, each bounce of another height and length."""
    heights = [110, 62, 150, 84, 128, 46, 96]
    lengths = [1.12, 0.84, 1.30, 0.98, 1.20, 0.72, 1.04]
    phase, i = t * sum(lengths), 0
    while phase >= lengths[i]:
        phase -= lengths[i]
        i = (i + 1) % len(lengths)
    u = phase / lengths[i]
    y = 318 - heights[i] * 4 * u * (1 - u)
    x = 150 + wave(t, (1, 96, 0.0), (2, 22, 0.3))
    squash = max(0.0, 1 - min(u, 1 - u) * 14) * 0.22
    radius, spin = 21.0, 2 * math.pi * (4 * t + 0.1 * math.sin(2 * math.pi * t * 3))
    canvas.ellipse(x, 342, radius * (1.1 - heights[i] * u * (1 - u) / 240), 4, (150, 112, 84))
    sectors = [(236, 64, 72), (252, 246, 236), (40, 128, 190), (252, 246, 236), (250, 196, 60), (252, 246, 236)]
    for k, color in enumerate(sectors):
        angles = np.linspace(spin + k * math.pi / 3, spin + (k + 1) * math.pi / 3, 10)
        rim = [
            (x + radius * (1 + squash) * math.cos(a), y + radius * (1 - squash) * math.sin(a) + squash * radius)
            for a in angles
        ]
        canvas.polygon([(x, y + squash * radius), *rim], color)
    canvas.ellipse(x, y + squash * radius, 4, 4, (252, 246, 236))


def shore(canvas: Canvas, t: float) -> None:
    """The sand, its edge, and reeds in gusts of wind."""
    xs = np.linspace(-10, WIDTH + 10, 60)
    edge = 318 + 9 * np.sin(xs / 95 + 0.8) + 2 * np.sin(xs / 31 + 2 * math.pi * 2 * t)
    canvas.polygon([*zip(xs, edge, strict=True), (WIDTH + 10, 362), (-10, 362)], (222, 182, 132))
    canvas.polygon([*zip(xs, edge + 13, strict=True), (WIDTH + 10, 362), (-10, 362)], (240, 206, 156))
    gust = wave(t, (1, 0.3, 0.2), (3, 0.34, 0.6), (7, 0.16, 0.1))
    rng = np.random.default_rng(7)
    for i in range(34):
        x0 = (470 if i % 3 else 8) + rng.uniform(0, 160 if i % 3 else 60)
        length = rng.uniform(46, 104)
        sway = gust + wave(t, (4 + i % 3, 0.12, i * 0.13))
        stem = [(x0 + sway * length * k * k * 0.8, 360 - length * k) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
        canvas.line(stem, [(54, 92, 58), (86, 122, 60), (38, 74, 60)][i % 3], 2.6)
        if i % 2:
            tip = stem[-1]
            canvas.ellipse(tip[0], tip[1] + 3, 3.2, 9, (112, 66, 40), math.degrees(sway) * 0.9)


def clouds(canvas: Canvas, t: float) -> None:
    """Three flat clouds, once across the sky in a loop."""
    for i, (y, size, shade) in enumerate(
        [(46, 1.0, (214, 186, 204)), (84, 0.7, (250, 200, 178)), (28, 0.6, (188, 176, 208))]
    ):
        x = (i * 290 + t * (WIDTH + 240)) % (WIDTH + 240) - 120
        for dx, dy, r in [(-42, 4, 20), (-16, -5, 28), (16, -2, 26), (44, 5, 17)]:
            canvas.ellipse(x + dx * size, y + dy * size, r * 1.5 * size, r * 0.62 * size, shade)


def frame(t: float, background: np.ndarray) -> np.ndarray:
    """The picture at phase `t` of the loop."""
    canvas = Canvas(background.copy())
    clouds(canvas, t)
    sun(canvas, t)
    hills(canvas, HORIZON, 46, 3, (124, 106, 150))
    hills(canvas, HORIZON + 1, 28, 11, (84, 84, 122))
    hills(canvas, HORIZON + 1, 13, 5, (46, 70, 84))
    balloon(
        canvas,
        118 + wave(t, (1, 62, 0.0), (2, 14, 0.2)),
        86 + wave(t, (1, 22, 0.3), (3, 7, 0.1)),
        42,
        wave(t, (2, 0.09, 0.4)),
        [(216, 56, 68), (250, 204, 92), (40, 110, 160)],
    )
    balloon(
        canvas,
        548 + wave(t, (1, -52, 0.2)),
        84 + wave(t, (2, 16, 0.6), (1, 14, 0.0)),
        26,
        wave(t, (3, 0.1, 0.1)),
        [(44, 150, 136), (244, 240, 224)],
    )
    for i in range(6):
        cx, cy = 320 + wave(t, (1, 210, 0.55), (2, 40, 0.1)), 96 + wave(t, (2, 34, 0.3), (3, 16, 0.7))
        bird(
            canvas,
            cx + (i - 2.5) * 24,
            cy + abs(i - 2.5) * 12 + wave(t, (5, 5, i * 0.3)),
            10 + i % 3,
            2 * math.pi * ((17 + 2 * (i % 3)) * t + i * 0.17),
        )
    boat(
        canvas,
        318 + wave(t, (1, 120, 0.75), (2, 20, 0.0)),
        262 + wave(t, (3, 3, 0.2)),
        wave(t, (2, 0.1, 0.0), (5, 0.06, 0.3)),
        36,
    )
    ripples(canvas, t)
    shore(canvas, t)
    ball(canvas, t)
    return cv2.resize(canvas.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def ripples(canvas: Canvas, t: float) -> None:
    """Short strokes of light and shade on the water."""
    rng = np.random.default_rng(21)
    for i in range(46):
        y = HORIZON + 8 + rng.uniform(0, 1) ** 1.4 * 96
        depth = (y - HORIZON) / 100
        x = rng.uniform(0, WIDTH) + wave(t, (1 + i % 4, 14 * depth + 4, i * 0.19))
        half = (8 + 26 * depth) * (0.6 + 0.4 * math.sin(2 * math.pi * ((2 + i % 5) * t + i * 0.23)))
        canvas.line([(x - half, y), (x + half, y)], (150, 160, 186) if i % 2 else (40, 62, 110), 1.2)


def frames() -> Iterator[np.ndarray]:
    """The whole loop."""
    background = sky()
    for i in range(FRAMES):
        yield frame(i / FRAMES, background)


def encode(path: str) -> None:
    """Write the loop as VP9 in WebM, which every current browser plays."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", BITRATE
        stream.time_base = Fraction(1, FPS)
        stream.options = {"deadline": "good", "cpu-used": "2", "row-mt": "1", "g": "120"}
        for i, picture in enumerate(frames()):
            video = av.VideoFrame.from_ndarray(picture, format="rgb24")
            video.pts, video.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(video))
        container.mux(stream.encode())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        encode(sys.argv[1])
    else:
        sys.exit("usage: draw.py FILE.webm")
