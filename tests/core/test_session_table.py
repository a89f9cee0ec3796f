"""Every cell of the session's table: what is allowed goes where the table says and asks for what it should."""

import re

import pytest

from core.routes import EVENTS, SPEC, session_in, snapshot, written
from rtcbridge.core.errors import ProtocolError
from rtcbridge.core.events import Source
from rtcbridge.core.session import TRANSITIONS, State

# state, source, event -> state after it: what is asked to be done
CELLS = """
NEW client SessionStart -> ASKED: acquire patiently
NEW client Offer -> CLAIMING: acquire
NEW client Candidate -> NEW:
NEW client Closed -> ENDED: end (client left)
NEW client Dropped -> ENDED: end (client left)
NEW operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
NEW client Away -> NEW:
NEW client Back -> NEW:
NEW clock Abandoned -> ENDED: end (client stayed away)
ASKED client SessionStart -> ASKED:
ASKED client Offer -> HELD:
ASKED client Candidate -> ASKED:
ASKED client Closed -> ENDED: end (client left)
ASKED client Dropped -> ENDED: end (client left)
ASKED client Away -> AWAY:
ASKED pool Granted -> RESERVED: client:waiting
ASKED pool Pending -> PENDING: client:pending
ASKED pool Full -> FULL: client:full
ASKED pool Failed -> FULL: client:full
ASKED pool Lost -> ENDED: client:NODE_LOST, end (node lost) and rejoin
ASKED operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
PENDING client SessionStart -> PENDING: client:pending
PENDING client Offer -> HELD: client:server_provisioning
PENDING client Candidate -> PENDING:
PENDING client Closed -> ENDED: end (client left)
PENDING client Dropped -> ENDED: end (client left)
PENDING client Away -> AWAY:
PENDING pool Granted -> RESERVED: client:waiting
PENDING pool Pending -> PENDING:
PENDING pool Full -> FULL: client:full
PENDING pool Failed -> FULL: client:full
PENDING operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
FULL client SessionStart -> FULL: client:full
FULL client Offer -> FULL: client:POOL_FULL
FULL client Candidate -> FULL:
FULL client Closed -> ENDED: end (client left)
FULL client Dropped -> ENDED: end (client left)
FULL client Away -> AWAY:
FULL pool Granted -> RESERVED: client:waiting
FULL pool Pending -> PENDING: client:pending
FULL pool Full -> FULL:
FULL pool Failed -> FULL:
FULL operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
RESERVED client SessionStart -> RESERVED: client:waiting
RESERVED client Offer -> OFFERED: begin n1, n1:offer
RESERVED client Candidate -> RESERVED:
RESERVED client Closed -> ENDED: end (client left)
RESERVED client Dropped -> ENDED: end (client left)
RESERVED client Away -> AWAY:
RESERVED pool Lost -> ENDED: client:NODE_LOST, end (node lost) and rejoin
RESERVED clock Timeout -> ASKED: yield
RESERVED operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
CLAIMING client SessionStart -> HELD: stay
CLAIMING client Offer -> CLAIMING:
CLAIMING client Candidate -> CLAIMING:
CLAIMING client Closed -> ENDED: end (client left)
CLAIMING client Dropped -> ENDED: end (client left)
CLAIMING client Away -> CLAIMING:
CLAIMING client Back -> CLAIMING:
CLAIMING clock Abandoned -> ENDED: end (client stayed away)
CLAIMING pool Granted -> OFFERED: begin n2, n2:offer
CLAIMING pool Pending -> CLAIMING: client:server_provisioning
CLAIMING pool Full -> ENDED: client:POOL_FULL, end (full)
CLAIMING pool Failed -> ENDED: client:START_FAILED, end (start_failed)
CLAIMING operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
HELD client SessionStart -> HELD: client:pending
HELD client Offer -> HELD:
HELD client Candidate -> HELD:
HELD client Closed -> ENDED: end (client left)
HELD client Dropped -> ENDED: end (client left)
HELD client Away -> AWAY:
HELD pool Granted -> OFFERED: client:waiting, begin n2, n2:offer
HELD pool Pending -> HELD:
HELD pool Full -> FULL: client:full, client:POOL_FULL
HELD pool Failed -> ENDED: client:START_FAILED, end (start_failed)
HELD pool Lost -> ENDED: client:NODE_LOST, end (node lost) and rejoin
HELD operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
OFFERED client SessionStart -> OFFERED: client:waiting
OFFERED client Offer -> OFFERED: n1:offer
OFFERED client Candidate -> OFFERED: n1:candidate
OFFERED client Closed -> ENDED: end (client left)
OFFERED client Dropped -> ENDED: end (client left)
OFFERED client Away -> OFFERED:
OFFERED client Back -> OFFERED:
OFFERED clock Abandoned -> ENDED: end (client stayed away)
OFFERED node NodeAnswer -> ANSWERED: client:answer
OFFERED node NodeCandidate -> OFFERED:
OFFERED node MediaDown -> RETRYING: n1:session_end, reassign but n1
OFFERED node Declined -> RETRYING: n1:session_end, reassign but n1
OFFERED pool Lost -> ENDED: client:NODE_LOST, end (node lost) and rejoin
OFFERED clock Timeout -> RETRYING: n1:session_end, reassign but n1
OFFERED clock Expired -> ENDED: client:SESSION_TOO_LONG, end (max_session)
OFFERED operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
RETRYING client SessionStart -> RETRYING:
RETRYING client Offer -> RETRYING:
RETRYING client Candidate -> RETRYING:
RETRYING client Closed -> ENDED: end (client left)
RETRYING client Dropped -> ENDED: end (client left)
RETRYING client Away -> RETRYING:
RETRYING client Back -> RETRYING:
RETRYING clock Abandoned -> ENDED: end (client stayed away)
RETRYING pool Granted -> REOFFERED: begin n2, n2:offer
RETRYING pool Pending -> RETRYING: client:pending, client:server_provisioning
RETRYING pool Full -> ENDED: client:NO_ANSWER, end (full)
RETRYING pool Failed -> ENDED: client:START_FAILED, end (start_failed)
RETRYING operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
REOFFERED client SessionStart -> REOFFERED: client:waiting
REOFFERED client Offer -> REOFFERED: n2:offer
REOFFERED client Candidate -> REOFFERED: n2:candidate
REOFFERED client Closed -> ENDED: end (client left)
REOFFERED client Dropped -> ENDED: end (client left)
REOFFERED client Away -> REOFFERED:
REOFFERED client Back -> REOFFERED:
REOFFERED clock Abandoned -> ENDED: end (client stayed away)
REOFFERED node NodeAnswer -> ANSWERED: client:answer
REOFFERED node NodeCandidate -> REOFFERED:
REOFFERED node MediaDown -> ENDED: client:NO_ANSWER, end (media failed)
REOFFERED node Declined -> ENDED: client:NO_ANSWER, end (node refused)
REOFFERED pool Lost -> ENDED: client:NODE_LOST, end (node lost) and rejoin
REOFFERED clock Timeout -> ENDED: client:NO_ANSWER, end (timeout)
REOFFERED clock Expired -> ENDED: client:SESSION_TOO_LONG, end (max_session)
REOFFERED operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
ANSWERED client SessionStart -> ANSWERED: client:waiting
ANSWERED client Offer -> ANSWERED: n1:offer
ANSWERED client Candidate -> ANSWERED: n1:candidate
ANSWERED client Closed -> ENDED: end (client left)
ANSWERED client Dropped -> ENDED: end (client left)
ANSWERED client Away -> ANSWERED:
ANSWERED client Back -> ANSWERED:
ANSWERED clock Abandoned -> ENDED: end (client stayed away)
ANSWERED node NodeAnswer -> ANSWERED: client:answer
ANSWERED node NodeCandidate -> ANSWERED: client:candidate
ANSWERED node MediaUp -> LIVE:
ANSWERED node MediaDown -> ENDED: end (media failed)
ANSWERED node Declined -> ENDED: client:NODE_REFUSED, end (node refused)
ANSWERED pool Lost -> ENDED: client:NODE_LOST, end (node lost) and rejoin
ANSWERED clock Timeout -> ENDED: client:NO_MEDIA, end (timeout)
ANSWERED clock Expired -> ENDED: client:SESSION_TOO_LONG, end (max_session)
ANSWERED operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
LIVE client SessionStart -> LIVE: client:waiting
LIVE client Offer -> LIVE: n1:offer
LIVE client Candidate -> LIVE: n1:candidate
LIVE client Closed -> ENDED: end (client left)
LIVE client Dropped -> DETACHED:
LIVE client Away -> DETACHED:
LIVE node NodeAnswer -> LIVE: client:answer
LIVE node NodeCandidate -> LIVE: client:candidate
LIVE node MediaUp -> LIVE:
LIVE node MediaDown -> ENDED: end (media failed)
LIVE node Declined -> ENDED: client:NODE_REFUSED, end (node refused)
LIVE pool Lost -> ENDED: client:NODE_LOST, end (node lost) and rejoin
LIVE clock Expired -> ENDED: client:SESSION_TOO_LONG, end (max_session)
LIVE operator Cancelled -> ENDED: client:OPERATOR, end (by hand)
DETACHED node NodeAnswer -> DETACHED: client:answer
DETACHED node NodeCandidate -> DETACHED: client:candidate
DETACHED node MediaUp -> DETACHED:
DETACHED node MediaDown -> ENDED: end (media failed)
DETACHED node Declined -> ENDED: end (node refused)
DETACHED pool Lost -> ENDED: end (node lost)
DETACHED clock Timeout -> ENDED: end (timeout)
DETACHED clock Expired -> ENDED: end (max_session)
DETACHED operator Cancelled -> ENDED: end (by hand)
DETACHED client Back -> LIVE:
AWAY client Back -> ASKED: resume
AWAY client Closed -> ENDED: end (client left)
AWAY pool Granted -> AWAY:
AWAY pool Pending -> AWAY:
AWAY pool Full -> AWAY:
AWAY pool Failed -> AWAY:
AWAY pool Lost -> AWAY: acquire patiently at the front
AWAY clock Timeout -> SUSPENDED: suspend
AWAY operator Cancelled -> ENDED: end (by hand)
SUSPENDED client Back -> ASKED: resume
SUSPENDED client Closed -> ENDED: end (client left)
SUSPENDED clock Timeout -> ENDED: end (timeout)
SUSPENDED operator Cancelled -> ENDED: end (by hand)
ENDED client Candidate -> ENDED:
"""

