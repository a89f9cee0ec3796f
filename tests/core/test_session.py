"""What a session does over several steps: order, holding, bounds, the second node, dialects."""

import json
from typing import Any

import pytest

from core.routes import ANSWER, NODE_CANDIDATE, OFFER, START, C, K, N, P, client_text, session_in, written
from rtcbridge.core.events import (
    Closed,
    Declined,
    Dropped,
    Effect,
    Full,
    Granted,
    Lost,
    MediaUp,
    Pending,
    PoolEvent,
    SendNode,
    Timeout,
)
from rtcbridge.core.messages import Candidate, Dialect, NodeAnswer, NodeCandidate, Offer, raw
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import SessionSpec

SPEC = SessionSpec(max_candidates=3)


def candidate(name: str, dialect: Dialect = Dialect.FLAT) -> Candidate:
    return Candidate(json.dumps({"candidate": name}).encode(), dialect)


def node_candidate(name: str) -> NodeCandidate:
    return NodeCandidate("s", raw({"candidate": name}))


def to_node(effects: list[Effect]) -> list[tuple[str, Any]]:
    """What was sent to nodes: the node, and the SDP, the candidate or the reason."""
    sent = [(effect.node, json.loads(effect.data)) for effect in effects if isinstance(effect, SendNode)]
    return [
        (node, message.get("sdp") or message.get("reason") or message["candidate"]["candidate"])
        for node, message in sent
    ]


def to_client(effects: list[Effect]) -> list[dict[str, Any]]:
    """What the client is sent, in the words of the documented API."""
    return [json.loads(text) for effect in effects if (text := client_text(effect))]


# --- candidates and their offer ---


def test_candidates_before_the_offer_are_held_and_follow_it_in_order() -> None:
    session = Session("s", SPEC)
    session.receive(C, candidate("1"), 0)
    session.receive(C, START, 0)
    session.receive(C, candidate("2"), 0)
    session.receive(P, Granted("n1"), 0)
    session.receive(C, candidate("3"), 0)

    assert to_node(session.receive(C, OFFER, 0)) == [("n1", "o"), ("n1", "1"), ("n1", "2"), ("n1", "3")]


@pytest.mark.parametrize("state", [State.NEW, State.PENDING, State.FULL, State.RESERVED, State.HELD, State.CLAIMING])
def test_one_candidate_too_many_is_dropped_with_one_error(state: State) -> None:
    session = session_in(state, SPEC)
    told = [written(session.receive(C, candidate(str(n)), 0)) for n in range(6)]

    assert told == ["", "", "", "client:TOO_MANY_CANDIDATES", "", ""]


def test_those_within_the_bound_are_still_forwarded() -> None:
    session = session_in(State.RESERVED, SPEC)
    for n in range(6):
        session.receive(C, candidate(str(n)), 0)

    assert to_node(session.receive(C, OFFER, 0)) == [("n1", "o"), ("n1", "0"), ("n1", "1"), ("n1", "2")]


def test_a_new_offer_replaces_a_held_one_and_its_candidates() -> None:
    session = session_in(State.HELD, SPEC)
    for n in range(5):
        session.receive(C, candidate(f"old {n}"), 0)
    assert session.receive(C, Offer(b'"new"'), 0) == []
    told = [written(session.receive(C, candidate(f"new {n}"), 0)) for n in range(5)]

    assert told == ["", "", "", "client:TOO_MANY_CANDIDATES", ""]
    sent = to_node(session.receive(P, Granted("n1"), 0))
    assert sent == [("n1", "new"), ("n1", "new 0"), ("n1", "new 1"), ("n1", "new 2")]


def test_candidates_of_a_refused_offer_are_dropped_in_silence() -> None:
    session = session_in(State.FULL, SPEC)
    session.receive(C, candidate("before"), 0)
    assert written(session.receive(C, OFFER, 0)) == "client:POOL_FULL"
    assert [session.receive(C, candidate(str(n)), 0) for n in range(5)] == [[]] * 5
    session.receive(P, Granted("n1"), 0)
    assert session.receive(C, candidate("still of the refused offer"), 0) == []
    assert to_node(session.receive(C, Offer(b'"again"'), 0)) == [("n1", "again")]


def test_a_held_offer_that_becomes_full_is_refused_with_its_candidates() -> None:
    session = session_in(State.HELD, SPEC)
    session.receive(C, candidate("1"), 0)
    assert written(session.receive(P, Full(), 0)) == "client:full, client:POOL_FULL"
    assert session.receive(C, candidate("2"), 0) == []
    assert written(session.receive(P, Pending(), 0)) == "client:pending"  # its place was kept, no offer is held
    assert written(session.receive(C, Offer(b'"again"'), 0)) == "client:server_provisioning"
    assert to_node(session.receive(P, Granted("n1"), 0)) == [("n1", "again")]


