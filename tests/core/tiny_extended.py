"""The bridge in the small with clients of the extension: what stays of them while their sockets come and go."""

from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any

from core.tiny import Peer, TinyBridge
from rtcbridge.core import extension, messages
from rtcbridge.core.errors import Error, ProtocolError
from rtcbridge.core.events import Away, Back, Closed, Event, Source
from rtcbridge.core.extension import (
    Ack,
    ClientEnd,
    ExtendedAuthSuccess,
    ExtendedError,
    ExtendedNodeStatus,
    SessionResume,
    Update,
)
from rtcbridge.core.messages import Credential, NodeUpdated, Status, UpdateId
from rtcbridge.core.pool import Pool
from rtcbridge.core.replay import GapError, Mailbox, ReplayError
from rtcbridge.core.session import Session
from rtcbridge.core.standing import Told, pause, whole

REPLAY = (256, 131_072)


@dataclass(eq=False)
class Visit:
    """One client of the extension, over all its sockets."""

    bridge: "ExtendedBridge"
    id: str
    project: str
    peer: Peer | None
    mailbox: Mailbox
    session: Session | None = None
    until: float = inf  # it is away without a session, and is forgotten then
    grace: float = inf  # when it is not awaited any more, once it is away
    told: tuple[Status, Told] | None = None
    look_at: float = inf
    fresh: bool = True

    @property
    def away(self) -> bool:
        return self.peer is None

    @property
    def place(self) -> tuple[Session, Pool] | None:
        if self.session is None or self.session.id not in self.bridge.sessions:
            return None
        return self.bridge.sessions[self.session.id][:2]

    def hear(self, data: bytes) -> None:
        self.mailbox.put(data)
        if self.peer is not None:
            self.peer.got.append(data)

    def inform(self, status: Status) -> None:
        self.told, self.look_at = None, inf
        if status is Status.WAITING or self.place is None:
            self.hear(messages.encode(ExtendedNodeStatus(status)))
            return
        session, pool = self.place
        position, eta = pool.position(session.id), pool.eta(session.id, self.bridge.now)
        self.hear(messages.encode(ExtendedNodeStatus(status, position, whole(eta))))
        if position is not None:
            self.told = status, Told(position, eta, self.bridge.now)
            self.look_at = self.bridge.now + pause(position)

    def look(self) -> None:
        """See whether what it was told of its place in line is still true enough."""
        self.look_at = inf
        if self.told is None or self.place is None or self.peer is None:
            return
        status, told = self.told
        session, pool = self.place
        position, eta = pool.position(session.id), pool.eta(session.id, self.bridge.now)
        if position is not None and told.is_stale(position, eta, self.bridge.now):
            self.inform(status)
        elif position is not None:
            self.look_at = self.bridge.now + pause(position)

    def refuse(self, error: Error, text: str = "", id: UpdateId | None = None) -> None:
        after = None
        if error is Error.POOL_FULL and self.place is not None:
            session, pool = self.place
            after = whole(pool.eta(session.id, self.bridge.now))
        self.hear(messages.encode(ExtendedError(text or error.text, error.code, error.retryable, after, id)))

    def over(self, reason: str) -> None:
        self.told, self.look_at = None, inf
        self.hear(messages.encode(extension.SessionEnded(reason)))
        if self.peer is None:
            self.until = max(self.bridge.now, self.grace)

    def took(self) -> None:
        if self.mailbox.take() and self.peer is not None:
            self.peer.got.append(messages.encode(Ack(self.mailbox.taken)))


