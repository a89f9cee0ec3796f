"""A real bridge with real nodes, for tests of the client from Python; its model inverts."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gateway.programs import Home
from rtcbridge.drivers.providers import sweep

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "console" / "clip" / "clip.webm"

MODEL = """
import numpy as np
import rtcbridge


@rtcbridge.model(params={"level": rtcbridge.Int(255, min=0, max=255)})
def invert(frame, params):
    return params.level - np.minimum(frame, params.level)
"""
CONFIG = """
[[pools]]
name = "default"
provider = "local"
slots = 1
min_ready = {ready}
max_nodes = {nodes}
[pools.local]
model = "{model}"
state = "nodes"
"""


@contextmanager
def service(folder: Path, *, nodes: int = 1, ready: int = 1, model: str = "") -> Iterator[Home]:
    app = folder / "app.py"
    app.write_text(MODEL)
    home = Home(folder, CONFIG.format(nodes=nodes, ready=ready, model=model or f"{app}:invert"))
    try:
        home.serve()
        yield home
    finally:
        home.dispose()
        asyncio.run(sweep(folder / "nodes"))


BITS, WIDTH, HEIGHT = 10, 320, 180


def numbered(number: int) -> np.ndarray:
    """A picture that says its number, in ten stripes, black or white."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        picture[:, bit * WIDTH // BITS : (bit + 1) * WIDTH // BITS] = 230 if number >> bit & 1 else 25
    return picture


def number_in(picture: np.ndarray) -> int:
    """The number that a picture says which the model has inverted."""
    height, width = picture.shape[:2]
    number = 0
    for bit in range(BITS):
        centre = int((bit + 0.5) * width / BITS)
        number |= int(picture[height // 4 : -height // 4, centre - 8 : centre + 8].mean() < 128) << bit
    return number