def test_what_trails_a_lost_session_does_not_reach_the_next_node() -> None:
    session = Session.rejoined("s", SPEC, None)
    session.receive(C, candidate("of the old offer"), 0)
    session.receive(P, Granted("n2"), 0)
    assert to_node(session.receive(C, OFFER, 0)) == [("n2", "o")]


def test_server_provisioning_is_sent_once() -> None:
    session = Session("s", SPEC)
    session.receive(C, OFFER, 0)
    assert written(session.receive(P, Pending(), 0)) == "client:server_provisioning"
    assert session.receive(C, Offer(b'"new"'), 0) == []
    assert session.receive(P, Pending(), 0) == []


def test_with_a_node_at_hand_nothing_is_sent_before_the_answer() -> None:
    session = Session("s", SPEC)
    session.receive(C, OFFER, 0)
    assert written(session.receive(P, Granted("n1"), 0)) == "begin n1, n1:offer"


# --- the node's side ---


def test_a_candidate_of_the_node_does_not_overtake_the_answer() -> None:
    session = session_in(State.OFFERED, SPEC)
    for n in range(5):
        assert session.receive(N, node_candidate(str(n)), 0) == []
    told = to_client(session.receive(N, ANSWER, 0))
    assert [message["type"] for message in told] == ["answer"] + ["candidate"] * 3  # no more than the bound is kept
    assert [message["candidate"]["candidate"] for message in told[1:]] == ["0", "1", "2"]


def test_renegotiation_goes_to_the_same_node_and_keeps_the_order() -> None:
    session = session_in(State.LIVE, SPEC)
    sent = [session.receive(C, event, 0) for event in (Offer(b'"again"'), candidate("1"), candidate("2"))]
    assert [to_node(effects) for effects in sent] == [[("n1", "again")], [("n1", "1")], [("n1", "2")]]
    assert written(session.receive(N, ANSWER, 0)) == "client:answer"
    assert session.state is State.LIVE


def test_a_second_offer_before_the_answer_goes_to_the_same_node() -> None:
    session = session_in(State.OFFERED, SPEC)
    deadline = session.deadline
    session.receive(C, candidate("of the first"), 1)
    assert to_node(session.receive(C, Offer(b'"second"'), 1)) == [("n1", "second")]
    assert session.deadline == deadline  # it is the first offer that has to be answered in time
    session.receive(C, candidate("of the second"), 1)
    session.receive(K, Timeout(), 11)
    assert to_node(session.receive(P, Granted("n2"), 11)) == [("n2", "second"), ("n2", "of the second")]


# --- the second node ---


@pytest.mark.parametrize("why", [(K, Timeout()), (N, Declined())], ids=["no answer", "error"])
def test_the_offer_goes_once_to_another_node_with_all_its_candidates(why: tuple[Any, Any]) -> None:
    session = session_in(State.OFFERED, SPEC)
    session.receive(C, candidate("1"), 0)
    session.receive(N, NODE_CANDIDATE, 0)

    assert written(session.receive(*why, 10)) == "n1:session_end, reassign but n1"
    assert session.node == ""
    session.receive(C, candidate("2"), 10)
    assert to_node(session.receive(P, Granted("n2"), 11)) == [("n2", "o"), ("n2", "1"), ("n2", "2")]
    assert session.deadline == 21
    answered = to_client(session.receive(N, NodeAnswer("s", raw("a2")), 12))
    assert answered == [{"type": "answer", "sdp": "a2"}]  # and no candidate of the first node


def test_there_is_no_third_node() -> None:
    session = session_in(State.REOFFERED, SPEC)
    assert written(session.receive(K, Timeout(), 20)) == "client:NO_ANSWER, end (timeout)"


def test_candidates_beyond_the_bound_reach_the_first_node_and_are_not_kept() -> None:
    session = session_in(State.OFFERED, SPEC)
    first = [to_node(session.receive(C, candidate(str(n)), 0)) for n in range(5)]
    assert first == [[("n1", str(n))] for n in range(5)]
    session.receive(K, Timeout(), 10)
    assert to_node(session.receive(P, Granted("n2"), 10)) == [("n2", "o"), ("n2", "0"), ("n2", "1"), ("n2", "2")]


# --- statuses ---


def test_statuses_are_told_only_to_a_client_that_sent_session_start() -> None:
    session = Session("s", SPEC)
    session.receive(C, OFFER, 0)
    told = [written(session.receive(P, verdict, 0)) for verdict in (Pending(), Granted("n1"))]
    assert told == ["client:server_provisioning", "begin n1, n1:offer"]
    assert written(session.receive(C, START, 0)) == "client:waiting"


def test_a_held_offer_whose_client_then_sends_session_start() -> None:
    session = Session("s", SPEC)
    session.receive(C, OFFER, 0)
    session.receive(P, Pending(), 0)
    assert written(session.receive(C, START, 0)) == "stay, client:pending"
    assert written(session.receive(P, Full(), 0)) == "client:full, client:POOL_FULL"
    assert session.state is State.FULL