class ExtendedBridge(TinyBridge):
    """A `TinyBridge` to which clients of both kinds may connect."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.visits: dict[str, Visit] = {}  # by token
        self.visit_of: dict[Peer, Visit] = {}
        self.begun_on: set[Peer] = set()  # sockets that have had a message of a session

    def connect_extended(self) -> Peer:
        """Connect a client that offers the subprotocol."""
        peer = self.connect(is_node=False)
        peer.extended = True
        return peer

    def _first(self, peer: Peer, data: bytes) -> None:
        super()._first(peer, data)
        if peer.extended and peer.project is not None:
            id = self.new_id("s")
            visit = self.visits[f"token-{id}"] = self.visit_of[peer] = Visit(self, id, peer.key, peer, Mailbox(*REPLAY))
            peer.got[-1] = messages.encode(ExtendedAuthSuccess(visit.id, f"token-{id}"))

    def bad_input(self, peer: Peer, text: str) -> None:
        if peer.extended:
            self.visit_of[peer].refuse(Error.BAD_MESSAGE, text)
        else:
            super().bad_input(peer, text)

    def _from_client(self, peer: Peer, data: bytes) -> None:
        if not peer.extended:
            super()._from_client(peer, data)
            return
        visit = self.visit_of[peer]
        try:
            message = extension.decode(data)
        except ProtocolError:
            self._number(peer)
            raise
        match message:
            case Ack(received=received):
                self._follow_ack(visit, received)
            case SessionResume():
                self._resume(peer, visit, message)
            case _:
                self._number(peer)
                self._take(peer, visit, message)

    def _number(self, peer: Peer) -> None:
        self.begun_on.add(peer)
        self.visit_of[peer].took()

    @staticmethod
    def _follow_ack(visit: Visit, received: int) -> None:
        try:
            visit.mailbox.acknowledge(received)
        except ReplayError as error:
            raise ProtocolError(f"Bad message: {error}") from None

    def _take(self, peer: Peer, visit: Visit, message: Any) -> None:
        match message:
            case Update():
                self._update(visit, message)
            case ClientEnd():
                if visit.place is not None:
                    self.deliver(visit.place[0], Source.CLIENT, Closed())
            case Credential():
                raise ProtocolError("CREDENTIAL may only be the first message.")
            case _:
                self._to_session(visit, self.pools[peer.project or ""], message)

    def new_session_id(self, client: Any) -> str:
        if isinstance(client, Visit) and client.fresh:
            client.fresh = False
            return client.id
        return super().new_session_id(client)

    def _update(self, visit: Visit, update: Update) -> None:
        if visit.place is None or not visit.place[0].relaying:
            visit.refuse(Error.NO_NODE, id=update.id)
            return
        session = visit.place[0]
        if self.nodes[session.node].labels.get(messages.UPDATES) is not True:
            visit.refuse(Error.UPDATE_UNSUPPORTED, id=update.id)
            return
        self._to_node(session.node, messages.encode(messages.ToNodeUpdate(session.id, update.params, update.id)))

    def updated(self, client: Any, message: NodeUpdated) -> None:
        if isinstance(client, Visit) and message.error:
            client.refuse(Error.UPDATE_REFUSED, message.error, message.id)
        elif isinstance(client, Visit):
            client.hear(messages.encode(extension.Updated(message.values, message.id)))

    # --- coming and going ---

    def _resume(self, peer: Peer, fresh: Visit, asked: SessionResume) -> None:
        if peer in self.begun_on:
            raise ProtocolError("session_resume may only be the first message behind CREDENTIAL.")
        visit = self.visits.get(asked.resume)
        if visit is None or visit is fresh or visit.project != peer.key:
            fresh.refuse(Error.RESUME_UNKNOWN)
            return
        try:
            missed = visit.mailbox.missed(asked.received)
        except GapError:
            fresh.refuse(Error.RESUME_GAP)
            return
        except ReplayError as error:
            raise ProtocolError(f"Bad message: {error}") from None
        self._take_up(peer, fresh, visit, missed)

    def _take_up(self, peer: Peer, fresh: Visit, visit: Visit, missed: list[bytes]) -> None:
        self.visits = {token: each for token, each in self.visits.items() if each is not fresh}
        older, visit.peer, visit.until = visit.peer, peer, inf
        if older is not None:
            older.closed = (1008, "resumed on another socket")
        self.visit_of[peer] = visit
        self.begun_on.add(peer)
        peer.got += [messages.encode(extension.Resumed(visit.id, visit.mailbox.taken)), *missed]
        if older is None and visit.place is not None:
            self.deliver(visit.place[0], Source.CLIENT, Back())

    def _ended(self, peer: Peer, event: Event) -> None:
        visit = self.visit_of.get(peer)
        if visit is None:
            super()._ended(peer, event)
            return
        if visit.peer is not peer:
            return
        visit.peer = None
        if isinstance(event, Closed) or visit.session is None:
            self.visits = {token: each for token, each in self.visits.items() if each is not visit}
            if visit.place is not None:
                session, pool = visit.place
                self.sessions[session.id] = session, pool, None
                self.deliver(session, Source.CLIENT, event)
            return
        visit.grace = self.now + self.spec.resume_grace
        if visit.place is not None:
            self.deliver(visit.place[0], Source.CLIENT, Away())
        else:
            visit.until = visit.grace

    # --- time ---

    def next_due(self) -> float:
        visits = self.visits.values()
        return min(super().next_due(), min((min(each.until, each.look_at) for each in visits), default=inf))

    def step(self, until: float) -> bool:
        if not super().step(until):
            return False
        for token, visit in list(self.visits.items()):
            if visit.until <= self.now:
                del self.visits[token]
            elif visit.look_at <= self.now:
                with suppress(ProtocolError):
                    visit.look()
        return True
