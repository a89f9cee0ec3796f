"""The state of one pool in memory, and its steps: the same as in `pool.lua`."""

import asyncio
import itertools
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from rtcbridge.ports_engine import Grant, News, Place, Standing, Wake


@dataclass
class Node:
    """A node: its socket's id, the replica that has the socket, and who holds its slots."""

    id: str
    capacity: int
    socket: str
    epoch: int
    open: bool
    replica: str
    sessions: set[str] = field(default_factory=set)


@dataclass
class Claim:
    """A slot that is held; `orphaned`: when it ends if nobody takes it over."""

    node: Node
    owner: str
    live: bool = False
    orphaned: float = inf


@dataclass
class Waiter:
    """A place in line."""

    owner: str
    exclude: str
    key: tuple[float, int, str]
    away: bool = False


class Pool:
    """The state of one pool, for all replicas of this process."""

    def __init__(self, wake: Callable[[str, Wake], None], clock: Callable[[], float]) -> None:
        self.nodes: dict[str, Node] = {}
        self.claims: dict[str, Claim] = {}
        self.waiters: dict[str, Waiter] = {}
        self.line: list[tuple[float, int, str]] = []
        self.leader, self.until, self.token = "", 0.0, 0
        self.supply = 0
        self.clock = clock
        self._epochs: dict[str, int] = {}
        self._order = itertools.count(1)
        self._wake = wake

    def wake(self, owner: str, news: News, session: str, node: Node) -> None:
        """Tell a replica of a session."""
        if owner:
            self._wake(owner, Wake(news, session, node.id, node.epoch))

    def standing(self, session: str) -> Standing:
        """Return what a session has."""
        if (claim := self.claims.get(session)) is not None:
            return Grant(claim.node.id, claim.node.epoch)
        waiter = self.waiters[session]
        return Place(0 if waiter.away else self.line.index(waiter.key) + 1, self.supply)

    def key(self, session: str, rank: int, front: bool) -> tuple[float, int, str]:
        """Return where a session that comes now stands in line."""
        order = next(self._order)
        return (-inf, -order, session) if front else (rank, order, session)

    def enter(self, session: str, waiter: Waiter) -> None:
        """Put a session in line."""
        self.waiters[session] = waiter
        insort(self.line, waiter.key)

    def leave(self, session: str) -> bool:
        """Take the slot or the place from a session."""
        if (claim := self.claims.pop(session, None)) is not None:
            claim.node.sessions.discard(session)
        elif (waiter := self.waiters.pop(session, None)) is not None:
            if not waiter.away:
                self.line.remove(waiter.key)
        else:
            return False
        return True

    def give(self, session: str, node: Node, owner: str, live: bool = False) -> Claim:
        """Let a session hold a slot."""
        node.sessions.add(session)
        claim = self.claims[session] = Claim(node, owner, live)
        return claim

    def orphan(self, claim: Claim, grace: float) -> None:
        """Let a slot outlive its owner for some seconds."""
        claim.owner, claim.orphaned = "", self.clock() + grace
        asyncio.get_running_loop().call_later(grace + 0.001, self.serve)

    def free(self, exclude: str) -> Node | None:
        """The fullest node with a free slot; ties: the id."""
        able = [
            node
            for node in self.nodes.values()
            if node.open and len(node.sessions) < node.capacity and node.id != exclude
        ]
        return min(able, key=lambda node: (-len(node.sessions), node.id), default=None)

    def serve(self, caller: str = "") -> None:
        """Give the free slots to the line; all but the caller's own session are told."""
        self.expire()
        for key in list(self.line):
            waiter = self.waiters[key[2]]
            node = self.free(waiter.exclude)
            if node is not None:
                self.leave(key[2])
                self.give(key[2], node, waiter.owner)
                if key[2] != caller:
                    self.wake(waiter.owner, News.GRANTED, key[2], node)
            elif not waiter.exclude:
                return

    def expire(self) -> None:
        """End the orphans that nobody has taken over."""
        now = self.clock()
        for session in [session for session, claim in self.claims.items() if claim.orphaned <= now]:
            self.leave(session)

    def bury(self, replica: str, grace: float) -> None:
        """A replica has gone: see `pool.lua`."""
        for session, claim in list(self.claims.items()):
            if claim.owner == replica and claim.live:
                self.orphan(claim, grace)
                if claim.node.replica != replica:
                    self.wake(claim.node.replica, News.ORPHAN, session, claim.node)
            elif claim.owner == replica:
                self.leave(session)
        for session, waiter in list(self.waiters.items()):
            if waiter.owner == replica:
                self.leave(session)
        for node in self.nodes.values():
            if node.replica == replica:
                node.open, node.replica = False, ""
        if self.leader == replica:
            self.leader = ""
        self.serve()

    def register(self, id: str, capacity: int, socket: str, epoch: int, replica: str) -> tuple[Node, bool]:
        """Take a node in; say whether its socket is new."""
        node = self.nodes.get(id)
        if node is not None and node.socket == socket:
            node.open, node.replica, node.capacity = True, replica, capacity
            return node, False
        epoch = max(node.epoch if node else 0, epoch) + 1
        sessions = node.sessions if node is not None else set()
        if node is not None:
            node.socket, node.epoch, node.open, node.replica, node.capacity = socket, epoch, True, replica, capacity
            return node, True
        node = self.nodes[id] = Node(id, capacity, socket, epoch, True, replica, sessions)
        return node, True
