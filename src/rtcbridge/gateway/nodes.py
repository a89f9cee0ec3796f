"""The node's end: a connection to `/node`."""

import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

import structlog

from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, ProtocolError, TransitionError
from rtcbridge.core.events import Declined, Event, MediaDown, MediaUp, Source
from rtcbridge.core.messages import (
    Heartbeat,
    NodeAnswer,
    NodeCandidate,
    NodeError,
    NodeUpdated,
    RegisterPayload,
    SessionState,
)
from rtcbridge.core.node import Node, NodeEvent, NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import State
from rtcbridge.gateway.bridge import Bridge, Entry
from rtcbridge.gateway.clients import MAX_BAD
from rtcbridge.gateway.links import Link, Socket
from rtcbridge.gateway.websocket import End, Limits

if TYPE_CHECKING:
    from rtcbridge.gateway.reconciler import Reconciler

log = structlog.get_logger(__name__)

OfSession: TypeAlias = NodeAnswer | NodeCandidate | SessionState | NodeError | NodeUpdated


class NodeSocket(Socket):
    """One node's connection.

    Args:
        bridge: Where its messages go.
        reconciler: Told when a node has come or gone.
        limits: Bounds of the socket.
    """

    __slots__ = ("_bad", "_bridge", "_link", "_node", "_pool", "_reconciler")

    def __init__(self, bridge: Bridge, reconciler: "Reconciler", limits: Limits) -> None:
        super().__init__(limits)
        self._bridge = bridge
        self._reconciler = reconciler
        self._node: Node | None = None  # set when it is registered, as its link is
        self._pool: Pool | None = None
        self._bad = 0
        self.key = ""

    _link: Link

    def opened(self) -> None:
        """Wait for REGISTER, but not for ever."""
        self.expect(self._bridge.config.sessions.auth_timeout)

    def overdue(self) -> None:
        """Nothing came, or nothing valid."""
        if self._node is None:
            self.close(CloseCode.POLICY, "")

    def fault(self, code: int) -> int:
        """Before registration, nothing tells one failure from another."""
        return code if self._node is not None else CloseCode.POLICY

    def received(self, data: bytes) -> None:
        """Take one message."""
        node = self._node
        if node is None:
            self._register(data)
            return
        link = self._link
        if link.socket is not self:
            return  # of an older epoch
        if (candidate := messages.node_candidate_text(data)) is not None:
            session, text = candidate
            entry = self._bridge.sessions.get(session)
            if entry is not None and entry.link is link:
                if entry.client is not None:
                    entry.client.send_between(entry.prefix, text, b"}")
                self._bad = 0
                return
        try:
            message = messages.decode_node(data)
            if type(message) is Heartbeat:
                self._heartbeat(node, message)
            else:
                relay(self._bridge, node.id, message)  # type: ignore[arg-type]  # the heartbeat is the only other one
            self._bad = 0
        except ProtocolError as error:
            self._bad += 1
            log.warning("bad message of a node", node=node.id, error=str(error))
            if self._bad >= MAX_BAD:
                self.close(CloseCode.POLICY, "")

    def ended(self, end: End) -> None:
        """The socket has gone; the node gets no new session until it is back."""
        node, pool = self._node, self._pool
        if node is None or pool is None:
            return
        link = self._bridge.links.get(node.id)
        if link is None or not link.detach(self):
            return
        node.linked = False
        log.info("node dropped", node=node.id, by=end.by, code=end.code, reason=end.reason)
        self._bridge.settle(pool)
        self._reconciler.wake(pool)

    # --- registration ---

    def _register(self, data: bytes) -> None:
        try:
            asked = messages.decode_register(data)
        except ProtocolError:
            self._bridge.auth.identify("")  # so that it takes as long as a wrong key
            self.close(CloseCode.POLICY, "")
            return
        if (accepted := self._accept(asked)) is None:
            log.warning("node refused", node=asked.node, pool=asked.pool)
            self.close(CloseCode.POLICY, "")
            return
        self._pool, self._node = accepted
        self._take_over(self._pool, self._node, asked)

    def _accept(self, asked: RegisterPayload) -> tuple[Pool, Node] | None:
        """Return the node that may register so, if its credential, its pool and its state allow it."""
        bridge = self._bridge
        identity = bridge.auth.identify(asked.credential)
        pool, node = bridge.nodes.get(asked.node, (bridge.pools.get(asked.pool), None))
        if pool is None or pool.spec.name != asked.pool:
            return None
        if node is not None and node.managed:
            token = bridge.auth.node_token(node.id)
            if not hmac.compare_digest(token.encode(), asked.credential.encode()):
                return None
        elif identity is None or not identity.is_node or identity.pool != pool.spec.name:
            return None
        else:
            self.key = identity.key
        now = bridge.clock()
        if node is None:
            node = Node(asked.node, pool.spec, NodeState.READY, now, managed=False)
            bridge.add_node(pool, node)
            return pool, node
        try:
            pool.observe(node.id, NodeEvent.REGISTERED, now)
        except TransitionError as error:
            log.warning("node may not register now", error=str(error))
            return None
        return pool, node

    def _take_over(self, pool: Pool, node: Node, asked: RegisterPayload) -> None:
        bridge = self._bridge
        link = self._link = bridge.links[node.id]
        link.attach(self)
        node.linked, node.heard = True, bridge.clock()
        node.epoch += 1
        node.capacity = asked.capacity or pool.spec.slots
        node.labels = asked.labels
        self.send(messages.encode(messages.Registered(node.id, node.epoch, bridge.config.nodes.heartbeat)))
        if node.state is NodeState.DRAINING:
            self.send(messages.DRAIN)
        self._compare(pool, node, asked.sessions)
        link.flush()
        for session in node.sessions:
            entry = bridge.sessions[session]
            entry.delivered = entry.begun  # a reservation is nothing that the node knows of
        log.info("node registered", node=node.id, pool=pool.spec.name, epoch=node.epoch, capacity=node.capacity)
        bridge.settle(pool)
        self._reconciler.changed(pool, node)

    def _compare(self, pool: Pool, node: Node, listed: list[str]) -> None:
        """Sessions that only one side knows end."""
        bridge = self._bridge
        for session in listed:
            entry = bridge.sessions.get(session)
            if entry is None or entry.session.node != node.id:
                self.send(messages.encode(messages.SessionEnd(session, "unknown")))
        for session in node.sessions.difference(listed):
            if bridge.sessions[session].delivered:
                pool.lose_session(session, bridge.clock())

    # --- messages ---

    def _heartbeat(self, node: Node, message: Heartbeat) -> None:
        bridge = self._bridge
        node.heard = bridge.clock()
        self._link.load, self._link.stats = message.load, message.stats
        confirm(bridge, node.id, message.connected or ())


