"""Charts as SVG text: axes, lines, areas, marks. No more than the plots of this package need."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise

Point = tuple[float, float]

INK, FAINT, GRID = "#1f2933", "#66727f", "#e3e7eb"
COLOURS = ("#2a6fdb", "#e07a1f", "#2e9e6b", "#b0429a", "#c43c3c", "#7a6ad8", "#8a6d3b", "#2f9fb3")
_FONT = "font-family='system-ui,-apple-system,Segoe UI,DejaVu Sans,sans-serif'"
_HALO = "paint-order='stroke' stroke='#ffffff' stroke-width='3'"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def ticks(low: float, high: float, about: int = 5, least: float = 0.0) -> list[float]:
    """Round numbers from low to high, about so many, at least `least` apart."""
    if high <= low:
        return [low]
    raw = max(least, (high - low) / about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


class Canvas:
    """A picture of a size in pixels, drawn from back to front."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, text: str, *, size: int = 12, colour: str = INK, anchor: str = "start",
        weight: str = "normal", turn: bool = False,
    ) -> None:  # fmt: skip
        """Write one line; `y` is its base line. With `turn` it goes upwards."""
        rotate = f" transform='rotate(-90 {_number(x)} {_number(y)})'" if turn else ""
        self._parts.append(
            f"<text x='{_number(x)}' y='{_number(y)}' font-size='{size}' fill='{colour}' text-anchor='{anchor}'"
            f" font-weight='{weight}' {_HALO}{rotate}>{escape(text)}</text>"
        )

    def path(
        self, points: Iterable[Point], colour: str, *, width: float = 1.5, fill: str = "none", dash: str = ""
    ) -> None:
        """Draw a line through points, or fill what it encloses."""
        line = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
        dashes = f" stroke-dasharray='{dash}'" if dash else ""
        look = f"fill='{fill}' stroke='{colour}' stroke-width='{width}' stroke-linejoin='round'{dashes}"
        self._parts.append(f"<path d='M{line}' {look}/>")

    def dot(
        self, x: float, y: float, radius: float, colour: str, *, ring: bool = False, hollow: bool = False, tip: str = ""
    ) -> None:
        """Draw a disk, a white one with an edge, or an open ring; `tip` is shown under the pointer."""
        look = f"fill='{colour}' fill-opacity='0.85'"
        if ring or hollow:
            look = f"fill='{'none' if ring else '#ffffff'}' stroke='{colour}' stroke-width='{2 if ring else 1.6}'"
        title = f"<title>{escape(tip)}</title>" if tip else ""
        self._parts.append(f"<circle cx='{_number(x)}' cy='{_number(y)}' r='{_number(radius)}' {look}>{title}</circle>")

    def svg(self) -> str:
        """The whole document."""
        size = f"width='{self._width}' height='{self._height}' viewBox='0 0 {self._width} {self._height}'"
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' {size} {_FONT}>\n"
            f"<rect width='100%' height='100%' fill='#ffffff'/>\n" + "\n".join(self._parts) + "\n</svg>\n"
        )


class Axes:
    """A rectangle of a canvas with a scale on each side; `log` makes the upright one logarithmic.

    Args:
        canvas: what is drawn on.
        box: left, top, right, bottom, in pixels.
        x: the least and the greatest value from left to right.
        y: the same from bottom to top.
        log: whether equal factors are equally far apart upwards; `y` is above 0 then.
    """

    def __init__(
        self, canvas: Canvas, box: tuple[float, float, float, float], x: Point, y: Point, *, log: bool = False
    ) -> None:
        self.canvas, self._box, self._x, self._log = canvas, box, x, log
        self._y = (math.log10(y[0]), math.log10(y[1])) if log else y

    def at(self, x: float, y: float) -> Point:
        """The pixel of a value; values outside are drawn at the edge."""
        left, top, right, bottom = self._box
        (x0, x1), (y0, y1) = self._x, self._y
        if self._log:
            y = math.log10(max(y, 10.0**y0))
        return (
            left + (right - left) * min(1.0, max(0.0, (x - x0) / (x1 - x0))),
            bottom - (bottom - top) * min(1.0, max(0.0, (y - y0) / (y1 - y0))),
        )

    def grid(
        self, xs: Sequence[float], ys: Sequence[float], x_text: Callable[[float], str], y_text: Callable[[float], str]
    ) -> None:
        """Draw the lines of both scales with their labels."""
        left, top, right, bottom = self._box
        for value in xs:
            x, _ = self.at(value, 10.0 ** self._y[0] if self._log else self._y[0])
            self.canvas.path([(x, top), (x, bottom)], GRID, width=1)
            self.canvas.text(x, bottom + 17, x_text(value), size=11, colour=FAINT, anchor="middle")
        for value in ys:
            _, y = self.at(self._x[0], value)
            self.canvas.path([(left, y), (right, y)], GRID, width=1)
            self.canvas.text(left - 7, y + 4, y_text(value), size=11, colour=FAINT, anchor="end")

    def titles(self, x: str, y: str) -> None:
        """Name both scales."""
        left, top, right, bottom = self._box
        self.canvas.text((left + right) / 2, bottom + 38, x, colour=FAINT, anchor="middle")
        self.canvas.text(left - 48, (top + bottom) / 2, y, colour=FAINT, anchor="middle", turn=True)

    def steps(self, points: Sequence[Point], colour: str, *, width: float = 1.5) -> None:
        """Draw values that hold until the next one."""
        self.canvas.path(self._stairs(points), colour, width=width)

    def area(self, points: Sequence[Point], colour: str) -> None:
        """The same, filled down to zero."""
        stairs = self._stairs(points)
        ends = [self.at(points[-1][0], 0.0), self.at(points[0][0], 0.0)]
        self.canvas.path([*stairs, *ends], "none", fill=colour)

    def _stairs(self, points: Sequence[Point]) -> list[Point]:
        stairs = [self.at(*points[0])]
        for (_, before), (x, y) in pairwise(points):
            stairs += [self.at(x, before)] if before != y else []
            stairs.append(self.at(x, y))
        return stairs
