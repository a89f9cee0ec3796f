"""What stays of a client of the extension while its sockets come and go."""

import hmac
import secrets

from rtcbridge.core import extension, messages
from rtcbridge.core.errors import CloseCode, Error
from rtcbridge.core.events import Away, Back, Closed, Dropped, Source
from rtcbridge.core.extension import (
    Ack,
    ExtendedAuthSuccess,
    ExtendedError,
    ExtendedNodeStatus,
    Resumed,
    SessionEnded,
    Updated,
)
from rtcbridge.core.messages import NodeUpdated, Status, UpdateId
from rtcbridge.core.pool import Pool
from rtcbridge.core.replay import GapError, Mailbox
from rtcbridge.core.standing import Told, pause, whole
from rtcbridge.gateway.bridge import Bridge, Entry, new_session_id
from rtcbridge.gateway.links import Socket
from rtcbridge.gateway.timers import Timer

_SECRET_BYTES = 24


class Visit:
    """One client of the extension. To its session it is the client, whether it has a socket now or not.

    What another process needs to go on with it is here and in the session of `entry`: `id`, `secret`, `project`,
    the pool's name, `mailbox`, and of the session its state, node and dialect.

    Attributes:
        id: Names it to its client; the id of its first session, too.
        secret: Whoever has it may take the visit over.
        socket: The present one; None while the client is away.
        mailbox: What was sent and not acknowledged, and how much was taken.
        until: When a client that is away is not expected any more, if it has no session.
    """

    __slots__ = (
        "_bridge", "_fresh", "_told", "_visits", "entry", "id", "looking", "mailbox", "pool", "project", "secret",
        "socket", "timer", "until",
    )  # fmt: skip

    def __init__(self, visits: "Visits", bridge: Bridge, project: str, pool: Pool, socket: Socket) -> None:
        sessions = bridge.config.sessions
        self._visits = visits
        self._bridge = bridge
        self.id = new_session_id(bridge.wall())
        self.secret = secrets.token_urlsafe(_SECRET_BYTES)
        self.project = project
        self.pool = pool
        self.socket: Socket | None = socket
        self.mailbox = Mailbox(sessions.replay_messages, sessions.replay_bytes)
        self.entry: Entry | None = None
        self.until = 0.0
        self.timer: Timer | None = None  # of its end, while it is away without a session
        self.looking: Timer | None = None  # at its place in line
        self._told: tuple[Status, Told] | None = None
        self._fresh = True  # the id has not been given to a session yet

    @property
    def away(self) -> bool:
        """Whether it has no socket now."""
        return self.socket is None

    @property
    def session(self) -> Entry | None:
        """Its session, if it has not ended."""
        entry = self.entry
        return entry if entry is not None and entry.session.id in self._bridge.sessions else None

    @property
    def token(self) -> str:
        """What its client resumes with: the id finds the visit, the secret is compared with the one kept here."""
        return f"{self.id}.{self.secret}"

    def new_id(self, now: float) -> str:
        """Return the id of its next session: its own for the first."""
        fresh, self._fresh = self._fresh, False
        return self.id if fresh else new_session_id(now)

    # --- what is said to it ---

    def send(self, *parts: bytes) -> None:
        """Send one message, the parts joined: now, and again if the client resumes without it."""
        message = b"".join(parts)
        self.mailbox.put(message)
        if self.socket is not None:
            self.socket.send(message)

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        """`send` of three parts."""
        self.send(head, body, tail)

    def inform(self, status: Status) -> None:
        """Say where its session stands: in line with the place and the time, which are looked at again now and then."""
        self._stop_looking()
        if status is Status.WAITING:
            self.send(messages.encode(ExtendedNodeStatus(status)))
        else:
            self._tell(status)

    def _tell(self, status: Status) -> None:
        if (entry := self.session) is None:
            return
        now = self._bridge.clock()
        position, eta = entry.pool.position(entry.session.id), entry.pool.eta(entry.session.id, now)
        if position is None:  # it has left the line since
            self.send(messages.encode(ExtendedNodeStatus(status)))
            return
        self.send(messages.encode(ExtendedNodeStatus(status, position, whole(eta))))
        self._told = status, Told(position, eta, now)
        self.looking = self._bridge.wheel.call_later(pause(position), self._look)

    def _look(self) -> None:
        """See whether what it was told of its place in line is still true enough."""
        self.looking = None
        entry = self.session
        if entry is None or self._told is None or self.socket is None:  # one that comes back is told anew
            return
        now = self._bridge.clock()
        status, told = self._told
        position, eta = entry.pool.position(entry.session.id), entry.pool.eta(entry.session.id, now)
        if position is None:
            return
        if told.is_stale(position, eta, now):
            self._tell(status)
        else:
            self.looking = self._bridge.wheel.call_later(pause(position), self._look)

    def _stop_looking(self) -> None:
        self._told = None
        if self.looking is not None:
            self.looking.cancel()
            self.looking = None

    def refuse(self, error: Error, text: str = "", id: UpdateId | None = None) -> None:
        """Say that something cannot be, in other words than the error's own if there are any."""
        after = None
        if error is Error.POOL_FULL and (entry := self.session) is not None:
            after = whole(entry.pool.eta(entry.session.id, self._bridge.clock()))
        self.send(messages.encode(ExtendedError(text or error.text, error.code, error.retryable, after, id)))

    def updated(self, message: NodeUpdated) -> None:
        """Pass on what the node says to an update."""
        if message.error:
            self.refuse(Error.UPDATE_REFUSED, message.error, message.id)
        else:
            self.send(messages.encode(Updated(message.values, message.id)))

    def over(self, reason: str) -> None:
        """Say that its session has ended."""
        self._stop_looking()
        self.send(messages.encode(SessionEnded(reason)))
        if self.socket is None:
            self._visits.expect(self)

    # --- what it says ---

    def took(self) -> None:
        """Count a message of the client, and say so now and then."""
        if self.mailbox.take() and self.socket is not None:
            self.socket.send(messages.encode(Ack(self.mailbox.taken)))

    def take_up(self, socket: Socket, received: int) -> None:
        """Go on with another socket, whose client has taken so many messages. Raises ReplayError."""
        missed = self.mailbox.missed(received)
        older, self.socket = self.socket, socket
        if older is not None:
            older.close(CloseCode.POLICY, "resumed on another socket")
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        socket.send(messages.encode(Resumed(self.id, self.mailbox.taken)))
        for message in missed:
            socket.send(message)
        if older is None and (entry := self.session) is not None:
            self._bridge.deliver(entry, Source.CLIENT, Back())