def test_the_status_is_sent_again_on_a_change_only() -> None:
    session = session_in(State.PENDING, SPEC)
    verdicts: list[PoolEvent] = [Pending(), Full(), Full(), Pending(), Granted("n1")]
    told = [written(session.receive(P, verdict, 0)) for verdict in verdicts]
    assert told == ["", "client:full", "", "client:pending", "client:waiting"]


def test_a_reservation_is_renewed_in_silence() -> None:
    session = session_in(State.RESERVED, SPEC)
    assert written(session.receive(K, Timeout(), 30)) == "yield"
    assert session.deadline == float("inf")
    assert session.receive(P, Granted("n1"), 30) == []
    assert (session.state, session.deadline) == (State.RESERVED, 60)


def test_a_reservation_that_is_lost_is_told() -> None:
    session = session_in(State.RESERVED, SPEC)
    session.receive(K, Timeout(), 30)
    assert written(session.receive(P, Full(), 30)) == "client:full"


def test_session_start_between_yield_and_verdict_is_answered_once_with_the_truth() -> None:
    session = session_in(State.RESERVED, SPEC)
    session.receive(K, Timeout(), 30)
    assert session.receive(C, START, 30) == []
    assert written(session.receive(P, Granted("n1"), 30)) == "client:waiting"


def test_an_offer_between_yield_and_verdict_waits_for_it() -> None:
    session = session_in(State.RESERVED, SPEC)
    session.receive(K, Timeout(), 30)
    assert session.receive(C, OFFER, 30) == []
    assert written(session.receive(P, Pending(), 30)) == "client:pending, client:server_provisioning"


# --- the end ---


def test_a_close_frame_ends_live_media_and_a_drop_does_not() -> None:
    assert written(session_in(State.LIVE).receive(C, Closed(), 0)) == "end (client left)"
    session = session_in(State.LIVE)
    assert session.receive(C, Dropped(), 100) == []
    assert (session.state, session.deadline) == (State.DETACHED, 160)


def test_heartbeats_keep_a_detached_session() -> None:
    session = session_in(State.DETACHED)
    session.receive(N, MediaUp(), 50)
    assert session.deadline == 110


def test_a_session_taken_up_from_the_ledger_waits_for_its_node() -> None:
    session = Session.adopted("s", "n1", SPEC, 5)
    assert (session.state, session.node, session.deadline) == (State.DETACHED, "n1", 65)
    session.receive(N, MediaUp(), 10)
    assert session.deadline == 70
    assert written(session.receive(P, Lost(), 11)) == "end (node lost)"  # there is no client to rejoin


def test_the_longest_session() -> None:
    session = session_in(State.RESERVED, SessionSpec(max_session=100))
    session.receive(C, OFFER, 20)
    assert session.expires == 120
    session.receive(N, ANSWER, 21)
    session.receive(N, MediaUp(), 22)
    assert session.deadline == 120
    session.receive(C, Dropped(), 50)
    assert session.deadline == 110


def test_the_second_node_gets_the_whole_length() -> None:
    session = session_in(State.OFFERED, SessionSpec(max_session=100))
    session.receive(K, Timeout(), 10)
    assert session.deadline == float("inf")
    session.receive(P, Granted("n2"), 40)
    assert session.expires == 140


# --- dialects and the envelope ---


def test_the_first_such_message_sets_the_dialect() -> None:
    session = session_in(State.NEW)
    session.receive(C, candidate("1", Dialect.PAYLOAD), 0)
    session.receive(C, OFFER, 0)
    session.receive(P, Granted("n1"), 0)
    told = to_client(session.receive(N, ANSWER, 0)) + to_client(session.receive(N, node_candidate("x"), 0))
    assert told == [
        {"type": "answer", "payload": {"type": "answer", "sdp": "a"}},
        {"type": "ice_candidate", "payload": {"candidate": "x"}},
    ]


def test_the_dialect_outlives_a_lost_session() -> None:
    session = Session.rejoined("s", SPEC, Dialect.PAYLOAD)
    assert session.dialect is Dialect.PAYLOAD
    session.receive(P, Granted("n1"), 0)
    session.receive(C, OFFER, 0)
    assert session.dialect is Dialect.PAYLOAD


def test_offers_are_marked_so_that_the_node_is_told_ice_servers() -> None:
    session = session_in(State.LIVE)
    effects = session.receive(C, OFFER, 0) + session.receive(C, Candidate(b"null"), 0)
    assert [each.is_offer for each in effects if isinstance(each, SendNode)] == [True, False]


def test_only_an_answered_session_with_a_client_relays_by_itself() -> None:
    assert {state for state in State if session_in(state).relaying} == {State.ANSWERED, State.LIVE}
