"""A node's end at a replica: its sessions may be those of any replica."""

import hmac
import secrets
from functools import partial

import msgspec
import structlog

from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, ProtocolError
from rtcbridge.core.messages import FromNode, Heartbeat, NodeError, RegisterPayload, SessionState
from rtcbridge.gateway.clients import MAX_BAD
from rtcbridge.gateway.links import Socket
from rtcbridge.gateway.nodes import confirm, relay
from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.gateway.shared.records import open_rows
from rtcbridge.gateway.shared.slots import SlotLink
from rtcbridge.gateway.shared.wire import FROM_NODE, Guest, MediaIsUp
from rtcbridge.gateway.websocket import End, Limits
from rtcbridge.ports import LedgerError
from rtcbridge.ports_engine import EngineError, Registered

log = structlog.get_logger(__name__)

_OVER = ("failed", "closed")
_EARLY = 1_000  # messages that a node may send before it is registered


class SharedNodeSocket(Socket):
    """One node's connection.

    Args:
        bridge: The replica.
        limits: Bounds of the socket.
    """

    __slots__ = ("_asked", "_bad", "_bridge", "_early", "_link", "_pool", "epoch", "heard")

    def __init__(self, bridge: SharedBridge, limits: Limits) -> None:
        super().__init__(limits)
        self._bridge = bridge
        self._link: SlotLink | None = None  # set when it is registered
        self._pool: SharedPool | None = None
        self._asked: RegisterPayload | None = None  # set when its credential has been accepted
        self._early: list[bytes] = []
        self._bad = 0
        self.key = ""
        self.epoch = 0
        self.heard = 0.0

    def opened(self) -> None:
        """Wait for REGISTER, but not for ever."""
        self.expect(self._bridge.config.sessions.auth_timeout)

    def overdue(self) -> None:
        """Nothing came, or nothing valid."""
        if self._asked is None:
            self.close(CloseCode.POLICY, "")

    def fault(self, code: int) -> int:
        """Before registration, nothing tells one failure from another."""
        return code if self._link is not None else CloseCode.POLICY

    def received(self, data: bytes) -> None:
        """Take one message."""
        if self._link is not None:
            self._take(self._link, data)
        elif self._asked is None:
            self._register(data)
        elif len(self._early) < _EARLY:
            self._early.append(bytes(data))
        else:
            self.close(CloseCode.POLICY, "")

    def ended(self, end: End) -> None:
        """The socket has gone; the node gets no new session until it is back."""
        link, pool, asked = self._link, self._pool, self._asked
        if link is None or pool is None or asked is None or not link.detach(self):
            return
        bridge, node = self._bridge, asked.node
        if bridge.links.get(node) is link:
            del bridge.links[node]
        log.info("node dropped", node=node, by=end.by, code=end.code, reason=end.reason)
        bridge.drop_guests(node)
        bridge.moved(pool, node, "", self.epoch)
        pool.calls.add(f"node {node}", lambda: pool.store.node_down(node, self.epoch))
        bridge.nudge(pool)

    # --- registration ---

    def _register(self, data: bytes) -> None:
        try:
            asked = messages.decode_register(data)
        except ProtocolError:
            self._bridge.auth.identify("")  # so that it takes as long as a wrong key
            self.close(CloseCode.POLICY, "")
            return
        managed = self._accept(asked)
        if managed is None:
            log.warning("node refused", node=asked.node, pool=asked.pool)
            self.close(CloseCode.POLICY, "")
            return
        self._asked, self._pool = asked, self._bridge.shared_pool(asked.pool)
        self._bridge.do(self._join(asked, self._pool, managed))

    def _accept(self, asked: RegisterPayload) -> bool | None:
        """Say whether the credential is that of a node that a provider made; None if it is none for this node."""
        auth = self._bridge.auth
        identity = auth.identify(asked.credential)
        if asked.pool not in self._bridge.pools:
            return None
        if hmac.compare_digest(auth.node_token(asked.node).encode(), asked.credential.encode()):
            return True
        if identity is None or not identity.is_node or identity.pool != asked.pool:
            return None
        self.key = identity.key
        return False

    async def _join(self, asked: RegisterPayload, pool: SharedPool, managed: bool) -> None:
        bridge, node = self._bridge, asked.node
        capacity = asked.capacity or pool.spec.slots
        try:
            verdict = await bridge.leaders.ask(
                asked.pool, node, managed=managed, capacity=capacity, labels=dict(asked.labels)
            )
            if not verdict.accepted:
                log.warning("node may not register now", node=node)
                self.close(CloseCode.POLICY, "")
                return
            listed = await self._still_open(asked, pool)
            older = bridge.links.get(node)
            if isinstance(older, SlotLink) and older.pool != asked.pool:
                log.warning("node has the id of one of another pool", node=node, pool=asked.pool)
                self.close(CloseCode.POLICY, "")
            if not self.is_open:
                return
            bridge.joining.setdefault(node, [])
            info = msgspec.json.encode({"managed": managed, "labels": asked.labels}).decode()
            registered = await pool.store.node_up(
                node,
                capacity,
                secrets.token_hex(8),
                listed,
                verdict.epoch,
                open=verdict.open,
                info=info,
                supply=verdict.supply,
            )
        except (EngineError, LedgerError, ValueError) as error:
            log.warning("node could not register", node=node, error=str(error))
            self.close(CloseCode.TRY_LATER, "")
        else:
            if self.is_open:
                self._enter(asked, pool, registered, verdict.draining)
            else:
                pool.calls.add(f"node {node}", lambda: pool.store.node_down(node, registered.epoch))
        finally:
            bridge.inbox.joined(node)

    async def _still_open(self, asked: RegisterPayload, pool: SharedPool) -> list[str]:
        """The listed sessions that have not ended: no other may take a slot from those that wait."""
        sessions = self._bridge.sessions
        unknown = [session for session in asked.sessions if session not in sessions]
        if unknown:
            await pool.store.served(asked.node, unknown)  # whoever offered them may not have lived to say so
        rows = await open_rows(self._bridge.ledger, pool, unknown, self._bridge.wall()) if unknown else {}
        return [session for session in asked.sessions if session in sessions or session in rows]

    def _enter(self, asked: RegisterPayload, pool: SharedPool, registered: Registered, draining: bool) -> None:
        bridge, node = self._bridge, asked.node
        self.epoch, self.heard = registered.epoch, bridge.clock()
        if (older := bridge.links.get(node)) is not None:
            bridge.cut(older, CloseCode.POLICY, "replaced by a newer connection")
        serving = [session for session in asked.sessions if session in registered.sessions]
        slots = asked.capacity or pool.spec.slots
        outbox, over = bridge.config.server.node_outbox, partial(pool.store.over, node)
        link = self._link = SlotLink(asked.pool, node, outbox, slots, serving, bridge.wheel, over)
        bridge.links[node] = link
        link.epoch, link.updates = self.epoch, asked.labels.get(messages.UPDATES) is True
        link.attach(self)
        self.send(messages.encode(messages.Registered(node, self.epoch, bridge.config.nodes.heartbeat)))
        if draining:
            self.send(messages.DRAIN)
        for session in asked.sessions:
            owner = registered.sessions.get(session)
            if owner is None:
                self.send(messages.encode(messages.SessionEnd(session, "unknown")))
            elif owner != bridge.me:
                bridge.guests[session] = Guest(owner, node)
        bridge.moved(pool, node, bridge.me, self.epoch)
        log.info("node registered", node=node, pool=asked.pool, epoch=self.epoch, capacity=asked.capacity)
        bridge.nudge(pool)
        self._watch()
        early, self._early = self._early, []
        for data in early:
            if self.is_open:
                self._take(link, data)

    def _watch(self) -> None:
        """Give a node up that has been silent for too long."""
        bridge, link, pool = self._bridge, self._link, self._pool
        if link is None or pool is None or link.socket is not self:
            return
        left = self.heard + bridge.silence - bridge.clock()
        if left > 0:
            bridge.wheel.call_later(left, self._watch)
            return
        log.warning("node is silent", node=link.node)
        pool.calls.add(f"node {link.node}", lambda: pool.store.node_gone(link.node, self.epoch))
        self.close(CloseCode.RESTART, "lost")

    # --- messages ---

    def _take(self, link: SlotLink, data: bytes) -> None:
        if link.socket is not self:
            return  # of an older epoch
        bridge = self._bridge
        if (candidate := messages.node_candidate_text(data)) is not None:
            session, text = candidate
            entry = bridge.sessions.get(session)
            if entry is not None and entry.link is link:
                if entry.client is not None:
                    entry.client.send_between(entry.prefix, text, b"}")
                self._bad = 0
                return
            if entry is None and (guest := bridge.guests.get(session)) is not None:
                self._pass(session, guest, link.node, data)
                return
        try:
            self._take_slowly(link, messages.decode_node(data), data)
            self._bad = 0
        except ProtocolError as error:
            self._bad += 1
            log.warning("bad message of a node", node=link.node, error=str(error))
            if self._bad >= MAX_BAD:
                self.close(CloseCode.POLICY, "")

    def _take_slowly(self, link: SlotLink, message: FromNode, data: bytes) -> None:
        bridge = self._bridge
        if isinstance(message, Heartbeat):
            self._heartbeat(link, message)
            return
        if isinstance(message, NodeError) or (isinstance(message, SessionState) and message.state in _OVER):
            link.ended(message.session)
        if (guest := bridge.guests.get(message.session)) is not None:
            self._pass(message.session, guest, link.node, data)
        else:
            relay(bridge, link.node, message)

    def _pass(self, session: str, guest: Guest, node: str, data: bytes) -> None:
        """Take a message to the replica that owns the session."""
        self._bad = 0
        if guest.node == node and guest.owner:
            self._bridge.engine.bus.send(guest.owner, session, f"{FROM_NODE}{node}", bytes(data), term=self.epoch)

    def _heartbeat(self, link: SlotLink, message: Heartbeat) -> None:
        bridge = self._bridge
        self.heard = bridge.clock()
        link.load, link.stats = message.load, message.stats
        connected = message.connected or ()
        confirm(bridge, link.node, connected)
        owners: dict[str, list[str]] = {}
        for session in connected:
            if (guest := bridge.guests.get(session)) is not None and guest.node == link.node:
                owners.setdefault(guest.owner, []).append(session)
        for owner, sessions in owners.items():
            bridge.tell(owner, MediaIsUp(link.node, sessions))
