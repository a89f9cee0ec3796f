"""The pictures of a session: from the source when they are due, and back with the time of what they were made of."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rtcbridge.client.frames import Frame, FrameQueue
from rtcbridge.client.leadin import LeadIn
from rtcbridge.client.pump import Pump
from rtcbridge.client.timeline import Timeline

if TYPE_CHECKING:
    from rtcbridge.client.errors import ClientError
    from rtcbridge.client.sources import Source, Timed
    from rtcbridge.media.port import I420

_QUIET = 0.7  # seconds without a picture, behind the last one that was sent, after which no more are expected
_GAPS = 4  # as many times the usual gap between two pictures, where that is longer
_LONGEST_QUIET = 10.0
_ASSUMED = 0.1  # seconds of latency where what comes back does not show it


class Flow:
    """The pictures of one session, over all its connections.

    Args:
        source: what is sent.
        sync: measure the latency first, so that each frame is told the picture that it was made of.
    """

    def __init__(self, source: Source, sync: bool) -> None:
        self.latency: float | None = None
        self.sent = 0
        self.frames = FrameQueue(source.live)
        self._source = source
        self._sync = sync
        self._pump: Pump | None = None
        self._lead_in: LeadIn | None = None
        self._timeline: Timeline | None = None
        self._send: Callable[[I420], None] | None = None
        self._first: Timed | None = None  # with which the latency is still to be measured
        self._begun = 0.0
        self._last_return = 0.0
        self._returned = asyncio.Event()
        self._gap = 0.0  # seconds between two pictures that come back, the mean
        self._ending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the source. Raises ClientError."""
        await asyncio.to_thread(self._source.open)

    async def up(self, send: Callable[[I420], None]) -> None:
        """Media is up: begin, or go on. Raises ClientError: the source cannot be read."""
        if self._pump is None:
            pump = Pump(self._source, self._deliver, self._ended)
            self._first = await pump.first()
            self._pump = pump
        if self._first is not None and self._sync:
            await self._measure(send, self._first.i420)
            self._first = None
        self._send = send
        self._pump.resume()

    def down(self) -> None:
        """Media is gone for now; the source waits."""
        self._send = None
        if self._pump is not None and not self._source.live:
            self._pump.pause()

    async def close(self) -> None:
        """Stop, and close the source."""
        if self._ending is not None:
            self._ending.cancel()
        if self._pump is not None:
            await self._pump.close()
        else:
            await asyncio.to_thread(self._source.close)

    def returned(self, picture: I420, now: float) -> None:
        """A picture came back."""
        if self._last_return:
            gap = now - self._last_return
            self._gap = 0.9 * self._gap + 0.1 * gap if self._gap else gap
        self._last_return = now
        self._returned.set()
        if self._lead_in is not None:
            self._lead_in.arrived(picture, now)
        elif self._timeline is not None:
            found = self._timeline.returned(now)
            if found is not None:
                self.frames.put(Frame(picture, found[1], found[0]))
        elif self.sent:
            self.frames.put(Frame(picture, now - self._begun))

    async def _measure(self, send: Callable[[I420], None], first: I420) -> None:
        self._lead_in = LeadIn(send, first, 1 / self._source.fps)
        try:
            self.latency = await self._lead_in.measure()
        finally:
            self._lead_in = None
        self._timeline = Timeline(_ASSUMED if self.latency is None else self.latency)

    def _deliver(self, picture: I420, at: float) -> None:
        if self._send is None:
            return
        self._send(picture)
        now = time.monotonic()
        self._begun = self._begun or now
        self.sent += 1
        if self._timeline is not None:
            self._timeline.sent(now, at)

    def _ended(self, error: ClientError | None) -> None:
        if error is not None:
            self.frames.end(error)
        else:
            self._ending = asyncio.create_task(self._last(), name="session-end")

    async def _last(self) -> None:
        """Wait for what is still on its way."""
        quiet = min(max(_QUIET, _GAPS * self._gap), _LONGEST_QUIET) + (self.latency or _ASSUMED)
        since = time.monotonic()
        left = quiet
        while left > 0:
            self._returned.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._returned.wait()
            left = max(since, self._last_return) + quiet - time.monotonic()
        self.frames.end()
