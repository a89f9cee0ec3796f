"""The end of a connection: read on, and discard, until the peer has our last words.

A TCP socket that is closed with unread input sends RST, and RST makes the peer's kernel throw away what it
had received but not yet delivered: the Close frame, or the HTTP error, is lost (RFC 9112, section 9.6,
describes the same). So the socket is kept, bounded in bytes and in time, until the peer closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .frames import CLOSE, FrameError, check_header
from .timers import Timer, TimerWheel

MAX_DRAIN_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are discarded before the connection is cut."""

SLOW_PERIODS: Final = 5
"""How many drain times a peer gets that still takes what was sent before the end, instead of one."""


QUIET: Final = 0.1
"""Seconds without input after which a peer behind TLS counts as silent."""


class FrameSkipper:
    """Walks over a client's frames without looking into them, to find its Close frame.

    Args:
        skip: Bytes of payload to pass over before the next frame begins.
    """

    __slots__ = ("_head", "_skip")

    def __init__(self, skip: int = 0) -> None:
        self._skip = skip
        self._head = b""

    def found_close(self, data: bytes) -> bool:
        """Take the next bytes; whether a Close frame began among them. Raises FrameError when out of step."""
        position = self._skip
        if self._head:
            data, self._head = self._head + data, b""
        size = len(data)
        while size - position >= 2:
            first, second = data[position], data[position + 1]
            check_header(first, second)
            if first & 0x0F == CLOSE:
                return True
            length = second & 0x7F
            extended = 0 if length < 126 else 2 if length == 126 else 8
            if size - position < 2 + extended:
                break
            if extended:
                length = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
            position += 2 + extended + 4 + length
        self._skip = max(0, position - size)
        self._head = data[position:] if position < size else b""
        return False


class Drain(asyncio.Protocol):
    """Takes a transport over when all that is to be sent on it has been written.

    Our own side is closed at once if nothing that the peer sends can matter any more, else when its Close
    frame comes; then the peer's end of stream is awaited. TLS has no closing of one side: there the transport,
    whose own closing does not bear input, is closed when the peer has sent its Close frame or fallen silent.

    Args:
        transport: The connection.
        wheel: For the time limits.
        seconds: How long the peer may take.
        on_lost: Called with this object when the connection has gone.
        skipper: Finds the peer's Close frame; None if it has come, or if the stream cannot be understood.
        settled: The peer has said that it will send no more.
    """

    __slots__ = (
        "_bytes",
        "_on_lost",
        "_periods",
        "_quiet",
        "_seconds",
        "_skipper",
        "_timer",
        "_transport",
        "_wheel",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        wheel: TimerWheel,
        seconds: float,
        on_lost: Callable[[Drain], object],
        *,
        skipper: FrameSkipper | None = None,
        settled: bool = False,
    ) -> None:
        self._transport = transport
        self._wheel = wheel
        self._seconds = seconds
        self._skipper = skipper
        self._on_lost = on_lost
        self._bytes = MAX_DRAIN_BYTES
        self._periods = SLOW_PERIODS
        self._timer: Timer | None = wheel.call_later(seconds, self._expired)
        self._quiet: Timer | None = None
        transport.set_protocol(self)
        if skipper is None:
            self._end_output(settled)

    def data_received(self, data: bytes) -> None:
        """Discard, but look for a Close frame if one is expected."""
        self._bytes -= len(data)
        if self._bytes < 0:
            self._transport.abort()
        elif self._skipper is not None:
            try:
                found = self._skipper.found_close(data)
            except FrameError:
                self._skipper = None
                self._end_output(settled=False)
            else:
                if found:
                    self._skipper = None
                    self._end_output(settled=True)

    def _end_output(self, settled: bool) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        elif settled:
            transport.close()
        else:
            self._await_quiet(-1)

    def _await_quiet(self, before: int) -> None:
        if self._bytes == before:
            self._quiet = None
            self._transport.close()
        else:
            self._quiet = self._wheel.call_later(QUIET, self._await_quiet, self._bytes)

    def _expired(self) -> None:
        self._timer = None
        self._periods -= 1
        if self._periods and self._transport.get_write_buffer_size():
            self._timer = self._wheel.call_later(self._seconds, self._expired)
        else:
            self._transport.abort()

    def abort(self) -> None:
        """Cut the connection now."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the end."""
        for timer in (self._timer, self._quiet):
            if timer is not None:
                timer.cancel()
        self._timer = self._quiet = None
        self._on_lost(self)
