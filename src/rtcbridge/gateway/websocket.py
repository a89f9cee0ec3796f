"""Server side of a WebSocket (RFC 6455) on `asyncio.Protocol`: no buffer a connection, few writes.

Why our own: a relay's cost is its sockets. Here a chunk from the network is parsed in place, all that a socket
has to send in a turn of the event loop, or in a few while connections are being opened, goes out in one write,
and an idle connection holds no buffer.
No extension is negotiated, permessage-deflate (RFC 7692) least of all: it costs tens of kilobytes a connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from .drain import Drain, FrameSkipper
from .frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    HEADERS,
    PING,
    PONG,
    TEXT,
    Assembly,
    FrameError,
    apply_mask,
    check_header,
    close_frame,
    header,
    is_utf8,
    parse_close,
)
from .socket_group import End, Limits, SocketGroup
from .timers import Lane, Timer

__all__ = ["End", "Limits", "SocketGroup", "WebSocket"]

log = logging.getLogger(__name__)

_TEXT_FRAME: Final = FIN | TEXT
_PING_FRAME: Final = header(PING, 0)
_UNLIMITED: Final = (1 << 30) - 1  # the greatest int of one machine digit: counting it down stays cheap
_FRAGMENTS_PER_MESSAGE: Final = 16  # continuation frames that count as much as one message against the rate
_MAX_AGE: Final = 2  # pings that may be sent while one message is arriving


class WebSocket(asyncio.Protocol):
    """One connection, after its handshake. Subclass it and override `opened`, `received` and `ended`.

    `ended` is called from the event loop, never inside a call of one of these methods. An exception in a hook
    is logged; in `opened` and `received` it closes the connection with 1011.

    Attributes:
        limits: What the peer may do; fixed for the life of the connection.
    """

    __slots__ = (
        "_alive", "_assembly", "_closing", "_credit", "_drain", "_group", "_held", "_queue", "_spending", "_timer",
        "_transport", "limits",
    )  # fmt: skip

    _group: SocketGroup  # from start() on

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._transport: asyncio.Transport | None = None
        self._queue: list[bytes] | None = None  # what the next flush will write
        self._held = b""  # an unfinished frame header or control frame
        self._assembly: Assembly | None = None  # an unfinished message
        self._drain: Drain | None = None
        self._closing: End | None = None  # our Close frame has gone out, and messages are still taken
        self._timer: Timer | Lane | None = None
        self._alive = True  # something has come since the last ping
        self._credit = _UNLIMITED if limits.message_rate is None else limits.message_burst
        self._spending = limits.message_rate is None

    def opened(self) -> None:
        """The handshake is done; `send` may be called from here on."""

    def expect(self, seconds: float) -> None:
        """To be called in `opened`: have `overdue` called in so many seconds. Pings are not put off by it."""
        group = self._group
        if 2 * seconds <= self.limits.ping_interval:  # before its first ping
            self._timer = lane = group.lane(seconds)
            lane.add(self)
        else:
            group.wheel.call_later(seconds, self.overdue)

    def overdue(self) -> None:
        """The time that `expect` set has passed: close, if what was expected has not come and it is still open."""

    def received(self, data: bytes) -> None:
        """A text message has arrived, whole; it is valid UTF-8."""

    def received_binary(self, data: bytes) -> None:
        """A binary message has arrived, whole; only if the limits allow them."""

    def ended(self, end: End) -> None:
        """The connection is over for us: nothing more will be delivered or sent. Called exactly once."""

    def fault(self, code: int) -> int:
        """The close code to send for what the peer did wrong: 1002, 1003, 1007, 1008 or 1009, or another."""
        return code

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: from `opened` until it is closed by either side."""
        return self._transport is not None

    @property
    def unsent(self) -> int:
        """Bytes waiting in our memory for the peer to read."""
        if self._transport is None:
            return 0
        return self._transport.get_write_buffer_size() + sum(map(len, self._queue or ()))

    def start(self, group: SocketGroup, transport: asyncio.Transport, first: bytes = b"") -> None:
        """Begin on a transport that is handed over; `first` is sent before all else (the 101 response)."""
        self._group = group
        self._transport = transport
        group.enter(self)
        transport.set_protocol(self)
        if first:
            self._put(first)
        try:
            self.opened()
        except Exception:
            self._failed_hook("opened")
        if self._timer is None and self._transport is not None:
            self._timer = group.wheel.call_later(group.first_ping(self.limits.ping_interval), self._ping)

    # Sending ------------------------------------------------------------------------------------------------

    def send(self, *parts: bytes) -> None:
        """Send one text message, the parts joined: UTF-8 together. Does nothing on a closed connection."""
        length = 0
        for part in parts:
            length += len(part)
        head = HEADERS[length] if length < 8192 else header(TEXT, length)
        queue = self._queue
        if queue is not None:
            queue.append(head)
            queue += parts
        elif self._transport is not None:
            group = self._group
            dirty = group.dirty
            if not dirty:
                group.call_soon(group.flush)
            dirty.append(self)
            self._queue = [head, *parts]

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        """`send` of three parts, for what is relayed: without the cost of any number of them."""
        length = len(head) + len(body) + len(tail)
        start = HEADERS[length] if length < 8192 else header(TEXT, length)
        queue = self._queue
        if queue is not None:
            queue += (start, head, body, tail)
        elif self._transport is not None:
            group = self._group
            dirty = group.dirty
            if not dirty:
                group.call_soon(group.flush)
            dirty.append(self)
            self._queue = [start, head, body, tail]

    def send_binary(self, data: bytes) -> None:
        """Send one binary message."""
        self._put(header(BINARY, len(data)), data)

    def _put(self, *parts: bytes) -> None:
        if self._queue is not None:
            self._queue += parts
        elif self._transport is not None:
            if not self._group.dirty:
                self._group.call_soon(self._group.flush)
            self._group.dirty.append(self)
            self._queue = list(parts)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send what is queued and a Close frame, then let the peer close; `ended` comes in the next loop turn.

        Does nothing on a closed connection.
        """
        if self._transport is not None and self._closing is None:
            end = End(code, "us", reason)
            self._finish(code, reason, None)
            self._group.loop.call_soon(self._tell_end, end)

    def close_behind(self, code: int = 1000, reason: str = "") -> None:
        """Send what is queued and a Close frame, and go on taking messages until the peer's Close frame comes.

        Nothing may be sent from here on; `ended` comes when the peer has closed, or after the limit's `drain_timeout`.
        """
        if self._transport is None or self._closing is not None:
            return
        self._closing = End(code, "us", reason)
        frame, queue = close_frame(code, reason), self._queue
        self._queue = None
        self._transport.write(b"".join((*queue, frame)) if queue else frame)
        self._stop_timer()
        self._timer = self._group.wheel.call_later(self.limits.drain_timeout, self.abort)

    def _finish(
        self,
        code: int,
        reason: str,
        end: End | None,
        *,
        understood: bool = True,
        peer: bool = False,
        silent: bool = False,
    ) -> None:
        """Send the rest and a Close frame, and hand the transport to a Drain.

        Args:
            code: For the Close frame; 1005 for none.
            reason: For the Close frame.
            end: What to tell `ended`; None if the caller will.
            understood: Whether the frames that follow can be told apart.
            peer: Whether the peer's Close frame has come.
            silent: Whether it was the last that came. Nothing may follow it (RFC 6455, section 5.5.1), so that there
                is nothing to drain.
        """
        transport = self._transport
        assert transport is not None
        if self._closing is not None:
            self._closed_behind(transport)
            return
        frame = close_frame(code, reason)
        transport.write(b"".join((*self._queue, frame)) if self._queue else frame)
        held, assembly = self._held, self._assembly
        self._leave()
        if silent and not transport.get_write_buffer_size():
            transport.close()
        else:
            self._hand_to_drain(transport, held, assembly, understood, peer)
        if end is not None:
            self._tell_end(end)

    def _closed_behind(self, transport: asyncio.Transport) -> None:
        """Our Close frame has long been sent."""
        assert self._closing is not None
        self._leave()
        transport.close()
        self._tell_end(self._closing)

    def _hand_to_drain(
        self, transport: asyncio.Transport, held: bytes, assembly: Assembly | None, understood: bool, peer: bool
    ) -> None:
        group = self._group
        skipper = FrameSkipper(assembly.missing if assembly is not None else 0) if understood and not peer else None
        self._drain = Drain(
            transport, group.wheel, self.limits.drain_timeout, group.forget, skipper=skipper, settled=peer
        )
        group.connections.add(self._drain)
        if held and skipper is not None:
            self._drain.data_received(held)

    def _leave(self) -> None:
        self._group.forget(self)
        self._transport = self._queue = self._assembly = None
        self._held = b""
        self._stop_timer()

    def _stop_timer(self) -> None:
        if (timer := self._timer) is not None:
            self._timer = None
            if isinstance(timer, Lane):
                timer.discard(self)
            else:
                timer.cancel()

    def _tell_end(self, end: End) -> None:
        try:
            self.ended(end)
        except Exception:
            log.exception("ended() of %s failed", type(self).__name__)

    def _failed_hook(self, name: str) -> None:
        log.exception("%s() of %s failed", name, type(self).__name__)
        if self._transport is not None:
            self._finish(1011, "", End(1011, "us", "internal error"))

    def abort(self) -> None:
        """Cut the connection without a Close frame; `ended` follows, as if the peer had been lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection has gone without a Close frame."""
        if self._transport is not None:
            self._leave()
            self._tell_end(End(1006, "lost", "" if exc is None else str(exc)))

    # Time ---------------------------------------------------------------------------------------------------

    def _expected(self, seconds: float) -> None:
        self._timer = None
        self.overdue()
        if self._transport is not None:
            group = self._group
            until_ping = group.first_ping(self.limits.ping_interval) - seconds
            self._timer = group.wheel.call_later(max(0.0, until_ping), self._ping)

    def _ping(self) -> None:
        assembly = self._assembly
        if assembly is not None:
            assembly.age += 1
            if assembly.age > _MAX_AGE:
                self._fault(1008, "message never finished")
                return
        self._alive = False
        self._put(_PING_FRAME)
        self._timer = self._group.wheel.call_later(self.limits.ping_timeout, self._ping_due)

    def _ping_due(self) -> None:
        if self._alive:
            rest = max(0.0, self.limits.ping_interval - self.limits.ping_timeout)
            self._timer = self._group.wheel.call_later(rest, self._ping)
        else:
            self._finish(1011, "ping timeout", End(1011, "us", "ping timeout"))

    def _renew_credit(self) -> bool:
        """Add one second's credit; whether there is more to add later."""
        limits = self.limits
        if self._transport is None or limits.message_rate is None:
            return False
        self._credit = min(limits.message_burst, self._credit + limits.message_rate)
        self._spending = self._credit < limits.message_burst
        return self._spending

    def _overdrawn(self) -> bool:
        """Whether the credit is really used up."""
        if self.limits.message_rate is None:
            self._credit = _UNLIMITED
            return False
        return True

    # Receiving ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:  # noqa: C901 - the hot path, in one piece for its speed
        """Parse what has come and deliver the messages in it."""
        self._alive = True
        if self._held:
            data, self._held = self._held + data, b""
        position = 0
        if self._assembly is not None and self._assembly.missing:
            position = self._continue(self._assembly, data, 0)
        size = len(data)
        max_message = self.limits.max_message
        while size - position >= 6 and self._transport is not None:
            length = data[position + 1] - 128  # below 0: not masked
            if length < 126:
                start = position + 6
            elif length == 126:
                start = position + 8
                if start > size:
                    break
                length = data[position + 2] << 8 | data[position + 3]
            else:
                start = position + 14
                if start > size:
                    break
                length = int.from_bytes(data[position + 2 : position + 10], "big")
            end = start + length
            # All that is not a text message in one frame, all of which is here, goes the slow way.
            if (
                data[position] != _TEXT_FRAME
                or end > size
                or not 0 <= length <= max_message
                or self._assembly is not None
            ):
                position = self._frame(data, position, start, length)
                continue
            payload = apply_mask(data[start:end], data[start - 4 : start])
            position = end
            self._credit = credit = self._credit - 1
            if credit < 0 and self._overdrawn():
                self._fault(1008, "rate")
            elif payload.isascii() or is_utf8(payload):
                try:
                    self.received(payload)
                except Exception:
                    self._failed_hook("received")
            else:
                self._fault(1007, "text is not UTF-8")
        if position < size:
            self._hold(data[position:] if position else data)
        if not self._spending:
            self._spending = True
            self._group.spends(self)

    def _hold(self, rest: bytes) -> None:
        """Keep the beginning of a frame, or pass on what follows the end of the connection."""
        if self._transport is not None:
            self._held = rest
            if len(rest) > 1:
                try:
                    check_header(rest[0], rest[1])
                except FrameError as error:
                    self._fault(error.code, error.reason)
        elif self._drain is not None:
            self._drain.data_received(rest)

    def _frame(self, data: bytes, position: int, start: int, length: int) -> int:
        """Take any frame at `position`, its payload at `start`; return where to go on."""
        first = data[position]
        opcode = first & 0x0F
        try:
            check_header(first, data[position + 1])
            if opcode >= CLOSE and start + length > len(data):
                self._held = data[position:]
                return len(data)
            if not self._affords(opcode):
                self._fault(1008, "rate")
                return position
            mask = data[start - 4 : start]
            if opcode >= CLOSE:
                end = start + length
                self._control(opcode, apply_mask(data[start:end], mask), last=end == len(data))
                return end
            assembly = self._assembly_for(opcode)
        except FrameError as error:
            self._fault(error.code, error.reason)
            return position
        if assembly.opcode == BINARY and not self.limits.binary:
            self._fault(1003, "binary")
        elif len(assembly.data) + length > self.limits.max_message:
            self._fault(1009, "too big")
        else:
            self._assembly = assembly
            assembly.begin(first >= FIN, length, mask)
            return self._continue(assembly, data, start)
        return position

    def _affords(self, opcode: int) -> bool:
        """Take a frame off the credit; whether there was enough."""
        if opcode != CONTINUATION or (self._assembly and self._assembly.frames % _FRAGMENTS_PER_MESSAGE == 0):
            self._credit -= 1
        return self._credit >= 0 or not self._overdrawn()

    def _assembly_for(self, opcode: int) -> Assembly:
        assembly = self._assembly
        if opcode == CONTINUATION:
            if assembly is None:
                raise FrameError(1002, "nothing to continue")
            return assembly
        if assembly is not None:
            raise FrameError(1002, "message inside a message")
        return Assembly(opcode)

    def _continue(self, assembly: Assembly, data: bytes, start: int) -> int:
        """Take payload of an unfinished frame from `start` on; return where to go on."""
        end = min(start + assembly.missing, len(data))
        try:
            assembly.feed(data[start:end])
            if assembly.missing or not assembly.fin:
                return end
            message = assembly.finish()
        except FrameError as error:
            self._fault(error.code, error.reason)
            return end
        self._assembly = None
        try:
            if assembly.opcode == TEXT:
                self.received(message)
            else:
                self.received_binary(message)
        except Exception:
            self._failed_hook("received")
        return end

    def _control(self, opcode: int, payload: bytes, *, last: bool) -> None:
        """Take a control frame; `last` if nothing has come behind it."""
        if self._closing is not None:
            if opcode == CLOSE and self._transport is not None:
                self._closed_behind(self._transport)
        elif opcode == PING:
            self._put(header(PONG, len(payload)), payload)
        elif opcode == CLOSE:
            try:
                code, reason = parse_close(payload)
            except FrameError as error:
                code = self.fault(error.code)
                self._finish(code, "", End(code, "peer", error.reason), peer=True)
            else:
                self._finish(code, "", End(code, "peer", reason), peer=True, silent=last)

    def _fault(self, code: int, reason: str) -> None:
        """Close because of what the peer has done."""
        sent = self.fault(code)
        self._finish(sent, "", End(sent, "us", reason), understood=code != 1002)