_LINE = re.compile(r"(\w+) (\w+) (\w+) -> (\w+):(.*)")
EXPECTED = {
    (State[state], Source(source), event): (State[after], effects.strip())
    for state, source, event, after, effects in _LINE.findall(CELLS)
}
ALLOWED = [(state, source, event) for state, source, event in EXPECTED]
NAMED = {type(event).__name__: event for event in EVENTS}


def test_the_table_has_these_cells_and_no_others() -> None:
    assert len(CELLS.split("\n")) - 2 == len(EXPECTED)
    assert {(state, source, event.__name__) for state, source, event in TRANSITIONS} == set(EXPECTED)


@pytest.mark.parametrize(("state", "source", "event"), ALLOWED, ids=lambda part: getattr(part, "name", part))
def test_an_allowed_event_does_what_the_table_says(state: State, source: Source, event: str) -> None:
    session = session_in(state)

    effects = session.receive(source, NAMED[event], 1.0)

    assert (session.state, written(effects)) == EXPECTED[state, source, event]


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_any_other_event_raises_and_changes_nothing(state: State) -> None:
    refused = 0
    for source in Source:
        for event in EVENTS:
            if (state, source, type(event).__name__) in EXPECTED:
                continue
            session = session_in(state)
            before = snapshot(session)
            with pytest.raises(ProtocolError, match=rf"is not allowed now \({state.value}\)"):
                session.receive(source, event, 1.0)
            assert snapshot(session) == before
            refused += 1
    assert refused == len(Source) * len(EVENTS) - sum(key[0] is state for key in EXPECTED)


