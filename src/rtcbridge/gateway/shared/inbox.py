"""What other replicas send: messages of sessions for nodes and clients here, and what they have to say themselves."""

from typing import TYPE_CHECKING

import msgspec
import structlog

from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, Error, ProtocolError
from rtcbridge.core.messages import ToNodeUpdate
from rtcbridge.gateway.nodes import confirm, relay
from rtcbridge.gateway.shared.wire import (
    BACK,
    CONTROL,
    FROM_NODE,
    TO_NODE,
    Act,
    Ask,
    Control,
    CutNode,
    Done,
    DrainNode,
    EndSession,
    Forward,
    Guest,
    Look,
    MediaIsUp,
    NotMine,
    NoUpdates,
    OfSession,
    Owned,
    SessionsHere,
    TellSessions,
    Verdict,
    decode_control,
)
from rtcbridge.ports_engine import Packet

if TYPE_CHECKING:
    from rtcbridge.gateway.shared.bridge import SharedBridge

log = structlog.get_logger(__name__)

_UPDATE = b'{"type":"update"'
_SESSION_END = b'{"type":"session_end"'


class Inbox:
    """Sorts it.

    Args:
        bridge: This replica.
    """

    def __init__(self, bridge: "SharedBridge") -> None:
        self._bridge = bridge

    def received(self, origin: str, packet: Packet) -> None:
        """Take a message from another replica."""
        bridge = self._bridge
        kind, rest = packet.direction[0], packet.direction[1:]
        if kind == CONTROL:
            self.control(origin, decode_control(packet.data))
        elif kind == TO_NODE:
            self._to_node(origin, rest.partition("|")[0], packet)
        elif (to := bridge.gone.get(packet.session)) is not None:
            bridge.tell(to, Forward(packet.session, packet.direction, packet.term, packet.data))
        elif kind == FROM_NODE:
            self._from_node(packet.session, rest, packet.data)
        elif kind == BACK and (entry := bridge.sessions.get(packet.session)) is not None:
            route = entry.route
            if route is not None and route.node == rest.partition("|")[0]:
                route.came_back(packet.term, packet.data)

    def joined(self, node: str) -> None:
        """A node is registered here, or could not be: pass on what has come for it meanwhile."""
        for owner, packet in self._bridge.joining.pop(node, ()):
            self._to_node(owner, node, packet)

    def _to_node(self, owner: str, node: str, packet: Packet) -> None:
        bridge = self._bridge
        session, data = packet.session, packet.data
        link = bridge.links.get(node)
        if link is None and (joining := bridge.joining.get(node)) is not None:
            joining.append((owner, packet))
            return
        if link is None:
            bridge.engine.bus.send(owner, session, f"{BACK}{node}|{bridge.me}", data, term=packet.term)
            return
        bridge.guests[session] = Guest(owner, node)
        if not link.updates and data.startswith(_UPDATE):
            bridge.tell(owner, NoUpdates(session, msgspec.json.decode(data, type=ToNodeUpdate).id))
            return
        link.send(data)
        if data.startswith(_SESSION_END):
            del bridge.guests[session]
            bridge.engine.bus.forget(session)

    def _from_node(self, session: str, node: str, data: bytes) -> None:
        bridge = self._bridge
        entry = bridge.sessions.get(session)
        if entry is None or entry.session.node != node:
            return
        if (candidate := messages.node_candidate_text(data)) is not None and entry.link is not None:
            if entry.client is not None:
                entry.client.send_between(entry.prefix, candidate[1], b"}")
            return
        try:
            message = messages.decode_node(data)
        except ProtocolError as error:
            log.warning("bad message of a node", node=node, error=str(error))
        else:
            relay(bridge, node, message)  # type: ignore[arg-type]  # heartbeats do not come this way

    def control(self, origin: str, message: Control) -> None:
        """Take what a replica says that belongs to no session's messages."""
        bridge = self._bridge
        match message:
            case Look():
                bridge.look(message)
            case Ask():
                if (verdict := bridge.judge(message)) is not None:
                    bridge.tell(origin, verdict)
            case Verdict():
                bridge.leaders.answered(message)
            case DrainNode() | CutNode():
                self._on_node(message)
            case MediaIsUp(node=node, sessions=sessions):
                self._confirm(origin, node, sessions)
            case TellSessions() | SessionsHere() | Act() | EndSession() | Done():
                bridge.at_desk(origin, message)
            case NoUpdates() | Forward() | Owned() | NotMine():
                self._of_session(origin, message)
            case _:
                bridge.of_visit(origin, message)

    def _confirm(self, origin: str, node: str, sessions: list[str]) -> None:
        bridge = self._bridge
        confirm(bridge, node, sessions)
        for session in sessions:
            if session not in bridge.sessions and session not in bridge.gone:
                bridge.tell(origin, NotMine(session, node))

    def _of_session(self, origin: str, message: OfSession) -> None:
        bridge = self._bridge
        match message:
            case NoUpdates(session=session, id=id):
                entry = bridge.sessions.get(session)
                if entry is None and (to := bridge.gone.get(session)) is not None:
                    bridge.tell(to, message)
                elif entry is not None and entry.client is not None:
                    entry.client.refuse(Error.UPDATE_UNSUPPORTED, id=id)
            case Forward():
                self.received(origin, Packet(message.session, message.direction, message.term, 0, message.data))
            case NotMine(session=session, node=node):
                if (guest := bridge.guests.get(session)) is not None and guest.owner == origin:
                    bridge.end_guest(session, node, "unknown")
            case Owned(session=session, node=node):
                if session not in bridge.sessions and node in bridge.links:
                    bridge.guests[session] = Guest(origin, node)

    def _on_node(self, message: DrainNode | CutNode) -> None:
        bridge = self._bridge
        link = bridge.links.get(message.node)
        if link is None or link.epoch != message.epoch:
            return
        if isinstance(message, CutNode):
            bridge.cut(link, CloseCode(message.code), message.reason)
        else:
            link.send(messages.DRAIN)