def relay(bridge: Bridge, node: str, message: OfSession) -> None:
    """Let a session have what its node says of it."""
    entry = bridge.sessions.get(message.session)
    if entry is None or entry.session.node != node:
        return  # late: the session has ended or moved on
    match message:
        case NodeCandidate() | NodeAnswer():
            _deliver(bridge, entry, message)
        case SessionState(state="connected"):
            _deliver(bridge, entry, MediaUp())
        case SessionState(state="failed" | "closed" as state):
            _deliver(bridge, entry, MediaDown(f"media {state}"))
        case NodeError(message=text):
            log.warning("node refused a session", node=node, session=message.session, error=text[:200])
            _deliver(bridge, entry, Declined())
        case NodeUpdated():
            if entry.client is not None:
                entry.client.updated(message)


def confirm(bridge: Bridge, node: str, sessions: Iterable[str]) -> None:
    """Let sessions know that their media is up, by their node's heartbeat."""
    for session in sessions:
        entry = bridge.sessions.get(session)
        if entry is not None and entry.session.node == node and entry.session.state is not State.LIVE:
            _deliver(bridge, entry, MediaUp())


def _deliver(bridge: Bridge, entry: Entry, event: Event) -> None:
    try:
        bridge.deliver(entry, Source.NODE, event)
    except ProtocolError as error:
        session = entry.session
        log.debug(
            "a node's message came too late or too early", node=session.node, session=session.id, error=str(error)
        )
