"""The state of one pool in memory, and its steps: the same as in `pool.lua`."""

import asyncio
import itertools
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from rtcbridge.drivers.engine.memory_journal import LEFT, Journal
from rtcbridge.ports_engine import Grant, News, NodeView, Place, SessionView, Standing, Wake


@dataclass
class Node:
    """A node: its socket's id, the replica that has the socket, both "" without one, and who holds its slots."""

    id: str
    capacity: int
    socket: str
    epoch: int
    open: bool
    replica: str
    info: str = ""
    sessions: set[str] = field(default_factory=set)

    def view(self) -> NodeView:
        """What `look` returns of it."""
        return NodeView(
            id=self.id,
            capacity=self.capacity,
            epoch=self.epoch,
            open=self.open,
            replica=self.replica,
            socket=self.socket,
            info=self.info,
            sessions=sorted(self.sessions),
        )


@dataclass(frozen=True)
class Share:
    """Whose slot it is, and how many of them that project may hold; 0: any number."""

    project: str = ""
    limit: int = 0


@dataclass
class Claim:
    """A slot that is held; `orphaned`: when it ends if nobody takes it over."""

    node: Node
    owner: str
    share: Share
    live: bool = False
    orphaned: float = inf

    def view(self, session: str) -> SessionView:
        """What `look` returns of it."""
        node = self.node
        return SessionView(
            id=session,
            node=node.id,
            epoch=node.epoch,
            replica=node.replica,
            owner=self.owner,
            live=self.live,
            project=self.share.project,
        )


@dataclass
class Waiter:
    """A place in line."""

    owner: str
    exclude: str
    key: tuple[float, int, str]
    share: Share
    away: bool = False


