"""A session that goes on in another process is the same."""

import msgspec
import pytest

from rtcbridge.core.carried import CarriedSession, carry, set_down
from rtcbridge.core.events import Away, Back, Granted, SendNode, Source
from rtcbridge.core.messages import Candidate, Dialect, Offer, SessionStart
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import SessionSpec

SPEC = SessionSpec(claim_timeout=10, answer_timeout=5, connect_timeout=5, resume_grace=60, max_session=100)


def moved(session: Session, now: float, then: float) -> Session:
    """The session in a process whose clock says `then`."""
    data = msgspec.msgpack.encode(carry(session, now))
    return set_down(msgspec.msgpack.decode(data, type=CarriedSession), SPEC, then)


def test_nothing_of_a_session_is_left_behind() -> None:
    names = {name.lstrip("_") for name in Session.__slots__} - {"spec"}
    assert names == set(CarriedSession.__struct_fields__)


def test_deadlines_are_as_far_away_as_before() -> None:
    session = Session("s1", SPEC)
    session.receive(Source.CLIENT, SessionStart(), 1000.0)
    session.receive(Source.POOL, Granted("n1"), 1001.0)
    assert session.deadline == 1011.0
    other = moved(session, 1003.0, 7.0)
    assert (other.state, other.node, other.deadline) == (State.RESERVED, "n1", 15.0)


@pytest.mark.parametrize("dialect", Dialect)
def test_what_it_holds_goes_out_from_there(dialect: Dialect) -> None:
    session = Session("s1", SPEC)
    session.receive(Source.CLIENT, Offer(b'"o"', dialect), 0.0)
    session.receive(Source.CLIENT, Candidate(b'{"candidate":"c"}', dialect), 0.0)
    session.receive(Source.CLIENT, Away(), 0.0)
    other = moved(session, 0.0, 500.0)
    other.receive(Source.CLIENT, Back(), 500.0)
    effects = other.receive(Source.POOL, Granted("n1"), 500.0)
    assert [effect.data for effect in effects if isinstance(effect, SendNode)] == [
        b'{"type":"offer","session":"s1","sdp":"o"}',
        b'{"type":"candidate","session":"s1","candidate":{"candidate":"c"}}',
    ]
    assert (other.dialect, other.expires) == (dialect, 600.0)
