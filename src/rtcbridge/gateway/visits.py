"""What stays of a client of the extension while its sockets come and go."""

import hmac
from collections.abc import Callable, Iterator
from math import inf

from rtcbridge.core import extension, messages
from rtcbridge.core.errors import CloseCode, Error
from rtcbridge.core.events import Away, Back, Closed, Dropped, Source
from rtcbridge.core.extension import (
    Ack,
    ExtendedAuthSuccess,
    ExtendedError,
    ExtendedNodeStatus,
    IceRefresh,
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
from rtcbridge.ports import IceGrant

_TIME = 12  # digits of a session's id that say when it began
_ICE_SERVERS = b'{"type":"ice_servers",'
_RENEW_AFTER = 2 / 3  # of the time for which the credentials of a TURN server are good
_RENEW_EVERY = 1.0  # seconds, at the least


def family(id: str) -> str:
    """What the ids of all sessions of one visit have in common, and those of no other: the random part."""
    return id[_TIME:]


def began(id: str) -> int:
    """When a session began, by its id: Unix milliseconds."""
    return int(id[:_TIME], 16)


class Visit:
    """One client of the extension. To its session it is the client, whether it has a socket now or not.

    What another process needs to go on with it is here and in the session of `entry`: `id`, `project`, the pool's name,
    `mailbox`, `anew`, `last`, and all of the session.

    Attributes:
        id: Names it to its client; the id of its first session, too.
        socket: The present one; None while the client is away.
        mailbox: What was sent and not acknowledged, and how much was taken.
        until: When a client that is away is not expected any more, if it has no session.
        anew: The counters have begun anew, since the process that had them has died, and the client may not know.
        last: The time in the id of its last session, in milliseconds; 0 before the first.
        ice: The STUN and TURN servers that its client was told last.
    """

    __slots__ = (
        "_bridge", "_renewal", "_told", "_visits", "anew", "entry", "ice", "id", "last", "looking", "mailbox", "pool",
        "project", "socket", "timer", "until",
    )  # fmt: skip

    def __init__(self, visits: "Visits", bridge: Bridge, project: str, pool: Pool, id: str = "") -> None:
        sessions = bridge.config.sessions
        self._visits = visits
        self._bridge = bridge
        self.id = id or new_session_id(bridge.wall())
        self.project = project
        self.pool = pool
        self.socket: Socket | None = None
        self.mailbox = Mailbox(sessions.replay_messages, sessions.replay_bytes)
        self.entry: Entry | None = None
        self.until = 0.0
        self.timer: Timer | None = None  # of its end, while it is away without a session
        self.looking: Timer | None = None  # at its place in line
        self.anew = False
        self.last = 0
        self.ice = IceGrant()
        self._renewal: Timer | None = None  # of `ice`
        self._told: tuple[Status, Told] | None = None

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
        """What its client resumes with: the id finds the visit, the rest shows that a bridge of this store made it."""
        return self._bridge.auth.visit_token(self.id, self.project, self.pool.spec.name)

    def new_id(self, now: float) -> str:
        """Return the id of its next session: its own for the first, and all are of its `family`."""
        if not self.last:
            self.last = began(self.id)
            return self.id
        self.last = max(int(now * 1000), self.last + 1)
        return f"{self.last:0{_TIME}x}{family(self.id)}"

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
        self.stop_looking()
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

    def stop_looking(self) -> None:
        """Look at its place in line no more."""
        self._told = None
        if self.looking is not None:
            self.looking.cancel()
            self.looking = None

    def lend(self, ice: IceGrant) -> None:
        """The client has been told these servers: renew their credentials before they expire."""
        self.ice = ice
        self.stop_lending()
        if ice.expires < inf:
            left = (ice.expires - self._bridge.wall()) * _RENEW_AFTER
            self._renewal = self._bridge.wheel.call_later(max(_RENEW_EVERY, left), self._renew)

    def _renew(self) -> None:
        """Tell the client new credentials; one that is away learns them from its next `auth_success`."""
        self._renewal = None
        if self.socket is None:
            return
        before, ice = self.ice, self._bridge.ice_grant(self.id)
        if ice.servers != before.servers:
            self.send(messages.encode(IceRefresh(list(ice.servers))))
        self.lend(ice)

    def _ice_servers(self) -> bytes:
        """What stands for an older message of this kind that is sent again: its credentials may have expired."""
        return messages.encode(IceRefresh(list(self._bridge.ice_grant(self.id).servers)))

    def stop_lending(self) -> None:
        """Renew nothing more."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

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
        self.stop_looking()
        self.send(messages.encode(SessionEnded(reason)))
        if self.socket is None:
            self._visits.expect(self)

    # --- what it says ---

    def took(self) -> None:
        """Count a message of the client, and say so now and then."""
        self.anew = False
        if self.mailbox.take() and self.socket is not None:
            self.socket.send(messages.encode(Ack(self.mailbox.taken)))

    def take_up(self, socket: Socket, received: int) -> None:
        """Go on with another socket, whose client has taken so many messages. Raises ReplayError."""
        missed = self.mailbox.missed(0 if self.anew else received)
        older, self.socket = self.socket, socket
        if older is not None:
            older.close(CloseCode.POLICY, "resumed on another socket")
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        socket.send(messages.encode(Resumed(self.id, self.mailbox.taken, self.anew)))
        for message in missed:
            socket.send(self._ice_servers() if message.startswith(_ICE_SERVERS) else message)
        if older is None and (entry := self.session) is not None:
            self._bridge.deliver(entry, Source.CLIENT, Back())


class Visits:
    """All clients of the extension of one bridge, by their ids.

    Args:
        bridge: Where their sessions are.

    Attributes:
        fetch: Has a visit brought here that another bridge may have, given its id, project and pool, and then calls
            what it is given; None where there is no other.
    """

    fetch: Callable[[str, str, Pool, Callable[[], object]], object] | None = None

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

    def __iter__(self) -> Iterator[Visit]:
        return iter(self._visits.values())

    def begin(self, socket: Socket, project: str, pool: Pool) -> Visit:
        """A client has shown its credential on this socket."""
        visit = Visit(self, self._bridge, project, pool)
        visit.socket = socket
        self._visits[visit.id] = visit
        ice, policy = self._bridge.ice_grant(visit.id), self._bridge.config.ice.policy
        socket.send(messages.encode(ExtendedAuthSuccess(visit.id, visit.token, list(ice.servers), policy)))
        visit.lend(ice)
        return visit

    def named(self, token: str, project: str, pool: Pool) -> str | None:
        """Return the id of the visit that a token takes up, be it here or not; None if it is no token of this project.

        Why a token is safe: behind the id, which others may learn, it is a digest of 192 bits that only who has the
        store's secret can make. It is compared in constant time, is bound to the project and the pool for which it was
        made, so that it is of no use without a credential of that project, and nothing answers to it after the visit's
        end. Nothing tells a token that never was from one of another project.
        """
        id = token.partition(".")[0]
        made = self._bridge.auth.visit_token(id, project, pool.spec.name)
        same = hmac.compare_digest(made.encode(errors="replace"), token.encode(errors="replace"))
        return id if same else None

    def resume(self, id: str | None, project: str, received: int, socket: Socket) -> Visit | Error:
        """Let a socket of this project take over the visit that its token names. Raises ReplayError."""
        visit = self._visits.get(id or "")
        if visit is None or visit.socket is socket or visit.project != project:
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
        visit.stop_lending()
        if goodbye or crowded or visit.entry is None:
            self._visits.pop(visit.id, None)
            if entry is not None:
                entry.client = None
                bridge.client_gone(entry, Closed() if goodbye else Dropped())
        else:
            self.set_away(visit)
            if entry is not None:
                bridge.client_gone(entry, Away())

    def set_away(self, visit: Visit, left: float | None = None) -> None:
        """A visit has no socket, but may come back: within so many seconds, if it has no session."""
        self._visits[visit.id] = visit
        self._away.add(visit)
        visit.socket = None
        visit.until = self._bridge.clock() + (self._bridge.config.sessions.resume_grace if left is None else left)
        if visit.session is None:
            self.expect(visit)

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
        """Forget a visit: it has nothing yet, and its socket takes up another one; or another bridge has it now."""
        self._visits.pop(visit.id, None)
        self._away.discard(visit)
        if visit.timer is not None:
            visit.timer.cancel()
            visit.timer = None
        visit.stop_looking()
        visit.stop_lending()

    def say_reconnect(self) -> None:
        """Tell all clients that their sockets are about to be closed."""
        for visit in self._visits.values():
            if visit.socket is not None:
                visit.socket.send(extension.RECONNECT)
