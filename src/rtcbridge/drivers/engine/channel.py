"""Messages between replicas, numbered: what is lost is sent again, what comes twice is dropped. No input or output."""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from rtcbridge.ports_engine import Packet

logger = logging.getLogger(__name__)

LIMIT = 16 * 1024 * 1024  # bytes that may wait for one replica
BATCH = 256  # messages in one entry of a stream
_REMEMBERED = 100_000  # sessions whose last numbers are kept
_ORIGINS = 1_000  # senders whose last batch is kept
_OVERHEAD = 64  # bytes that a message takes beside its data


class Batch(Struct, frozen=True, array_like=True):
    """What one replica sends another in one turn of its loop.

    `number` counts from 1 between these two, 0 for one that only acknowledges. `seen` is the number of the last batch
    that came the other way; `again` asks for all behind it. What was up to `gone` is not to be had any more.
    """

    origin: str
    number: int
    seen: int
    again: bool
    packets: list[Packet]
    gone: int = 0


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Batch).decode


class Outgoing:
    """What goes to one replica: collected, then kept until it is acknowledged."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.unseen: deque[tuple[int, list[Packet], int]] = deque()  # number, packets, bytes
        self.size = 0  # bytes of both
        self._last = self._gone = 0

    @property
    def waiting(self) -> int:
        """How many messages are collected or not acknowledged."""
        return len(self.packets) + sum(len(packets) for _, packets, _ in self.unseen)

    def add(self, packet: Packet) -> bool:
        """Take a message in; false if the limit is reached."""
        if self.size > LIMIT:
            return False
        self.packets.append(packet)
        self.size += len(packet.data) + _OVERHEAD
        return True

    def seal(self) -> list[int]:
        """Number what was collected; return the numbers of the new batches."""
        numbers = []
        for start in range(0, len(self.packets), BATCH):
            packets = self.packets[start : start + BATCH]
            self._last += 1
            self.unseen.append((self._last, packets, sum(len(each.data) + _OVERHEAD for each in packets)))
            numbers.append(self._last)
        self.packets = []
        return numbers

    def seen(self, number: int) -> None:
        """The other side has all up to this number."""
        while self.unseen and self.unseen[0][0] <= number:
            self.size -= self.unseen.popleft()[2]

    def abandon(self) -> None:
        """Throw away what waits. The numbers go on, in case the other side was not dead but frozen."""
        self.packets, self.size, self._gone = [], 0, self._last
        self.unseen.clear()

    def batches(self, origin: str, seen: int, first: int = 0) -> Iterator[bytes]:
        """Encode what is not acknowledged, from `first` on."""
        for number, packets, _ in self.unseen:
            if number >= first:
                yield encode(Batch(origin, number, seen, False, packets, self._gone))


class Incoming:
    """What came from all replicas: the last batch of each, and the last number of each session and direction."""

    def __init__(self, received: Callable[[str, Packet], None]) -> None:
        self._received = received
        self._batches: OrderedDict[str, int] = OrderedDict()
        self._numbers: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()

    def seen(self, origin: str) -> int:
        """The number of the last batch of a sender that was taken."""
        return self._batches.get(origin, 0)

    def take(self, batch: Batch) -> bool:
        """Pass on what is new; false if batches before this one are missing, and then nothing is taken."""
        last = max(self._batches.get(batch.origin, 0), batch.gone)
        if batch.number > last + 1:
            return False
        if batch.number == last + 1:
            self._batches[batch.origin] = batch.number
            self._batches.move_to_end(batch.origin)
            while len(self._batches) > _ORIGINS:
                self._batches.popitem(last=False)
            for packet in batch.packets:
                self._pass(batch.origin, packet)
        return True

    def _pass(self, origin: str, packet: Packet) -> None:
        number = (packet.term, packet.number)
        last = self._numbers.setdefault(packet.session, {})
        self._numbers.move_to_end(packet.session)
        if number <= last.get(packet.direction, (-1, 0)):
            return
        last[packet.direction] = number
        if len(self._numbers) > _REMEMBERED:
            self._numbers.popitem(last=False)
        try:
            self._received(origin, packet)
        except Exception:  # those behind it are of other sessions
            logger.exception("a message from another replica could not be dealt with")

    def forget(self, session: str) -> None:
        """A session has ended."""
        self._numbers.pop(session, None)