class Visits:
    """All clients of the extension of one bridge, by their ids.

    Args:
        bridge: Where their sessions are.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._visits: dict[str, Visit] = {}
        self._away: set[Visit] = set()

    def __len__(self) -> int:
        return len(self._visits)

    @property
    def away(self) -> int:
        """How many have no socket now, and may come back."""
        return len(self._away)

    def get(self, id: str) -> Visit | None:
        """Return the visit of this id."""
        return self._visits.get(id)

    def begin(self, socket: Socket, project: str, pool: Pool) -> Visit:
        """A client has shown its credential on this socket."""
        visit = Visit(self, self._bridge, project, pool, socket)
        self._visits[visit.id] = visit
        socket.send(messages.encode(ExtendedAuthSuccess(visit.id, visit.token)))
        return visit

    def resume(self, token: str, project: str, received: int, socket: Socket) -> Visit | Error:
        """Let a socket of this project take over the visit of a token. Raises ReplayError.

        Why a token is safe: 192 random bits that are kept nowhere but in the visit, compared in constant time, and of
        no use without a credential of the project for which it was made, nor after the visit's end. Nothing tells a
        token that never was from one of another project.
        """
        id, _, secret = token.partition(".")
        visit = self._visits.get(id)
        if (
            visit is None
            or visit.socket is socket
            or visit.project != project
            or not hmac.compare_digest(visit.secret.encode(), secret.encode(errors="replace"))
        ):
            return Error.RESUME_UNKNOWN
        try:
            visit.take_up(socket, received)
        except GapError:
            return Error.RESUME_GAP
        self._away.discard(visit)
        return visit

    def leave(self, visit: Visit, goodbye: bool) -> None:
        """The present socket of a visit has ended."""
        bridge = self._bridge
        visit.socket, entry = None, visit.session
        crowded = len(self._away) >= bridge.config.server.max_connections
        if goodbye or crowded or visit.entry is None:
            self._visits.pop(visit.id, None)
            if entry is not None:
                entry.client = None
                bridge.client_gone(entry, Closed() if goodbye else Dropped())
            return
        self._away.add(visit)
        visit.until = bridge.clock() + bridge.config.sessions.resume_grace
        if entry is None:
            self.expect(visit)
        else:
            bridge.client_gone(entry, Away())

    def expect(self, visit: Visit) -> None:
        """A visit is away without a session: forget it when its time is over."""
        if visit.id in self._visits and visit.timer is None:
            left = max(0.0, visit.until - self._bridge.clock())
            visit.timer = self._bridge.wheel.call_later(left, self._expire, visit)

    def _expire(self, visit: Visit) -> None:
        visit.timer = None
        self._away.discard(visit)
        self._visits.pop(visit.id, None)

    def drop(self, visit: Visit) -> None:
        """Forget a visit that has nothing yet, since its socket takes up another one."""
        self._visits.pop(visit.id, None)

    def say_reconnect(self) -> None:
        """Tell all clients that their sockets are about to be closed."""
        for visit in self._visits.values():
            if visit.socket is not None:
                visit.socket.send(extension.RECONNECT)