def test_every_kind_of_event_is_tried() -> None:
    named = {event.__name__ for _, _, event in TRANSITIONS}
    assert named == set(NAMED)


# What a state's own clock does, and at which second of it (protocol part 2).
DEADLINES = {
    State.RESERVED: SPEC.claim_timeout,
    State.OFFERED: SPEC.answer_timeout,
    State.REOFFERED: SPEC.answer_timeout,
    State.ANSWERED: SPEC.connect_timeout,
    State.DETACHED: SPEC.resume_grace,
    State.AWAY: SPEC.claim_timeout,
    State.SUSPENDED: SPEC.resume_grace,
}


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_deadlines(state: State) -> None:
    assert session_in(state).deadline == DEADLINES.get(state, float("inf"))


def test_every_state_with_a_deadline_says_what_happens_at_it() -> None:
    timeouts = {state for state, source, event in EXPECTED if (source, event) == (Source.CLOCK, "Timeout")}
    assert timeouts == set(DEADLINES)


def test_a_state_ends_by_itself_or_waits_for_somebody_named() -> None:
    """The states without a deadline are those that a client or the pool ends."""
    left: dict[State, set[Source]] = {state: set() for state in State}
    for (state, source, _), (after, _) in EXPECTED.items():
        if after is not state:
            left[state].add(source)
    for state in set(State) - set(DEADLINES) - {State.ENDED}:
        assert Source.CLIENT in left[state], state
