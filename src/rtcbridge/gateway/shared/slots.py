"""A node's socket at this replica, which is never sent more sessions than the node has slots."""

from collections import deque
from collections.abc import Callable, Iterable

from rtcbridge.core.messages import SESSION_ID_LENGTH
from rtcbridge.gateway.links import Link
from rtcbridge.gateway.timers import TimerWheel

_REMEMBERED = 256  # sessions that a node has served: more than end within the lease of a replica that has died
PATIENCE = 1.0  # seconds that an offer waits for the end of an older session, which is on its way
_OFFER = b'{"type":"offer","session":"'
_SESSION_END = b'{"type":"session_end","session":"'
_SESSION = b'"session":"'


class SlotLink(Link):
    """See `Link`; offers of new sessions wait for a slot.

    Slots are given away by the engine, in order. The end of the session that had one before may come to this replica on
    another way than the offer of the next, and after it; and a replica that was frozen may offer a session whose slot
    it has lost meanwhile. So what has passed here is counted. After `PATIENCE` the offer goes out all the same: the
    node has the last word.

    Args:
        pool: The name of the node's pool.
        node: The node's id.
        max_held: See `Link`.
        slots: How many sessions the node serves at once.
        serving: Those that it serves now.
        wheel: For the patience.
        over: Called with a session that the node does not serve any more.

    Attributes:
        serving: The sessions that the node serves, as far as it and this replica know.
    """

    __slots__ = ("_late", "_lately", "_over", "_slots", "_wheel", "pool", "serving")

    def __init__(
        self,
        pool: str,
        node: str,
        max_held: int,
        slots: int,
        serving: Iterable[str],
        wheel: TimerWheel,
        over: Callable[[str], object],
    ) -> None:
        super().__init__(node, max_held)
        self.pool = pool
        self.serving = set(serving)
        self._slots = slots
        self._late: dict[str, list[bytes]] = {}  # what is to be sent of sessions that wait for a slot
        self._lately: deque[str] = deque(maxlen=_REMEMBERED)  # what the node has served, and does not any more
        self._wheel, self._over = wheel, over

    def send(self, *parts: bytes) -> None:
        """See `Link`."""
        data = b"".join(parts)
        if data.startswith(_OFFER):
            self._offer(_session(data, len(_OFFER)), data)
        elif data.startswith(_SESSION_END):
            self._end(_session(data, len(_SESSION_END)), data)
        elif (late := self._late_of(data)) is not None:
            late.append(data)
        else:
            super().send(data)

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        """See `Link`."""
        if self._late:
            self.send(head, body, tail)
        else:
            super().send_between(head, body, tail)

    def has_served(self, session: str) -> bool:
        """Whether its offer has gone to the node, now or lately."""
        return session in self.serving or session in self._lately

    def ended(self, session: str) -> None:
        """The node does not serve a session any more."""
        if session in self.serving:
            self.serving.discard(session)
            self._lately.append(session)
        self._over(session)
        while self._late and len(self.serving) < self._slots:
            self._let_through(next(iter(self._late)))

    def _offer(self, session: str, data: bytes) -> None:
        if (late := self._late.get(session)) is not None:
            late.append(data)
        elif session in self.serving or len(self.serving) < self._slots:
            self.serving.add(session)
            super().send(data)
        else:
            self._late[session] = [data]
            self._wheel.call_later(PATIENCE, self._let_through, session)

    def _end(self, session: str, data: bytes) -> None:
        if self._late.pop(session, None) is None:  # else the node has never heard of it
            super().send(data)
            self.ended(session)

    def _late_of(self, data: bytes) -> list[bytes] | None:
        if not self._late or (at := data.find(_SESSION)) < 0:
            return None
        return self._late.get(_session(data, at + len(_SESSION)))

    def _let_through(self, session: str) -> None:
        late = self._late.pop(session, None)
        if late is not None:
            self.serving.add(session)
            for data in late:
                super().send(data)


def _session(data: bytes, at: int) -> str:
    return data[at : at + SESSION_ID_LENGTH].decode()