class Pool:
    """The state of one pool, for all replicas of this process."""

    def __init__(self, wake: Callable[[str, Wake], None], clock: Callable[[], float]) -> None:
        self.nodes: dict[str, Node] = {}
        self.claims: dict[str, Claim] = {}
        self.waiters: dict[str, Waiter] = {}
        self.line: list[tuple[float, int, str]] = []
        self.projects: dict[str, set[str]] = {}  # the sessions with slots of each
        self.leader, self.until, self.token = "", 0.0, 0
        self.supply, self.cause = 0, ""
        self.clock = clock
        self.journal = Journal(clock, time.time)
        self.lost: set[str] = set()  # sessions whose owner is told so: what they get now is no news of theirs
        self._gone = 0  # no node that has gone had a higher epoch
        self._order = itertools.count(1)
        self._wake = wake

    @property
    def version(self) -> str:
        """Another one after each change of a node."""
        return str([(node.id, node.capacity, node.epoch, node.open, node.replica) for node in self.nodes.values()])

    def wake(self, owner: str, news: News, session: str, node: Node) -> None:
        """Tell a replica of a session."""
        if owner:
            self._wake(owner, Wake(news, session, node.id, node.epoch, node.replica))

    def current(self, wake: Wake) -> bool:
        """Whether news are still so; else others follow, or nobody is left to care."""
        node, claim = self.nodes.get(wake.node), self.claims.get(wake.session)
        match wake.news:
            case News.LOST:
                return wake.session in self.lost
            case News.MAYBE:
                return True
            case News.REPLACED:
                return node is None or node.replica == wake.replica
            case News.MOVED:
                here = claim is not None and claim.node is node and wake.session not in self.lost
                return here and node is not None and (node.epoch, node.replica) == (wake.epoch, wake.replica)
            case _:
                return claim is not None and claim.node is node and wake.session not in self.lost

    def standing(self, session: str) -> Standing:
        """Return what a session has."""
        if (claim := self.claims.get(session)) is not None:
            return Grant(claim.node.id, claim.node.epoch, claim.node.replica)
        waiter = self.waiters[session]
        return self.place(session, 0 if waiter.away else self.line.index(waiter.key) + 1)

    def place(self, session: str, number: int = 0) -> Place:
        """Return the place of a session by its number in line."""
        return Place(number, self.supply, self.cause, self._at_limit(self.waiters[session].share))

    def _at_limit(self, share: Share) -> bool:
        """Whether a project holds as many slots as it may."""
        return bool(share.project) and 0 < share.limit <= len(self.projects.get(share.project, ()))

    def charge(self, session: str, claim: Claim, share: Share) -> None:
        """Count a slot as one of a project."""
        claim.share = share
        if share.project:
            self.projects.setdefault(share.project, set()).add(session)

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
            if project := claim.share.project:
                self.projects[project].discard(session)
        elif (waiter := self.waiters.pop(session, None)) is not None:
            if not waiter.away:
                self.line.remove(waiter.key)
        else:
            return False
        return True

    def lose(self, session: str, node: Node) -> None:
        """A slot is lost with its node; its session waits before all others until its owner has spoken."""
        claim = self.claims[session]
        owner = claim.owner
        self.leave(session)
        self.journal.end(session, "node lost")
        if owner:
            self.lost.add(session)
            self.enter(session, Waiter(owner, "", self.key(session, 0, True), claim.share))
            self.wake(owner, News.LOST, session, node)

    def give(self, session: str, node: Node, owner: str, share: Share, *, live: bool = False) -> Claim:
        """Let a session hold a slot."""
        node.sessions.add(session)
        claim = self.claims[session] = Claim(node, owner, share, live)
        self.charge(session, claim, share)
        if live:
            self.journal.begin(session, node.id, share.project)
        return claim

    def begin(self, session: str) -> bool:
        """The offer goes to the node."""
        if (claim := self.claims.get(session)) is None:
            return False
        claim.live = True
        self.journal.begin(session, claim.node.id, claim.share.project)
        return True

    def served(self, session: str, node: str) -> None:
        """A node says that it serves it."""
        if (claim := self.claims.get(session)) is None:
            self.journal.surely(session, node)
        elif claim.node.id == node and not claim.live:
            self.begin(session)

    def take(self, session: str, owner: str) -> None:
        """Let what a session has be another replica's."""
        self.lost.discard(session)
        if (claim := self.claims.get(session)) is not None:
            before, claim.owner, claim.orphaned = claim.owner, owner, inf
            if before != owner:
                self.wake(before, News.TAKEN, session, claim.node)
        elif (waiter := self.waiters.get(session)) is not None:
            waiter.owner = owner

    def orphan(self, session: str, claim: Claim, grace: float) -> None:
        """Let a slot outlive its owner for some seconds."""
        claim.owner, claim.orphaned = "", self.clock() + grace
        self.wake(claim.node.replica, News.ORPHAN, session, claim.node)
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
            if self._at_limit(waiter.share):
                continue
            node = self.free(waiter.exclude)
            if node is not None:
                self.leave(key[2])
                self.give(key[2], node, waiter.owner, waiter.share)
                if key[2] != caller:
                    self.wake(waiter.owner, News.GRANTED, key[2], node)
            elif not waiter.exclude:
                return

    def expire(self) -> None:
        """End the orphans that nobody has taken over."""
        now = self.clock()
        for session in [session for session, claim in self.claims.items() if claim.orphaned <= now]:
            self.leave(session)
            self.journal.end(session, LEFT)
        self.journal.expire()

    def bury(self, replica: str, grace: float) -> None:
        """A replica has gone: see `pool.lua`."""
        for node in self.nodes.values():
            if node.replica == replica:
                self.disconnect(node)
        for session, claim in list(self.claims.items()):
            if claim.owner == replica and claim.live:
                self.orphan(session, claim, grace)
            elif claim.owner == replica:
                self.leave(session)
                self.journal.maybe(session, claim.node.id, claim.share.project, grace)
                self.wake(claim.node.replica, News.MAYBE, session, claim.node)
        for session, waiter in list(self.waiters.items()):
            if waiter.owner == replica:
                self.leave(session)
                self.journal.end(session, LEFT)
        if self.leader == replica:
            self.leader = ""
        self.serve()

    def connect(self, id: str, socket: str, epoch: int, replica: str, sessions: Sequence[str]) -> Node:
        """A node has a new socket: its live sessions that are not among these are lost, and owners are told."""
        node = self.nodes.get(id)
        if node is None:
            node = self.nodes[id] = Node(id, 0, socket, max(self._gone, epoch) + 1, False, replica)
            return node
        before, node.replica, node.socket = node.replica, replica, socket
        node.epoch = max(node.epoch, epoch) + 1
        if before != replica:
            self.wake(before, News.REPLACED, "", node)
        for session in sorted(node.sessions):
            claim = self.claims[session]
            if claim.live and session not in sessions:
                self.lose(session, node)
        self._moved(node)
        return node

    def adopt(self, node: Node, sessions: Sequence[str], grace: float) -> None:
        """Let sessions that a node lists, and that nobody claims, keep their slots as orphans."""
        for session in sessions:
            known = session in self.claims or self.journal.has_ended(session)
            if not known and len(node.sessions) < node.capacity:
                waiter = self.waiters.get(session)
                self.leave(session)
                share = waiter.share if waiter is not None else Share()
                self.orphan(session, self.give(session, node, "", share, live=True), grace)

    def disconnect(self, node: Node) -> None:
        """The socket of a node has gone."""
        node.open, node.socket = False, ""
        if node.replica:
            node.replica = ""
            self._moved(node)

    def _moved(self, node: Node) -> None:
        for session in sorted(node.sessions):
            if owner := self.claims[session].owner:
                self.wake(owner, News.MOVED, session, node)
            else:
                self.wake(node.replica, News.ORPHAN, session, node)

    def remove(self, node: Node) -> None:
        """Forget a node; its sessions are the caller's matter."""
        del self.nodes[node.id]
        self._gone = max(self._gone, node.epoch)
