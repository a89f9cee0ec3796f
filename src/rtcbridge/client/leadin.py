"""Measures how long a picture takes to the model and back, before the first picture that counts.

The first picture of the source is sent again and again, and now and then a flat one in its place: hardly any model
makes the same of both. The time from each change to the change of what comes back is the latency.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcbridge.media.port import I420

_CHANGES = 4  # the picture, flat, the picture, flat, the picture
_STEADY = 6  # pictures that come back alike before each change
_SETTLE = 5.0  # seconds until pictures come back steadily for the first time
_SETTLE_AGAIN = 1.5
_PATIENCE = 2.0  # seconds for one change to come back
_LEAST = 4.0  # mean difference, of 255, that is a change
_TIMES_NOISE = 3.0
_GRID = 24  # by so many points a picture is compared
_DARK, _BRIGHT = 16, 235


class LeadIn:
    """One measurement.

    Args:
        send: sends a picture.
        first: the first picture of the source.
        period: seconds between two pictures.
    """

    def __init__(self, send: Callable[[I420], None], first: I420, period: float) -> None:
        self._send = send
        self._first = first
        self._period = period
        self._show = first
        self._seen: NDArray[np.float32] | None = None
        self._reference: NDArray[np.float32] | None = None
        self._noise: list[float] = []
        self._limit_noise: list[float] = []
        self._since = 0.0
        self._changed: asyncio.Future[float] | None = None
        self._arrived = asyncio.Event()

    async def measure(self) -> float | None:
        """Return the latency in seconds, or None where what comes back does not show it."""
        sender = asyncio.create_task(self._send_on(), name="lead-in")
        try:
            found = [seconds for number in range(_CHANGES) if (seconds := await self._change(number)) is not None]
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return median(found) if found else None

    def arrived(self, picture: I420, now: float) -> None:
        """A picture has come back."""
        points = _points(picture)
        if self._seen is not None:
            self._noise.append(_difference(points, self._seen))
        self._seen = points
        self._arrived.set()
        waiting = self._changed
        if waiting is not None and not waiting.done() and self._reference is not None:
            limit = max(_LEAST, _TIMES_NOISE * max(self._limit_noise, default=0.0))
            if _difference(points, self._reference) > limit:
                waiting.set_result(now)

    async def _change(self, number: int) -> float | None:
        await self._settle(_SETTLE_AGAIN if number else _SETTLE)
        self._reference, self._limit_noise = self._seen, self._noise[-_STEADY:]
        self._changed = asyncio.get_running_loop().create_future()
        self._since = 0.0
        self._show = _flat(self._first) if number % 2 == 0 else self._first
        try:
            async with asyncio.timeout(_PATIENCE):
                arrival = await self._changed
        except TimeoutError:
            return None
        finally:
            self._changed = None
        return arrival - self._since if self._since else None

    async def _settle(self, patience: float) -> None:
        """Wait for some pictures in a row that are alike."""
        self._noise.clear()
        try:
            async with asyncio.timeout(patience):
                while len(self._noise) < _STEADY or max(self._noise[-_STEADY:]) > _LEAST:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return

    async def _send_on(self) -> None:
        shown = self._show
        while True:
            self._send(self._show)
            if self._show is not shown:
                shown, self._since = self._show, time.monotonic()
            await asyncio.sleep(self._period)


def _flat(picture: I420) -> I420:
    """A picture of one grey, as far from the mean of another one as can be."""
    height = picture.shape[0] * 2 // 3
    flat = np.full_like(picture, 128)
    flat[:height] = _BRIGHT if picture[:height].mean() < (_DARK + _BRIGHT) / 2 else _DARK
    return flat


def _points(picture: I420) -> NDArray[np.float32]:
    """The brightness at points of a grid, whatever the size."""
    height, width = picture.shape[0] * 2 // 3, picture.shape[1]
    rows = np.linspace(0, height - 1, _GRID).astype(int)
    columns = np.linspace(0, width - 1, _GRID).astype(int)
    return np.asarray(picture[np.ix_(rows, columns)], np.float32)


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())
