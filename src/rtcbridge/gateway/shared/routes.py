"""The way from a session to its node, wherever the node's socket is."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from rtcbridge.gateway.shared.wire import TO_NODE
from rtcbridge.ports_engine import Bus

if TYPE_CHECKING:
    from rtcbridge.gateway.links import Link


_numbers = itertools.count(1)


class Route:
    """What a session sends goes to the node's socket here, or to the replica that has it, or is held meanwhile.

    Args:
        session: The session's id.
        node: The node's id.
        bus: Takes messages to other replicas.
        here: Says whether a node's socket is at this replica.
        max_held: Bytes that are held at most.
        unreachable: Called when there is no room for a message: the session is to be given up, and no more is sent.
    """

    __slots__ = (
        "_back", "_bus", "_direction", "_held", "_here", "_size", "epoch", "max_held", "node", "overflown", "replica",
        "session", "unreachable",
    )  # fmt: skip

    def __init__(
        self,
        session: str,
        node: str,
        bus: Bus,
        here: "Callable[[str], Link | None]",
        max_held: int,
        unreachable: Callable[[], object],
    ) -> None:
        self.session, self.node, self.max_held, self.unreachable = session, node, max_held, unreachable
        self.replica, self.epoch = "", 0
        self.overflown = False
        self._bus, self._here = bus, here
        # Another one for each route: its numbers begin anew, also where the session comes back to a replica.
        self._direction = f"{TO_NODE}{node}|{bus.address}|{next(_numbers)}"
        self._back: list[bytes] = []  # what came back, since the node's socket had gone
        self._held: list[bytes] = []
        self._size = 0

    @property
    def link(self) -> "Link | None":
        """The node's socket, if it is here."""
        return self._here(self.node) if self.replica == self._bus.address else None

    def send(self, *parts: bytes) -> None:
        """Send one message, the parts joined, now or when it is known where the node is."""
        if self.replica:
            self._pass(b"".join(parts))
        else:
            self._hold(self._held, b"".join(parts))

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        """`send` of three parts, for what is relayed."""
        self.send(head, body, tail)

    def _pass(self, data: bytes) -> None:
        if self.replica != self._bus.address:
            if not self._bus.send(self.replica, self.session, self._direction, data, term=self.epoch):
                self._overflow()
        elif (link := self._here(self.node)) is not None:
            link.send(data)
        else:
            self._hold(self._held, data)

    def _hold(self, where: list[bytes], data: bytes) -> None:
        self._size += len(data)
        if self._size > self.max_held:
            self._overflow()
        elif not self.overflown:
            where.append(data)

    def _overflow(self) -> None:
        if not self.overflown:
            self.overflown = True
            self._back, self._held = [], []
            self.unreachable()

    def take_held(self) -> list[bytes]:
        """Return what is held, in order, for another route to send: the node is nowhere."""
        held, self._back, self._held, self._size = self._back + self._held, [], [], 0
        return held

    def move(self, replica: str, epoch: int) -> None:
        """The node has a socket at this replica now, or at none."""
        self.replica, self.epoch = replica, epoch
        if replica:
            for data in self.take_held():
                self._pass(data)

    def came_back(self, epoch: int, data: bytes) -> None:
        """A replica could not hand a message to the node, sent under this epoch: it goes where the node is now."""
        if self.replica and self.epoch > epoch:
            self._pass(data)
        else:
            self.replica = ""
            self._hold(self._back, data)
