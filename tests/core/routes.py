"""How to bring a session into each of its states, and how to write down what it asks to be done."""

import json
from typing import Any, TypeAlias

from rtcbridge.core.errors import Error
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
)
from rtcbridge.core.messages import (
    NODE_STATUS,
    Candidate,
    Dialect,
    NodeAnswer,
    NodeCandidate,
    Offer,
    SessionStart,
    client_error,
    raw,
)
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import SessionSpec

C, N, P, K = Source.CLIENT, Source.NODE, Source.POOL, Source.CLOCK
SPEC = SessionSpec()

START, OFFER, CANDIDATE = SessionStart(), Offer(b'"o"'), Candidate(b'{"candidate":"c"}')
ANSWER, NODE_CANDIDATE = NodeAnswer("s", raw("a")), NodeCandidate("s", raw({"candidate": "nc"}))

EVENTS: tuple[Event, ...] = (
    START,
    OFFER,
    CANDIDATE,
    Closed(),
    Dropped(),
    Away(),
    Back(),
    ANSWER,
    NODE_CANDIDATE,
    MediaUp(),
    MediaDown("media failed"),
    Declined(),
    Granted("n2"),
    Pending(),
    Full(),
    Failed(Error.START_FAILED),
    Lost(),
    Timeout(),
    Expired(),
    Abandoned(),
    Cancelled("by hand"),
)

Route: TypeAlias = list[tuple[Source, Event]]
_ASKED: Route = [(C, START)]
_RESERVED: Route = [*_ASKED, (P, Granted("n1"))]
_OFFERED: Route = [*_RESERVED, (C, OFFER)]
_RETRYING: Route = [*_OFFERED, (K, Timeout())]
_ANSWERED: Route = [*_OFFERED, (N, ANSWER)]
_LIVE: Route = [*_ANSWERED, (N, MediaUp())]
ROUTES: dict[State, Route] = {
    State.NEW: [],
    State.ASKED: _ASKED,
    State.PENDING: [*_ASKED, (P, Pending())],
    State.FULL: [*_ASKED, (P, Full())],
    State.RESERVED: _RESERVED,
    State.CLAIMING: [(C, OFFER)],
    State.HELD: [*_ASKED, (P, Pending()), (C, OFFER)],
    State.OFFERED: _OFFERED,
    State.RETRYING: _RETRYING,
    State.REOFFERED: [*_RETRYING, (P, Granted("n2"))],
    State.ANSWERED: _ANSWERED,
    State.LIVE: _LIVE,
    State.DETACHED: [*_LIVE, (C, Dropped())],
    State.AWAY: [*_ASKED, (C, Away())],
    State.SUSPENDED: [*_ASKED, (C, Away()), (K, Timeout())],
    State.ENDED: [(C, Closed())],
}


def session_in(state: State, spec: SessionSpec = SPEC, dialect: Dialect | None = None) -> Session:
    """A session that came into this state at time 0."""
    session = Session("s", spec, dialect)
    for source, event in ROUTES[state]:
        session.receive(source, event, 0.0)
    assert session.state is state
    return session


def snapshot(session: Session) -> dict[str, Any]:
    """All that a session knows."""
    values = {name: getattr(session, name) for name in Session.__slots__}
    return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}


def client_text(effect: Effect) -> bytes:
    """The message that a client of the documented API is sent; empty for an effect of another kind."""
    match effect:
        case SendClient(data=data):
            return data
        case Inform(status=status):
            return NODE_STATUS[status]
        case Refuse(error=error):
            return client_error(error.text)
    return b""


def written(effects: list[Effect]) -> str:
    """Effects in words, with a comma between."""
    return ", ".join(map(_written, effects))


def _written(effect: Effect) -> str:
    match effect:
        case SendClient(data=data):
            return "client:" + _kind(json.loads(data))
        case Inform(status=status):
            return f"client:{status.value}"
        case Refuse(error=error):
            return f"client:{error.name}"
        case SendNode(node=node, data=data):
            message = json.loads(data)
            assert message["session"] == "s"
            return f"{node}:" + _kind(message)
        case Acquire(patient=patient, front=front):
            return "acquire" + (" patiently" if patient else "") + (" at the front" if front else "")
        case Stay() | Yield() | Suspend() | Resume():
            return type(effect).__name__.lower()
        case Reassign(exclude=node):
            return f"reassign but {node}"
        case Begin(node=node):
            return f"begin {node}"
        case End(reason=reason, rejoin=rejoin):
            return f"end ({reason})" + (" and rejoin" if rejoin else "")
    raise AssertionError(effect)


def _kind(message: dict[str, Any]) -> str:
    return str(message["type"])
