"""A session as plain data, so that another process can go on with it."""

from msgspec import Struct

from rtcbridge.core.messages import Dialect, Status
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import SessionSpec

_AS_IT_IS = (
    "id", "state", "node", "dialect", "_offer", "_candidates", "_from_node", "_dropping", "_started", "_status",
    "_told", "_provisioning",
)  # fmt: skip
_TIMES = ("expires", "_state_deadline", "_away_until")


class CarriedSession(Struct, frozen=True, kw_only=True):
    """All of a session but its spec, by the names that `Session` has for it. Times are seconds from now."""

    id: str
    state: State
    node: str
    dialect: Dialect | None
    offer: bytes
    candidates: list[bytes]
    from_node: list[bytes]
    dropping: bool
    started: bool
    status: Status | None
    told: Status | None
    provisioning: bool
    expires: float
    state_deadline: float
    away_until: float


def carry(session: Session, now: float) -> CarriedSession:
    """Take down a session; `now` by the clock of its deadlines."""
    fields = {name.lstrip("_"): getattr(session, name) for name in _AS_IT_IS}
    fields |= {name.lstrip("_"): getattr(session, name) - now for name in _TIMES}
    return CarriedSession(**fields)


def set_down(carried: CarriedSession, spec: SessionSpec, now: float) -> Session:
    """Make the session anew, by another clock."""
    session = Session(carried.id, spec)
    for name in _AS_IT_IS:
        setattr(session, name, getattr(carried, name.lstrip("_")))
    for name in _TIMES:
        setattr(session, name, now + getattr(carried, name.lstrip("_")))
    return session
