"""What the WebSocket connections of one event loop share, and what they may do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from .timers import Lane, TimerWheel

if TYPE_CHECKING:
    from .websocket import WebSocket

# How many flushes behind the opening of a connection may wait for more to write, and how long one does: it begins
# above so many sockets, and ends at so many turns or sockets.
_GATHER_FLUSHES: Final = 4
_GATHER_FROM: Final = 2
_GATHER_TURNS: Final = 8
_GATHER_SOCKETS: Final = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may do. One object is shared by all connections of a kind.

    Attributes:
        max_message: Bytes in a message; above it 1009, refused when a frame's header announces it.
        max_outbox: Bytes that the peer may leave unread in our memory; above it 1013.
        binary: Whether binary messages are allowed; if not, 1003.
        message_rate: Messages a second, and control frames; None for no limit. Above it 1008.
        message_burst: Messages that may come at once after a quiet time.
        ping_interval: Seconds between pings.
        ping_timeout: Seconds within which something, a Pong or anything else, must arrive after a Ping.
        drain_timeout: Seconds that the peer has to close its side when we close ours.
    """

    max_message: int = 65536
    max_outbox: int = 256 * 1024
    binary: bool = False
    message_rate: int | None = None
    message_burst: int = 200
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    drain_timeout: float = 2.0


class End(Struct, frozen=True):
    """How a connection ended.

    Attributes:
        code: Close code of the first Close frame, whoever sent it; 1005 if the peer's had none, 1006 if lost.
        by: "peer" closed it, "us", or the TCP connection was "lost" without a Close frame either way.
        reason: For people and logs. By "us" it says why: the reason given to `close`, or "ping timeout",
            "outbox", "rate", "too big", "binary", "internal error", or how the peer broke the protocol.
    """

    code: int
    by: Literal["peer", "us", "lost"]
    reason: str = ""


class SocketGroup:
    """What all sockets of one event loop share: the loop, the timer wheel, and who has something to send.

    Attributes:
        loop: The event loop.
        wheel: Its timers.
        connections: Every open connection, those that are being drained among them.
        dirty: Sockets with something queued.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wheel: TimerWheel | None = None) -> None:
        self.loop = loop
        self.wheel = TimerWheel(loop) if wheel is None else wheel
        self.connections: set[asyncio.BaseProtocol] = set()
        self.call_soon = loop.call_soon
        self.dirty: list[WebSocket] = []
        self._spending: dict[Any, None] = {}  # WebSockets whose message credit is to be renewed
        self._gathering = 0  # so many of the next flushes may wait
        self._gathered, self._turns = _GATHER_FROM, 0
        self._lanes: dict[float, Lane] = {}
        self._phase = 0.0
        self._empty: asyncio.Event | None = None

    def enter(self, socket: WebSocket) -> None:
        """Take in a connection that has just been opened."""
        self.connections.add(socket)
        self._gathering = _GATHER_FLUSHES

    def forget(self, connection: asyncio.BaseProtocol) -> None:
        """Take a connection out of `connections`."""
        self.connections.discard(connection)
        self._spending.pop(connection, None)  # else a closed one would stay in memory for as long as it takes
        if self._empty is not None and not self.connections:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        while self.connections:
            self._empty = asyncio.Event()
            await self._empty.wait()

    def flush(self) -> None:
        """Write what is queued, one write a socket; to be scheduled by whoever makes `dirty` non-empty.

        While connections come in numbers, what a busy turn has to say waits as long as the turns behind it go on
        adding to it. Many sockets are then written in one go, which spares as many wake-ups of their peers: a third
        of the cost of a set-up. Where none comes nothing waits, since what is relayed then is wanted at once.
        """
        dirty = self.dirty
        if self._gathering:
            if self._gathered < len(dirty) < _GATHER_SOCKETS and self._turns < _GATHER_TURNS:
                self._gathered = len(dirty)
                self._turns += 1
                self.call_soon(self.flush)
                return
            self._gathering -= 1
            self._gathered, self._turns = _GATHER_FROM, 0
        for socket in dirty:  # grows under the loop if an end() makes others send
            queue = socket._queue
            if queue is None:
                continue
            socket._queue = None
            transport = socket._transport
            assert transport is not None
            data = b"".join(queue)
            backlog = transport.get_write_buffer_size()
            # A peer that has read everything so far may be sent more than max_outbox in one turn.
            if backlog and backlog + len(data) > socket.limits.max_outbox:
                socket._finish(1013, "", End(1013, "us", "outbox"))
            else:
                transport.write(data)
        dirty.clear()

    def spends(self, socket: WebSocket) -> None:
        """Renew the socket's message credit, once a second, until it is full."""
        if not self._spending:
            self.wheel.call_later(1.0, self._renew)
        self._spending[socket] = None

    def _renew(self) -> None:
        self._spending = {socket: None for socket in self._spending if socket._renew_credit()}
        if self._spending:
            self.wheel.call_later(1.0, self._renew)

    def lane(self, seconds: float) -> Lane:
        """Where sockets wait that expect something within so many seconds of their opening."""
        lane = self._lanes.get(seconds)
        if lane is None:
            lane = self._lanes[seconds] = self.wheel.lane(seconds, lambda socket: socket._expected(seconds))
        return lane

    def first_ping(self, interval: float) -> float:
        """Seconds until a new socket's first ping."""
        # Spread over half the interval, by the golden ratio: what opened together shall not ping together.
        self._phase = (self._phase + 0.618034) % 1.0
        return interval * (1.0 - self._phase / 2)
