"""Keeps the sound in step with the pictures, which take longer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtcbridge.media.port import AudioFrame

_MAX_DELAY = 2.0  # seconds; behind a slower model the sound runs ahead
_MAX_PIECES = 400  # of 10 to 20 ms each
_SMOOTHING = 0.1  # weight of the newest picture in the mean
_STEP = 0.03  # seconds; a smaller change is not heard as out of step, and would be heard as a gap


class AudioDelay:
    """Sends each piece of sound as much later as pictures take at present, from arrival to their way back.

    The delay is the running mean over the pictures, and follows it only in steps, since each change of it
    is a gap or a rush in the sound.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mean = 0.0
        self._delay = 0.0
        self._queue: deque[tuple[float, AudioFrame, Callable[[AudioFrame], None]]] = deque(maxlen=_MAX_PIECES)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """The delay in force."""
        return self._delay

    def observe(self, latency: float) -> None:
        """Note that a picture took `latency` seconds through the node."""
        latency = min(latency, _MAX_DELAY)
        self._mean = self._mean + _SMOOTHING * (latency - self._mean) if self._mean else latency
        if abs(self._mean - self._delay) > _STEP:
            self._delay = self._mean

    def put(self, frame: AudioFrame, send: Callable[[AudioFrame], None]) -> None:
        """Send a piece of sound when it is due; order is kept."""
        if self._delay == 0.0 and not self._queue:
            send(frame)
            return
        self._queue.append((self._loop.time() + self._delay, frame, send))
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self._flush)

    def _flush(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now:
            _, frame, send = self._queue.popleft()
            send(frame)
        self._arm()

    def close(self) -> None:
        """Forget what waits."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
