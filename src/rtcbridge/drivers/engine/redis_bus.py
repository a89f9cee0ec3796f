"""Messages between replicas over streams of Valkey or Redis: one a replica, its inbox."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from rtcbridge.drivers.engine.channel import Batch, Incoming, Outgoing, decode, encode
from rtcbridge.drivers.engine.pipe import Pipe
from rtcbridge.ports_engine import Packet

INBOX_LENGTH = 65_536  # entries of an inbox; what is lost of a longer one is sent again
INBOX_LIFE = 60_000  # milliseconds that the inbox of a dead replica stays
_ACK_DELAY = 0.05  # seconds within which a batch is acknowledged
_GIVE_UP = 30.0  # seconds without an inbox after which a replica is dead; a frozen one's stays for INBOX_LIFE
_RETRY = 0.1  # seconds after which a batch is sent again to a replica that has no inbox

logger = logging.getLogger(__name__)


def inbox(address: str) -> str:
    """The key of a replica's inbox."""
    return f"rtcbridge:{{{address}}}:inbox"


class RedisBus:
    """This replica's side of the bus; `pipe` is the one connection over which it sends, so that order holds."""

    def __init__(self, address: str, pipe: Pipe, received: Callable[[str, Packet], None]) -> None:
        self.address = address
        self.sent = 0
        self._pipe = pipe
        self._out: dict[str, Outgoing] = {}
        self._incoming = Incoming(received)
        self._numbers: dict[tuple[str, str], tuple[int, int]] = {}
        self._directions: dict[str, set[str]] = {}
        self._dirty: dict[str, None] = {}
        self._unanswered: dict[str, None] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._acking = False
        self._retrying: set[str] = set()
        self._probing: set[str] = set()
        self._missing: dict[str, float] = {}  # replicas without an inbox, and since when
        self._asked: dict[str, tuple[int, float]] = {}  # by sender: behind which batch all was asked for, and when

    @property
    def unacknowledged(self) -> int:
        """See `Bus`."""
        return sum(out.waiting for out in self._out.values())

    # --- sending ---

    def send(self, to: str, session: str, direction: str, data: bytes, *, term: int = 0) -> bool:
        """See `Bus`."""
        key = (session, direction)
        before, number = self._numbers.get(key, (term, 0))
        packet = Packet(session, direction, term, number + 1 if term == before else 1, data)
        out = self._out.get(to)
        if out is None:
            out = self._out[to] = Outgoing()
        if not out.add(packet):
            return False
        self.sent += 1
        self._numbers[key] = (term, packet.number)
        self._directions.setdefault(session, set()).add(direction)
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty[to] = None
        return True

    def forget(self, session: str) -> None:
        """See `Bus`."""
        for direction in self._directions.pop(session, ()):
            self._numbers.pop((session, direction), None)
        self._incoming.forget(session)

    def drop(self, to: str) -> None:
        """See `Bus`."""
        if (out := self._out.get(to)) is not None:
            out.abandon()
        self._dirty.pop(to, None)
        self._unanswered.pop(to, None)
        self._asked.pop(to, None)
        self._probing.discard(to)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for to in dirty:
            out = self._out[to]
            numbers = out.seal()
            if numbers and self._pipe.up.is_set():
                self._post(to, out, numbers[0])

    def _post(self, to: str, out: Outgoing, first: int = 0) -> None:
        self._unanswered.pop(to, None)
        for data in out.batches(self.address, self._incoming.seen(to), first):
            self._write(to, data)

    def _write(self, to: str, data: bytes) -> None:
        call = self._pipe.call("XADD", inbox(to), "NOMKSTREAM", "MAXLEN", "~", INBOX_LENGTH, "*", "b", data)
        call.add_done_callback(lambda done: self._written(to, done))

    def _written(self, to: str, done: "asyncio.Future[Any]") -> None:
        """A batch that found no inbox is sent again; one that was lost is sent again over the next connection."""
        if done.cancelled():
            return
        if done.exception() is not None:
            if self._pipe.up.is_set():
                logger.warning("engine: a message was not taken: %s", done.exception())
                self._again(to)
            return
        if done.result() is None:
            self._missed(to)
            return
        self._missing.pop(to, None)
        if to in self._probing:
            self._probing.discard(to)
            if (out := self._out.get(to)) is not None and self._pipe.up.is_set():
                self._post(to, out)

    def _missed(self, to: str) -> None:
        """A replica has no inbox: its own life, or the engine's, begins anew; after a while it is dead."""
        now = asyncio.get_running_loop().time()
        if now - self._missing.setdefault(to, now) > _GIVE_UP:
            self.drop(to)
        else:
            self._again(to)

    def _again(self, to: str) -> None:
        if to not in self._retrying and to in self._out:
            self._retrying.add(to)
            self._later(_RETRY, self._resend, to)

    def _later(self, delay: float, function: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            self._timers.discard(timer)
            function(*arguments)

        timer = asyncio.get_running_loop().call_later(delay, run)
        self._timers.add(timer)

    def _resend(self, to: str) -> None:
        """Try with the first batch alone; the others follow when that has found an inbox."""
        self._retrying.discard(to)
        if (out := self._out.get(to)) is not None and self._pipe.up.is_set():
            for data in out.batches(self.address, self._incoming.seen(to)):
                self._probing.add(to)
                self._write(to, data)
                break

    def connected(self) -> None:
        """Send again what is not acknowledged: a new connection may lead to an engine that has lost it."""
        for to, out in self._out.items():
            out.seal()
            self._post(to, out)

    # --- receiving ---

    def hear(self, data: bytes) -> None:
        """Take one entry of the inbox."""
        try:
            batch: Batch = decode(data)
        except msgspec.DecodeError:
            logger.error("engine: an entry of the inbox cannot be read")
            return
        if (out := self._out.get(batch.origin)) is not None:
            out.seen(batch.seen)
            if batch.again and self._pipe.up.is_set():
                self._post(batch.origin, out, batch.seen + 1)
        if batch.number:
            if self._incoming.take(batch):
                self._answer(batch.origin)
            else:
                self._ask(batch.origin)

    def _answer(self, origin: str) -> None:
        """Acknowledge soon, unless a batch that goes there anyway does it."""
        self._unanswered[origin] = None
        if not self._acking:
            self._acking = True
            self._later(_ACK_DELAY, self._answer_all)

    def _ask(self, origin: str) -> None:
        """Ask for what is missing: once, unless that comes to nothing."""
        now, seen = asyncio.get_running_loop().time(), self._incoming.seen(origin)
        last, when = self._asked.get(origin, (-1, 0.0))
        if seen != last or now > when + _RETRY:
            self._asked[origin] = (seen, now)
            self._acknowledge(origin, again=True)

    def _answer_all(self) -> None:
        self._acking = False
        unanswered, self._unanswered = self._unanswered, {}
        for origin in unanswered:
            self._acknowledge(origin, again=False)

    def _acknowledge(self, origin: str, *, again: bool) -> None:
        if self._pipe.up.is_set():
            self._write(origin, encode(Batch(self.address, 0, self._incoming.seen(origin), again, [])))

    def close(self) -> None:
        """Stop."""
        for timer in self._timers:
            timer.cancel()
