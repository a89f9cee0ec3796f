"""A bridge in the small, over the real core: no sockets and no event loop, and its clock moves when it is told to.

It follows effects and verdicts as the gateway does, so that tests can speak the wire protocol to the core and
move the time exactly. Sockets are `Peer` objects: what they were sent lies in `got`.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from rtcbridge.core import messages
from rtcbridge.core.errors import Error, ProtocolError, TransitionError
from rtcbridge.core.events import (
    Acquire,
    Away,
    Back,
    Begin,
    Closed,
    Declined,
    Dropped,
    Effect,
    End,
    Event,
    Granted,
    Inform,
    MediaDown,
    MediaUp,
    Reassign,
    Refuse,
    Resume,
    SendClient,
    SendNode,
    Source,
    Stay,
    Suspend,
    Yield,
)
from rtcbridge.core.messages import (
    Candidate,
    Credential,
    Heartbeat,
    NodeAnswer,
    NodeCandidate,
    NodeUpdated,
    Offer,
    SessionStart,
    SessionState,
    Status,
)
from rtcbridge.core.node import UP, Node, NodeEvent, NodeState
from rtcbridge.core.pool import Create, Pool
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import PoolSpec, SessionSpec


@dataclass(frozen=True)
class Limits:
    """What the gateway bounds, with the documented defaults."""

    auth_timeout: float = 10.0
    heartbeat: float = 5.0
    missed: int = 3
    max_message: int = 65_536
    message_rate: float = 50.0
    message_burst: int = 200
    max_bad: int = 10

    @property
    def silence(self) -> float:
        return self.heartbeat * self.missed


@dataclass(eq=False)
class Peer:
    """One socket, seen from the other end."""

    is_node: bool
    deadline: float  # for its first message
    credit: float
    got: deque[bytes] = field(default_factory=deque)
    closed: tuple[int, str] | None = None  # by the bridge
    gone: bool = False
    bad: int = 0
    spent_at: float = 0.0
    key: str = ""
    project: str | None = None  # of a client whose credential was accepted
    session: Session | None = None
    extended: bool = False  # it speaks `rtcbridge.v2`
    node: Node | None = None

    away = False

    def hear(self, data: bytes) -> None:
        """A session says something."""
        self.got.append(data)

    def inform(self, status: Status) -> None:
        self.hear(messages.NODE_STATUS[status])

    def refuse(self, error: Error) -> None:
        self.hear(messages.client_error(error.text))

    def over(self, reason: str) -> None:
        """The documented API has no message for it."""

    @property
    def open(self) -> bool:
        return self.closed is None and not self.gone

    def take(self) -> list[Any]:
        """All that it was sent and has not read, decoded."""
        frames = [json.loads(frame) for frame in self.got]
        self.got.clear()
        return frames


@dataclass(eq=False)
class Operation:
    """What a provider was asked for."""

    pool: Pool
    node: Node
    name: str
    seen: bool = False


class Client(Protocol):
    """Whom a session speaks to."""

    session: Session | None

    @property
    def away(self) -> bool: ...
    def hear(self, data: bytes) -> None: ...
    def inform(self, status: Status) -> None: ...
    def refuse(self, error: Error) -> None: ...
    def over(self, reason: str) -> None: ...


class TinyBridge:
    """Sessions and pools by the effects of the core.

    `projects` maps a client's key to its pool, `node_keys` a static node's key to its pool. The token of a node
    that a provider made is `token-` and its id. With `eager` off, `settle` has to be called.
    """

    def __init__(
        self,
        pools: Iterable[PoolSpec],
        projects: Mapping[str, str],
        node_keys: Mapping[str, str],
        spec: SessionSpec | None = None,
        limits: Limits | None = None,
        eager: bool = True,
    ) -> None:
        self.now = 0.0
        self.pools = {each.name: Pool(each) for each in pools}
        self.projects, self.node_keys = dict(projects), dict(node_keys)
        self.spec, self.limits, self.eager = spec or SessionSpec(), limits or Limits(), eager
        self.peers: list[Peer] = []
        self.sessions: dict[str, tuple[Session, Pool, Client | None]] = {}
        self.nodes: dict[str, Node] = {}
        self.sockets: dict[str, Peer] = {}  # the newest of each node
        self.held: dict[str, list[bytes]] = {}  # for nodes whose socket has dropped
        self.begun: dict[str, str] = {}  # the ledger: sessions that began and did not end, and their nodes
        self.sent: dict[str, set[str]] = {}  # node: sessions whose offer it was sent
        self.operations: list[Operation] = []
        self.on_pool: Callable[[str, str, str], None] = lambda what, session, node: None
        self._count = 0
        self._settling = False

    def new_id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    # --- sockets ---

    def connect(self, is_node: bool) -> Peer:
        peer = Peer(is_node, self.now + self.limits.auth_timeout, self.limits.message_burst, spent_at=self.now)
        self.peers.append(peer)
        return peer

    def send(self, peer: Peer, frame: bytes | str | Mapping[str, Any]) -> None:
        """A text frame arrives from this peer."""
        if not peer.open:
            return
        data = json.dumps(frame).encode() if isinstance(frame, Mapping) else frame
        data = data.encode() if isinstance(data, str) else data
        known = peer.node is not None if peer.is_node else peer.project is not None
        if len(data) > self.limits.max_message * (4 if peer.is_node else 1):
            self.close(peer, 1009 if known else 1008)
        elif not peer.is_node and not self._afford(peer):
            self.close(peer, 1008)
        elif not known:
            self._first(peer, data)
        else:
            try:
                (self._from_node if peer.is_node else self._from_client)(peer, data)
                peer.bad = 0
            except ProtocolError as error:
                peer.bad += 1
                if not peer.is_node:
                    self.bad_input(peer, str(error))
                if peer.bad >= self.limits.max_bad:
                    self.close(peer, 1008)

    def bad_input(self, peer: Peer, text: str) -> None:
        """A client sent something that is not allowed."""
        peer.got.append(messages.client_error(text))

    def send_binary(self, peer: Peer) -> None:
        known = peer.node is not None if peer.is_node else peer.project is not None
        self.close(peer, 1003 if known else 1008)

    def _afford(self, peer: Peer) -> bool:
        limits = self.limits
        peer.credit = min(limits.message_burst, peer.credit + (self.now - peer.spent_at) * limits.message_rate) - 1
        peer.spent_at = self.now
        return peer.credit >= 0

    def close(self, peer: Peer, code: int, reason: str = "") -> None:
        """The bridge closes a socket."""
        if peer.open:
            peer.closed = (code, reason)
            self._ended(peer, Dropped() if code in (1011, 1012, 1013) else Closed())

    def quit(self, peer: Peer, goodbye: bool = True) -> None:
        """The peer's socket ends, with a Close frame or without."""
        if peer.open:
            peer.gone = True
            self._ended(peer, Closed() if goodbye else Dropped())

    def lose_for_a_while(self, peer: Peer) -> None:
        """The socket ends, and its client may come back."""
        peer.gone = True
        self._ended(peer, Away())

    def come_back(self, session: Session, peer: Peer) -> None:
        """The client of a session is back, on this socket."""
        _, pool, _ = self.sessions[session.id]
        self.sessions[session.id] = session, pool, peer
        peer.session = session
        self.deliver(session, Source.CLIENT, Back())

    def _ended(self, peer: Peer, event: Event) -> None:
        if peer.node is not None and self.sockets.get(peer.node.id) is peer:
            del self.sockets[peer.node.id]
            peer.node.linked = False
            self.settle_if_eager()
        elif peer.session is not None and peer.session.id in self.sessions:
            session, pool, _ = self.sessions[peer.session.id]
            self.sessions[session.id] = session, pool, None
            self.deliver(session, Source.CLIENT, event)

    def _first(self, peer: Peer, data: bytes) -> None:
        try:
            if peer.is_node:
                self._register(peer, messages.decode_register(data))
            else:
                peer.key = messages.decode_credential(data)
                peer.project = self.projects.get(peer.key)
                if peer.project is not None:
                    peer.got.append(messages.AUTH_SUCCESS)
        except ProtocolError:
            pass
        if (peer.node if peer.is_node else peer.project) is None:
            self.close(peer, 1008)

    def revoke(self, key: str) -> None:
        """A client's key is valid no longer."""
        del self.projects[key]
        for peer in self.peers:
            if peer.project is not None and peer.key == key:
                self.close(peer, 1008)

    # --- nodes ---

    def _register(self, peer: Peer, asked: messages.RegisterPayload) -> None:
        node, pool = self.nodes.get(asked.node), self.pools.get(asked.pool)
        allowed = self.node_keys.get(asked.credential) == asked.pool
        if node is not None and node.managed:
            allowed = asked.credential == f"token-{node.id}"
        if not allowed or pool is None or (node is not None and node.spec is not pool.spec):
            return
        if node is None:
            node = Node(asked.node, pool.spec, NodeState.READY, self.now, managed=False)
            self.add_node(pool, node)
        else:
            try:
                pool.observe(node.id, NodeEvent.REGISTERED, self.now)
            except TransitionError:
                return
        if older := self.sockets.pop(node.id, None):
            older.closed = (1008, "replaced by a newer connection")
        peer.node, self.sockets[node.id] = node, peer
        node.linked, node.heard = True, self.now
        node.epoch += 1
        node.capacity, node.labels = asked.capacity or pool.spec.slots, asked.labels
        peer.got.append(messages.encode(messages.Registered(node.id, node.epoch, self.limits.heartbeat)))
        if node.state is NodeState.DRAINING:
            peer.got.append(messages.DRAIN)
        self._compare(peer, node, pool, asked.sessions)
        for frame in self.held.pop(node.id, []):
            self._to_node(node.id, frame)
        self.settle_if_eager()

    def _compare(self, peer: Peer, node: Node, pool: Pool, listed: list[str]) -> None:
        sent = self.sent[node.id]
        for session in listed:
            if session not in node.sessions:
                peer.got.append(messages.encode(messages.SessionEnd(session, "unknown")))
        for session in sorted(node.sessions.difference(listed)):
            if session in sent:
                pool.lose_session(session, self.now)

    def add_node(self, pool: Pool, node: Node) -> None:
        pool.add(node)
        self.nodes[node.id] = node
        self.sent.setdefault(node.id, set())

    def _from_node(self, peer: Peer, data: bytes) -> None:
        node, message = peer.node, messages.decode_node(data)
        assert node is not None
        if isinstance(message, Heartbeat):
            node.heard = self.now
            for id in message.connected or ():
                self._node_event(node, id, MediaUp())
            return
        match message:
            case NodeAnswer() | NodeCandidate():
                self._node_event(node, message.session, message)
            case SessionState(state="connected"):
                self._node_event(node, message.session, MediaUp())
            case SessionState(state="failed" | "closed" as state):
                self._node_event(node, message.session, MediaDown(f"media {state}"))
            case messages.NodeError():
                self._node_event(node, message.session, Declined())
            case NodeUpdated():
                session, _, client = self.sessions.get(message.session, (None, None, None))
                if session is not None and client is not None and session.node == node.id:
                    self.updated(client, message)

    def _node_event(self, node: Node, id: str, event: Event) -> None:
        session, *_ = self.sessions.get(id, (None,))
        if session is not None and session.node == node.id:
            with suppress(ProtocolError):  # too early or too late; the node is not told
                self.deliver(session, Source.NODE, event)

    def _to_node(self, id: str, frame: bytes) -> None:
        if peer := self.sockets.get(id):
            peer.got.append(frame)
            if b'"type":"offer"' in frame:
                self.sent[id].add(json.loads(frame)["session"])
        elif id in self.nodes:
            self.held.setdefault(id, []).append(frame)

    # --- clients ---

    def _from_client(self, peer: Peer, data: bytes) -> None:
        message = messages.decode_client(data)
        if isinstance(message, Credential):
            raise ProtocolError("CREDENTIAL may only be the first message.")
        self._to_session(peer, self.pools[peer.project or ""], message)

    def _to_session(self, client: Client, pool: Pool, message: SessionStart | Offer | Candidate) -> None:
        session = client.session
        if session is None or session.state is State.ENDED:
            if isinstance(message, Candidate) and session is not None:
                session.receive(Source.CLIENT, message, self.now)
                return
            session = Session(self.new_session_id(client), self.spec, session.dialect if session else None)
            client.session = session
            self.sessions[session.id] = session, pool, client
        self.deliver(session, Source.CLIENT, message)

    def new_session_id(self, client: Client) -> str:
        return self.new_id("s")

    def updated(self, client: Client, message: NodeUpdated) -> None:
        """A node says what became of an update."""

    # --- events and effects ---

    def deliver(self, session: Session, source: Source, event: Event) -> None:
        for effect in session.receive(source, event, self.now):
            self._perform(session, effect)
        self.settle_if_eager()

    def _perform(self, session: Session, effect: Effect) -> None:
        _, pool, peer = self.sessions[session.id]
        match effect:
            case SendClient() | Inform() | Refuse():
                self._tell(peer, effect)
            case SendNode(node=node, data=data):
                self._to_node(node, data)
            case Acquire(patient=patient, front=front):
                self._join(pool, session, patient=patient, front=front)
            case Stay() | Suspend() | Resume():
                self._keep(pool, session, effect)
            case Yield():
                self.on_pool("yield", session.id, "")
                pool.yield_slot(session.id, self.now)
            case Reassign(exclude=node):
                self._leave(pool, session)
                self._join(pool, session, patient=False, front=True, exclude=node)
            case Begin(node=node):
                self.begun[session.id] = node
            case End():
                self._end(session, pool, peer, effect)

    @staticmethod
    def _tell(peer: "Client | None", effect: SendClient | Inform | Refuse) -> None:
        if peer is None:
            return
        match effect:
            case SendClient(data=data):
                peer.hear(data)
            case Inform(status=status):
                peer.inform(status)
            case Refuse(error=error):
                peer.refuse(error)

    def _keep(self, pool: Pool, session: Session, effect: Stay | Suspend | Resume) -> None:
        match effect:
            case Stay():
                pool.stay(session.id)
            case Suspend():
                pool.suspend(session.id, self.now)
            case Resume():
                pool.resume(session.id)

    def _end(self, session: Session, pool: Pool, peer: "Client | None", effect: End) -> None:
        node = self.nodes.get(session.node)
        if self.begun.pop(session.id, None) and node is not None and node.state in UP:
            self._to_node(session.node, messages.encode(messages.SessionEnd(session.id, effect.reason)))
        self._leave(pool, session)
        del self.sessions[session.id]
        if effect.rejoin:
            assert peer is not None
            again = peer.session = Session.rejoined(self.new_session_id(peer), self.spec, session.dialect)
            self.sessions[again.id] = again, pool, peer
            self._join(pool, again, patient=True, front=True)
            if peer.away:
                self.deliver(again, Source.CLIENT, Away())
        elif peer is not None:
            peer.over(effect.reason)

    def _join(self, pool: Pool, session: Session, *, patient: bool, front: bool = False, exclude: str = "") -> None:
        self.on_pool("front" if front else "back", session.id, exclude)
        pool.join(session.id, patient=patient, front=front, exclude=exclude)

    def _leave(self, pool: Pool, session: Session) -> None:
        self.on_pool("leave", session.id, "")
        pool.leave(session.id, self.now)

    def settle_if_eager(self) -> None:
        if self.eager:
            self.settle()

    def settle(self) -> None:
        """Follow verdicts and plans until there is nothing new."""
        if self._settling:
            return
        self._settling = True
        for _ in range(1000):
            if not any(self._settle(pool) or self._reconcile(pool) for pool in self.pools.values()):
                self._settling = False
                return
        raise AssertionError("it does not come to rest")

    def _settle(self, pool: Pool) -> bool:
        verdicts = pool.settle(self.now)
        for id, verdict in verdicts:
            if isinstance(verdict, Granted):
                self.on_pool("granted", id, verdict.node)
            if id in self.sessions:
                self.deliver(self.sessions[id][0], Source.POOL, verdict)
        return bool(verdicts)

    # --- nodes come and go ---

    def _reconcile(self, pool: Pool) -> bool:
        before = dict(pool.nodes)
        changed = pool.expire(self.now, self.limits.silence)
        for id in changed:
            self._follow(before[id])
        steps = pool.plan(self.now)
        for step in steps:
            if isinstance(step, Create):
                self.add_node(pool, Node(self.new_id("m"), pool.spec, NodeState.PROVISIONING, self.now))
            else:
                self.tell(pool.nodes[step.node], step.event)
        for node, name in pool.operations(self.now):
            node.busy = True
            self.operations.append(Operation(pool, node, name))
        return bool(changed or steps)

    def tell(self, node: Node, event: NodeEvent) -> None:
        """Something happens to a node."""
        if self.pools[node.spec.name].observe(node.id, event, self.now):
            self._follow(node)

    def _follow(self, node: Node) -> None:
        if node.state is NodeState.DRAINING:
            self._to_node(node.id, messages.DRAIN)
        elif node.state not in UP:
            self.held.pop(node.id, None)
            self.sent[node.id] = set()
            if peer := self.sockets.pop(node.id, None):
                peer.closed = (1012, node.state.value)
        if node.state is NodeState.GONE:
            del self.nodes[node.id]

    def answer(self, operation: Operation, accepted: bool) -> None:
        """The provider answers an operation."""
        self.operations.remove(operation)
        node = operation.node
        node.busy = False
        wanted = {"create": "provisioning", "start": "starting", "stop": "stopping", "destroy": "terminating"}
        if self.nodes.get(node.id) is node and node.state.value == wanted[operation.name]:
            self.tell(node, NodeEvent.ACCEPTED if accepted else NodeEvent.REFUSED)
        self.settle_if_eager()

    # --- time ---

    def next_due(self) -> float:
        """When something happens by itself."""
        known = [peer.node or peer.project for peer in self.peers]
        due = [peer.deadline for peer, one in zip(self.peers, known, strict=True) if peer.open and one is None]
        due += [session.deadline for session, *_ in self.sessions.values()]
        due += [pool.next_due(self.now, self.limits.silence) for pool in self.pools.values()]
        return min(due, default=inf)

    def step(self, until: float) -> bool:
        """Let the clock go to the next thing that happens by itself; false if that is not before `until`."""
        due = self.next_due()
        if due > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, due)
        for peer in self.peers:
            if peer.open and (peer.node or peer.project) is None and peer.deadline <= self.now:
                self.close(peer, 1008)
        for session, *_ in list(self.sessions.values()):
            if session.id in self.sessions and session.deadline <= self.now:
                self.deliver(session, Source.CLOCK, session.overdue(self.now))
        self.settle()
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        for _ in range(10_000):
            if not self.step(until):
                return
        raise AssertionError("time stands still")

    # --- a restart ---

    def restarted(self) -> "TinyBridge":
        """The bridge after `kill -9` and a new start: what was stored is there, and no socket."""
        again = type(self)(
            [pool.spec for pool in self.pools.values()], self.projects, self.node_keys, self.spec, self.limits
        )
        again.now, again._count = self.now, self._count
        for old in self.nodes.values():
            node = Node(old.id, old.spec, old.state, self.now, managed=old.managed)
            node.capacity, node.epoch, node.started = old.capacity, old.epoch, old.started
            node.order = old.order
            again.add_node(again.pools[old.spec.name], node)
        for id, on in self.begun.items():
            node = again.nodes[on]
            pool = again.pools[node.spec.name]
            session = Session.adopted(id, on, self.spec, self.now)
            again.sessions[id] = session, pool, None
            again.begun[id] = on
            again.sent[on].add(id)
            pool.adopt(id, on)
        for peer in self.peers:
            peer.gone = True
        again.settle()
        return again
