"""Reads a source in a thread and hands its pictures over when they are due."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rtcbridge.client.errors import ClientError

if TYPE_CHECKING:
    from rtcbridge.client.sources import Source, Timed
    from rtcbridge.media.port import I420

_LATE = 0.5  # seconds behind at which the clock is set anew: the source is slower than it says


class Pump:
    """One reading of a source.

    Args:
        source: open.
        deliver: called on the event loop with each picture that is due, and its time.
        ended: called on the event loop when there are no more, with what went wrong, if anything.
    """

    def __init__(
        self,
        source: Source,
        deliver: Callable[[I420, float], None],
        ended: Callable[[ClientError | None], None],
    ) -> None:
        self._source = source
        self._deliver = deliver
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._go = threading.Event()
        self._pictures: Iterator[Timed] | None = None
        self._first: Timed | None = None
        self._thread = threading.Thread(target=self._run, name="rtcbridge-source", daemon=True)
        self._started = False

    async def first(self) -> Timed | None:
        """Read the first picture; it will be delivered too. None: there is none. Raises ClientError."""
        self._pictures = self._source.pictures()
        self._first = await asyncio.to_thread(next, self._pictures, None)
        return self._first

    def resume(self) -> None:
        """Go on, or begin."""
        self._go.set()
        if not self._started:
            self._started = True
            self._thread.start()

    def pause(self) -> None:
        """Deliver nothing until `resume`; the source's clock stands still."""
        self._go.clear()

    async def close(self) -> None:
        """Stop reading and close the source."""
        self._stop.set()
        self._go.set()
        if self._started:
            await asyncio.to_thread(self._thread.join, 2.0)
        if not self._thread.is_alive():
            await asyncio.to_thread(self._source.close)

    def _run(self) -> None:
        error: ClientError | None = None
        try:
            self._pass_on()
        except ClientError as failed:
            error = failed
        except Exception as failed:  # of a generator that is the caller's
            error = ClientError("source_failed", f"The source failed: {type(failed).__name__}: {failed}")
            error.__cause__ = failed
        if not self._stop.is_set():
            self._tell(self._ended, error)

    def _pass_on(self) -> None:
        begun: float | None = None
        timed, self._first = self._first, None
        while timed is not None and not self._stop.is_set():
            now = time.monotonic()
            if not self._go.is_set():
                self._go.wait()
                begun = None if begun is None else begun + time.monotonic() - now
                continue
            if timed.time is not None:
                begun = now - timed.time if begun is None or now - begun - timed.time > _LATE else begun
                self._stop.wait(max(0.0, begun + timed.time - now))
            else:
                begun = now if begun is None else begun
            if not self._stop.is_set():
                self._tell(self._deliver, timed.i420, now - begun if timed.time is None else timed.time)
                assert self._pictures is not None
                timed = next(self._pictures, None)

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has ended before us
            self._stop.set()
