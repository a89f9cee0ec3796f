"""One client's claim on one slot: every step it may take, as a table, and what each asks to be done."""

from collections.abc import Callable, Mapping
from enum import Enum
from math import inf
from typing import Any, TypeAlias

from rtcbridge.core import messages
from rtcbridge.core.errors import Error, ProtocolError
from rtcbridge.core.events import (
    Abandoned,
    Acquire,
    Away,
    Back,
    Begin,
    Cancelled,
    Closed,
    Declined,
    Dropped,
    Effect,
    End,
    Event,
    Expired,
    Failed,
    Full,
    Granted,
    Inform,
    Lost,
    MediaDown,
    MediaUp,
    Pending,
    PoolEvent,
    Reassign,
    Refuse,
    Resume,
    SendClient,
    SendNode,
    Source,
    Stay,
    Suspend,
    Timeout,
    Yield,
)  # fmt: skip
from rtcbridge.core.messages import Candidate, Dialect, NodeAnswer, NodeCandidate, Offer, SessionStart, Status
from rtcbridge.core.spec import SessionSpec


class State(Enum):
    """Where a session stands."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and these are looked up for each message

    NEW = "new"  # nothing asked for yet
    ASKED = "asked"  # session_start is with the pool
    PENDING = "pending"  # in line, a node is on its way
    FULL = "full"  # in line, no node can be had yet
    RESERVED = "reserved"  # holds a slot, has not sent its offer
    CLAIMING = "claiming"  # an offer without session_start is held until a node is ready
    HELD = "held"  # an offer behind session_start is held until a node is ready
    OFFERED = "offered"  # the offer is with the node
    RETRYING = "retrying"  # the first node did not answer; the offer is held for another
    REOFFERED = "reoffered"  # the offer is with the second node
    ANSWERED = "answered"  # the client has the answer, media is not up yet
    LIVE = "live"  # media is up
    DETACHED = "detached"  # media is up, the client's socket is gone
    AWAY = "away"  # in line or with a reservation; the client's socket is gone, and it may come back
    SUSPENDED = "suspended"  # away for so long that it gets no slot; it keeps its place in line
    ENDED = "ended"


# --- the table ---

_C, _N, _P, _K, _O = Source.CLIENT, Source.NODE, Source.POOL, Source.CLOCK, Source.OPERATOR
_S = State
Table: TypeAlias = Mapping[tuple[State, Source, type], State]


def _same(states: str, source: Source, *events: type) -> dict[tuple[State, Source, type], State]:
    return {(State[name], source, event): State[name] for name in states.split() for event in events}


def _to(target: State, states: str, source: Source, *events: type) -> dict[tuple[State, Source, type], State]:
    return {(State[name], source, event): target for name in states.split() for event in events}


_UNSERVED = "NEW ASKED PENDING FULL RESERVED CLAIMING HELD RETRYING"
_SERVED = "OFFERED REOFFERED ANSWERED LIVE"
_SETTING_UP = "NEW CLAIMING RETRYING OFFERED REOFFERED ANSWERED"  # goes on while its client is away for a while

TRANSITIONS: Table = {
    # the client asks
    (_S.NEW, _C, SessionStart): _S.ASKED,
    (_S.CLAIMING, _C, SessionStart): _S.HELD,
    **_same(f"ASKED PENDING FULL RESERVED HELD RETRYING {_SERVED}", _C, SessionStart),
    (_S.NEW, _C, Offer): _S.CLAIMING,
    **_to(_S.HELD, "ASKED PENDING", _C, Offer),
    (_S.RESERVED, _C, Offer): _S.OFFERED,
    **_same(f"FULL CLAIMING HELD RETRYING {_SERVED}", _C, Offer),
    **_same(f"{_UNSERVED} {_SERVED} ENDED", _C, Candidate),
    # the client goes
    **_to(_S.ENDED, f"{_UNSERVED} {_SERVED}", _C, Closed, Dropped),
    (_S.LIVE, _C, Dropped): _S.DETACHED,
    # the client may come back
    **_to(_S.AWAY, "ASKED PENDING FULL RESERVED HELD", _C, Away),
    **_same(_SETTING_UP, _C, Away, Back),
    (_S.LIVE, _C, Away): _S.DETACHED,
    **_to(_S.ASKED, "AWAY SUSPENDED", _C, Back),
    (_S.DETACHED, _C, Back): _S.LIVE,
    **_to(_S.ENDED, "AWAY SUSPENDED", _C, Closed),
    # the pool answers
    **_to(_S.RESERVED, "ASKED PENDING FULL", _P, Granted),
    **_to(_S.PENDING, "ASKED PENDING FULL", _P, Pending),
    **_to(_S.FULL, "ASKED PENDING FULL HELD", _P, Full),
    **_to(_S.FULL, "ASKED PENDING FULL", _P, Failed),
    **_to(_S.OFFERED, "CLAIMING HELD", _P, Granted),
    (_S.RETRYING, _P, Granted): _S.REOFFERED,
    **_same("CLAIMING HELD RETRYING", _P, Pending),
    **_to(_S.ENDED, "CLAIMING RETRYING", _P, Full),
    **_to(_S.ENDED, "CLAIMING HELD RETRYING", _P, Failed),
    **_to(_S.ENDED, f"ASKED HELD RESERVED {_SERVED} DETACHED", _P, Lost),
    **_same("AWAY", _P, Granted, Pending, Full, Failed, Lost),
    # the node answers
    **_to(_S.ANSWERED, "OFFERED REOFFERED", _N, NodeAnswer),
    **_same("ANSWERED LIVE DETACHED", _N, NodeAnswer),
    **_same(f"{_SERVED} DETACHED", _N, NodeCandidate),
    (_S.ANSWERED, _N, MediaUp): _S.LIVE,
    **_same("LIVE DETACHED", _N, MediaUp),
    (_S.OFFERED, _N, Declined): _S.RETRYING,
    (_S.OFFERED, _N, MediaDown): _S.RETRYING,
    **_to(_S.ENDED, "REOFFERED ANSWERED LIVE DETACHED", _N, Declined, MediaDown),
    # time passes
    (_S.RESERVED, _K, Timeout): _S.ASKED,
    (_S.OFFERED, _K, Timeout): _S.RETRYING,
    **_to(_S.ENDED, "REOFFERED ANSWERED DETACHED SUSPENDED", _K, Timeout),
    (_S.AWAY, _K, Timeout): _S.SUSPENDED,
    **_to(_S.ENDED, f"{_SERVED} DETACHED", _K, Expired),
    **_to(_S.ENDED, _SETTING_UP, _K, Abandoned),
    # the operator ends it
    **_to(_S.ENDED, f"{_UNSERVED} {_SERVED} DETACHED AWAY SUSPENDED", _O, Cancelled),
}

_BEFORE_OFFER = frozenset(State[name] for name in _UNSERVED.split())
_UNANSWERED = frozenset((_S.OFFERED, _S.REOFFERED))
_ALONE = frozenset((_S.DETACHED, _S.AWAY, _S.SUSPENDED))  # nobody is there to be told
_RELAYING = frozenset((_S.ANSWERED, _S.LIVE))
_HEARD = _RELAYING | {_S.DETACHED}  # what the node says is for the client, which may come back for it
DEADLINES: Mapping[State, str] = {  # the setting of SessionSpec that bounds a state
    _S.RESERVED: "claim_timeout",
    _S.OFFERED: "answer_timeout",
    _S.REOFFERED: "answer_timeout",
    _S.ANSWERED: "connect_timeout",
    _S.DETACHED: "resume_grace",
    _S.AWAY: "claim_timeout",
    _S.SUSPENDED: "resume_grace",  # from the moment at which the socket ended
}
_END_OF_STATE = {_S.REOFFERED: Error.NO_ANSWER, _S.ANSWERED: Error.NO_MEDIA}


class Session:
    """One session. It reads no clock and sends nothing: `receive` takes an event and returns the effects."""

    __slots__ = (
        "_away_until", "_candidates", "_dropping", "_from_node", "_offer", "_provisioning", "_spec", "_started",
        "_state_deadline", "_status", "_told", "dialect", "expires", "id", "node", "state",
    )  # fmt: skip

    def __init__(self, id: str, spec: SessionSpec, dialect: Dialect | None = None) -> None:
        self.id = id
        self.state = State.NEW
        self.node = ""
        self.dialect = dialect
        self.expires = inf
        self._state_deadline = inf
        self._away_until = inf
        self._spec = spec
        self._offer = b""
        self._candidates: list[bytes] = []  # of the client, for the node
        self._from_node: list[bytes] = []  # of a node that has not answered yet
        self._dropping = False  # candidates of a refused offer have nowhere to go
        self._started = False
        self._status: Status | None = None  # the pool's last word; None while it is asked
        self._told: Status | None = None
        self._provisioning = False

    @classmethod
    def adopted(cls, id: str, node: str, spec: SessionSpec, now: float) -> "Session":
        """A session that was live before this bridge began: its client is gone, its media may be up."""
        session = cls(id, spec)
        session.state, session.node, session._state_deadline = State.DETACHED, node, now + spec.resume_grace
        return session

    @classmethod
    def rejoined(cls, id: str, spec: SessionSpec, dialect: Dialect | None) -> "Session":
        """The session of a client whose node was lost: with the pool, as if it had sent session_start."""
        session = cls(id, spec, dialect)
        session.state, session._started = State.ASKED, True
        session._dropping = True  # what still comes belongs to the offer of the session that was lost
        return session

    @property
    def deadline(self) -> float:
        """When the clock has something to say: see `overdue`."""
        due = self._state_deadline if self._state_deadline < self.expires else self.expires
        return due if due < self._away_until else self._away_until

    def overdue(self, now: float) -> Timeout | Expired | Abandoned:
        """Return what the clock says at the deadline."""
        if self.expires <= now:
            return Expired()
        return Timeout() if self._state_deadline <= now else Abandoned()

    @property
    def relaying(self) -> bool:
        """Candidates of the client may go straight to the node."""
        return self.state in _RELAYING

    def receive(self, source: Source, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do, in order.

        Raises:
            ProtocolError: the event is not allowed now; nothing has changed.
        """
        before = self.state
        kind = type(event)
        try:
            state = TRANSITIONS[before, source, kind]
        except KeyError:
            raise ProtocolError(f"{kind.__name__} is not allowed now ({before.value}).") from None
        if state is not before:
            self.state = state
            setting = DEADLINES.get(state)
            self._state_deadline = now + getattr(self._spec, setting) if setting else inf
        return _HANDLERS[kind](self, event, before, now)

    # --- the client ---

    def _start(self, event: SessionStart, before: State, now: float) -> list[Effect]:
        self._started, self._told = True, None
        if before is State.NEW:
            return [Acquire(patient=True)]
        status = self._tell(self._status)
        return [Stay(), *status] if before is State.CLAIMING else status

    def _take_offer(self, offer: Offer, before: State, now: float) -> list[Effect]:
        self.dialect = self.dialect or offer.dialect
        if self.state is State.FULL:
            return self._refused(Error.POOL_FULL)
        if (before in _BEFORE_OFFER and self._offer) or self._dropping:
            self._candidates = []  # they belong to the offer that this one replaces
        self._offer, self._dropping = offer.sdp, False
        if self.state in _BEFORE_OFFER:
            if before is State.NEW:
                return [Acquire(patient=False)]
            return self._provision() if before is State.PENDING else []
        if before is State.RESERVED:
            return self._forward(now)
        if self.state in _UNANSWERED:
            self._candidates = []
        return [self._send_offer()]

    def _take_candidate(self, candidate: Candidate, before: State, now: float) -> list[Effect]:
        self.dialect = self.dialect or candidate.dialect
        if self.state in _RELAYING:
            return [self._send_candidate(candidate.candidate)]
        if self.state is State.ENDED or self._dropping:
            return []
        kept = len(self._candidates)
        if kept < self._spec.max_candidates:
            self._candidates.append(candidate.candidate)
        if self.state in _UNANSWERED:
            return [self._send_candidate(candidate.candidate)]
        if kept == self._spec.max_candidates:
            self._candidates.append(b"")  # marks that the client has been told
            return [Refuse(Error.TOO_MANY_CANDIDATES)]
        return []

    # --- coming back ---

    def _is_there(self, event: MediaUp | Away | Back, before: State, now: float) -> list[Effect]:
        """Media is up, or the client has gone for a while, or is back."""
        match event:
            case MediaUp() if self.state is State.DETACHED:
                self._state_deadline = now + self._spec.resume_grace
            case MediaUp() if self._away_until < inf:  # set up while its client was away
                return self.receive(Source.CLIENT, Away(), now)
            case Away() if self.state is State.DETACHED:
                self._away_until = inf  # for as long as the node reports media
            case Away():
                self._away_until = now + self._spec.resume_grace
                if self.state is State.AWAY:
                    self._state_deadline = min(self._state_deadline, self._away_until)
            case Back():
                self._away_until = inf
                if self.state is State.ASKED:
                    return self._come_back(now)
        return []

    def _come_back(self, now: float) -> list[Effect]:
        """The pool says anew where the session stands, and an offer that is held waits for that."""
        self._status = self._told = None
        offer, self._offer, self.node = self._offer, b"", ""
        held = self.receive(Source.CLIENT, Offer(offer, self.dialect or Dialect.FLAT), now) if offer else []
        return [Resume(), *held]

    # --- the pool ---

    def _from_pool(self, event: PoolEvent, before: State, now: float) -> list[Effect]:
        if before is State.AWAY:  # the client is told when it is back
            self.node = event.node if isinstance(event, Granted) else ""
            return [Acquire(patient=True, front=True)] if isinstance(event, Lost) else []
        match event:
            case Granted(node=node):
                self.node = node
                status = self._tell(Status.WAITING)
                return status if self.state is State.RESERVED else [*status, *self._forward(now)]
            case Pending():
                self.node = ""
                status = self._tell(Status.PENDING)
                return [*status, *self._provision()] if self._offer else status
            case Lost():
                attached = before is not State.DETACHED
                return self._ended("node lost", Error.NODE_LOST if attached else None, rejoin=attached)
            case Failed(error=error) if self.state is State.ENDED:
                return self._ended(error.code, error)
            case _ if self.state is State.ENDED:
                return self._ended("full", Error.NO_ANSWER if before is State.RETRYING else Error.POOL_FULL)
        self.node = ""
        status = self._tell(Status.FULL)
        return [*status, *self._refused(Error.POOL_FULL)] if before is State.HELD else status

    def _tell(self, status: Status | None) -> list[Effect]:
        self._status = status
        if not self._started or status is None or self._told is status:
            return []
        self._told = status
        return [Inform(status)]

    def _provision(self) -> list[Effect]:
        if self._provisioning:
            return []
        self._provisioning = True
        return [SendClient(messages.SERVER_PROVISIONING)]

    def _refused(self, error: Error) -> list[Effect]:
        self._offer, self._candidates = b"", []
        self._dropping, self._provisioning = True, False
        return [Refuse(error)]

    # --- the node ---

    def _forward(self, now: float) -> list[Effect]:
        self._provisioning = False
        if self._spec.max_session:
            self.expires = now + self._spec.max_session
        del self._candidates[self._spec.max_candidates :]
        candidates = [self._send_candidate(candidate) for candidate in self._candidates]
        return [Begin(self.node), self._send_offer(), *candidates]

    def _send_offer(self) -> SendNode:
        return SendNode(self.node, messages.node_offer(self.id, self._offer), is_offer=True)

    def _send_candidate(self, candidate: bytes) -> SendNode:
        return SendNode(self.node, b"%b%b}" % (messages.node_candidate_prefix(self.id), candidate))

    def _from_peer(self, message: NodeAnswer | NodeCandidate, before: State, now: float) -> list[Effect]:
        dialect = self.dialect or Dialect.FLAT
        if isinstance(message, NodeCandidate):
            if self.state in _HEARD:
                return [SendClient(messages.client_candidate(message.candidate, dialect))]
            if len(self._from_node) < self._spec.max_candidates:
                self._from_node.append(bytes(message.candidate))
            return []
        effects: list[Effect] = [SendClient(messages.client_answer(message.sdp, dialect))]
        effects += [SendClient(messages.client_candidate(each, dialect)) for each in self._from_node]
        self._from_node, self._candidates, self._offer = [], [], b""
        return effects

    def _give_up(self, event: Event, before: State, now: float) -> list[Effect]:
        """A socket, a peer connection or a deadline ended: go on elsewhere, wait, or end."""
        return self._finish(event, before) if self.state is State.ENDED else self._go_on()

    def _go_on(self) -> list[Effect]:
        if self.state is State.RETRYING:
            self._from_node, self.expires, self._status, node, self.node = [], inf, None, self.node, ""
            return [SendNode(node, self._session_end("no answer")), Reassign(exclude=node)]
        if self.state is State.ASKED:
            self._status, self.node = None, ""
            return [Yield()]
        if self.state is State.SUSPENDED:
            self._state_deadline = self._away_until
            return [Suspend()]
        return []

    def _finish(self, event: Event, before: State) -> list[Effect]:
        match event:
            case Closed() | Dropped():
                return self._ended("client left", None)
            case Abandoned():
                return self._ended("client stayed away", None)
            case Expired():
                return self._ended("max_session", None if before is State.DETACHED else Error.SESSION_TOO_LONG)
            case Timeout():
                return self._ended("timeout", _END_OF_STATE.get(before))
            case Declined():
                return self._ended("node refused", self._refusal(before))
            case Cancelled(reason=reason):
                return self._ended(reason, None if before in _ALONE else Error.OPERATOR)
            case MediaDown(reason=reason):
                return self._ended(reason, Error.NO_ANSWER if before is State.REOFFERED else None)
        raise AssertionError(event)  # pragma: no cover — the table has no such cell

    @staticmethod
    def _refusal(before: State) -> Error | None:
        if before is State.DETACHED:
            return None
        return Error.NO_ANSWER if before is State.REOFFERED else Error.NODE_REFUSED

    def _session_end(self, reason: str) -> bytes:
        return messages.encode(messages.SessionEnd(self.id, reason))

    def _ended(self, reason: str, error: Error | None, rejoin: bool = False) -> list[Effect]:
        effects: list[Effect] = []
        if error is not None:
            effects.append(Refuse(error))
        effects.append(End(reason, rejoin=rejoin))
        self._candidates, self._from_node, self._offer = [], [], b""
        self.expires = self._away_until = inf
        return effects


_HANDLERS: Mapping[type, Callable[[Session, Any, State, float], list[Effect]]] = {
    SessionStart: Session._start,
    Offer: Session._take_offer,
    Candidate: Session._take_candidate,
    **dict.fromkeys((NodeAnswer, NodeCandidate), Session._from_peer),
    **dict.fromkeys((Granted, Pending, Full, Failed, Lost), Session._from_pool),
    **dict.fromkeys((MediaUp, Away, Back), Session._is_there),
    **dict.fromkeys((MediaDown, Declined, Cancelled, Closed, Dropped, Timeout, Expired, Abandoned), Session._give_up),
}
