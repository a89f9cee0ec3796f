"""Who gets which slot, where the others stand, and what is created, started and stopped."""

from typing import Any

import pytest

from rtcbridge.core.errors import Error, TransitionError
from rtcbridge.core.events import Failed, Full, Granted, Lost, Pending
from rtcbridge.core.node import Node, NodeEvent, NodeState
from rtcbridge.core.pool import Create, Pool, Step
from rtcbridge.core.spec import PoolSpec

SILENCE = 15.0
S, E = NodeState, NodeEvent


def pool(*nodes: Node, **spec: Any) -> Pool:
    made = Pool(PoolSpec(name="p", **spec))
    for node in nodes:
        made.add(node)
    return made


def node(
    id: str,
    state: NodeState = S.READY,
    *,
    slots: int = 1,
    used: int = 0,
    linked: bool = True,
    managed: bool = True,
    since: float = 0.0,
) -> Node:
    made = Node(id, PoolSpec(name="p"), state, since, managed=managed)
    made.capacity, made.linked = slots, linked and state in (S.READY, S.DRAINING)
    made.sessions.update(f"{id}/{n}" for n in range(used))
    return made


def join(where: Pool, *sessions: str, **kind: Any) -> None:
    for session in sessions:
        where.join(session, **{"patient": True, **kind})


def told(where: Pool, now: float = 0.0) -> dict[str, Any]:
    """What settling says, until it says nothing more."""
    verdicts: list[tuple[str, Any]] = []
    while more := where.settle(now):
        verdicts += more
    assert len(dict(verdicts)) == len(verdicts)
    return dict(verdicts)


# --- which node ---

CHOICES = [
    ("nothing there", [], None),
    ("the fullest first", [("a", 4, 1), ("b", 4, 3), ("c", 4, 2)], "b"),
    ("a full one is none", [("a", 3, 3), ("b", 3, 1)], "b"),
    ("most sessions, not least left", [("a", 8, 3), ("b", 2, 1)], "a"),
    ("a tie goes to the lower id", [("b", 2, 1), ("a", 2, 1), ("c", 2, 1)], "a"),
    ("all empty", [("n10", 1, 0), ("n2", 1, 0)], "n10"),
    ("capacity lowered under its sessions", [("a", 1, 3), ("b", 1, 0)], "b"),
]


@pytest.mark.parametrize(("nodes", "chosen"), [case[1:] for case in CHOICES], ids=[case[0] for case in CHOICES])
def test_choice(nodes: list[tuple[str, int, int]], chosen: str | None) -> None:
    it = pool(*(node(id, slots=slots, used=used) for id, slots, used in nodes), max_nodes=0)
    join(it, "s")
    assert told(it) == {"s": Granted(chosen) if chosen else Full()}


def test_only_ready_nodes_with_a_socket_are_chosen() -> None:
    others = [node(f"a{state.value}", state) for state in S if state not in (S.READY, S.GONE)]
    it = pool(*others, node("b", linked=False), node("c"), max_nodes=0)
    join(it, "s", "t")
    assert told(it)["s"] == Granted("c")
    assert "t" in it.line
    it.nodes["b"].linked = True
    assert told(it) == {"t": Granted("b")}


def test_filling_a_pool_packs_node_after_node() -> None:
    it = pool(node("b", slots=2), node("a", slots=2), node("c", slots=1))
    join(it, *"12345")
    assert [verdict.node for verdict in told(it).values()] == ["a", "a", "b", "b", "c"]


def test_first_come_first_served() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "holder", "first", "second")
    told(it)
    it.leave("holder", 1)
    join(it, "third")
    assert told(it) == {"first": Granted("a"), "third": Full()}
    assert list(it.line) == ["second", "third"]


def test_the_front_is_before_all_others() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "holder", "first")
    told(it)
    join(it, "lost", front=True)
    told(it)
    it.leave("holder", 1)
    assert told(it)["lost"] == Granted("a")


def test_joining_twice_changes_nothing() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "s", "t")
    told(it)
    join(it, "s", "t", front=True)
    assert told(it) == {}
    assert (list(it.line), set(it.holders)) == (["t"], {"s"})


def test_a_raised_capacity_is_used_at_once() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "s", "t")
    told(it)
    it.nodes["a"].capacity = 2
    assert told(it) == {"t": Granted("a")}


# --- never to the same node ---


def test_a_session_passes_by_the_node_that_did_not_answer() -> None:
    it = pool(node("a", slots=2, used=1), node("b"), max_nodes=0)
    join(it, "s", front=True, exclude="a")
    assert told(it) == {"s": Granted("b")}


def test_those_behind_it_may_have_that_node() -> None:
    it = pool(node("a", slots=2), max_nodes=5)
    join(it, "s", front=True, exclude="a")
    join(it, "t", "u", "v")
    assert told(it) == {"s": Pending(), "t": Granted("a"), "u": Granted("a"), "v": Pending()}
    assert list(it.line) == ["s", "v"]


def test_its_status_does_not_count_on_that_node() -> None:
    it = pool(node("a", S.STOPPED), max_nodes=1)
    join(it, "s", front=True, exclude="a", patient=False)
    join(it, "t")
    assert told(it) == {"s": Full(), "t": Pending()}
    assert list(it.line) == ["t"]


def test_its_slot_does_not_keep_a_new_node_from_being_made() -> None:
    it = pool(node("a"), max_nodes=2)
    join(it, "s", front=True, exclude="a")
    assert told(it) == {"s": Pending()}
    assert it.plan(0) == [Create()]


@pytest.mark.parametrize("state", [S.BOOTING, S.STARTING, S.PROVISIONING])
def test_nor_does_it_while_that_node_comes_up(state: NodeState) -> None:
    it = pool(node("a", state), max_nodes=2)
    join(it, "s", front=True, exclude="a")
    told(it)
    assert it.plan(0) == [Create()]


def test_statuses_behind_sessions_that_leave_for_want_of_another_node() -> None:
    """Two leave together; nobody behind them is told `full` in between."""
    it = pool(node("a", S.BOOTING, slots=2), max_nodes=1)
    join(it, "x", "y", patient=False, exclude="a")
    join(it, "t", "u", "v")
    assert told(it) == {"x": Full(), "y": Full(), "t": Pending(), "u": Pending(), "v": Full()}


# --- where those in line stand ---

SUPPLY = [
    (S.PROVISIONING, 3),
    (S.BOOTING, 3),
    (S.STARTING, 3),
    (S.STOPPING, 3),
    (S.STOPPED, 3),
    (S.LOST, 3),
    (S.READY, 0),
    (S.DRAINING, 0),
    (S.FAILED, 0),
    (S.TERMINATING, 0),
]


@pytest.mark.parametrize(("state", "slots"), SUPPLY, ids=lambda part: getattr(part, "value", part))
def test_what_a_place_in_line_counts_on(state: NodeState, slots: int) -> None:
    it = pool(node("a", state, slots=3, used=3 if state is S.READY else 0), max_nodes=3, slots=2)
    assert it.supply() == slots + 2 * 2  # and the slots of two more nodes
    assert it.supply(exclude="a") == 2 * 2


def test_every_node_counts_to_max_nodes_whatever_its_state() -> None:
    it = pool(
        *(node(state.value, state) for state in S if state is not S.GONE), node("own", managed=False), max_nodes=12
    )
    assert it.supply() == 6 + 12 - 11


def test_the_slots_of_a_node_whose_socket_dropped_are_awaited() -> None:
    it = pool(node("a", slots=3, used=1, linked=False), max_nodes=1)
    join(it, *"123")
    assert told(it) == {"1": Pending(), "2": Pending(), "3": Full()}


def test_a_static_pool_says_full() -> None:
    it = pool(node("a", S.LOST, managed=False), elastic=False, max_nodes=9)
    join(it, "s")
    assert (it.supply(), told(it), it.plan(0)) == (0, {"s": Full()}, [])


def test_pending_within_the_supply_and_full_beyond() -> None:
    it = pool(max_nodes=2, slots=2)
    join(it, *"123456")
    assert told(it) == {**dict.fromkeys("1234", Pending()), **dict.fromkeys("56", Full())}


def test_a_status_is_told_on_a_change_only_and_to_those_it_changed_for() -> None:
    it = pool(max_nodes=2)
    join(it, *"1234")
    told(it)
    it.leave("1", 0)
    assert told(it) == {"3": Pending()}
    join(it, "0", front=True)
    assert told(it) == {"0": Pending(), "3": Full()}
    join(it, "5")
    assert told(it) == {"5": Full()}


def test_what_happened_and_was_undone_between_two_settlings_is_not_told() -> None:
    it = pool(max_nodes=1)
    join(it, "1", "2")
    told(it)
    join(it, "0", front=True)
    it.leave("0", 0)
    assert told(it) == {}


def test_an_impatient_session_takes_no_place_in_a_full_line() -> None:
    it = pool(max_nodes=1)
    join(it, "1")
    join(it, "2", patient=False)
    assert told(it) == {"1": Pending(), "2": Full()}
    assert list(it.line) == ["1"]


def test_an_impatient_session_leaves_when_the_line_becomes_full() -> None:
    it = pool(max_nodes=2)
    join(it, "1")
    join(it, "2", patient=False)
    assert told(it) == {"1": Pending(), "2": Pending()}
    join(it, "0", front=True)
    assert told(it) == {"0": Pending(), "2": Full()}
    assert list(it.line) == ["0", "1"]


def test_one_that_decides_to_stay_keeps_its_place() -> None:
    it = pool(max_nodes=2)
    join(it, "1")
    join(it, "2", patient=False)
    told(it)
    it.stay("2")
    join(it, "0", front=True)
    assert told(it) == {"0": Pending(), "2": Full()}
    assert list(it.line) == ["0", "1", "2"]


# --- reservations ---


def test_a_reservation_is_renewed_when_nobody_waits() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "s")
    told(it)
    it.yield_slot("s", 30)
    assert told(it) == {"s": Granted("a")}
    assert it.nodes["a"].sessions == {"s"}


def test_else_it_goes_to_the_end_of_the_line() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "s", "t", "u")
    told(it)
    it.yield_slot("s", 30)
    assert told(it) == {"t": Granted("a"), "s": Full()}
    assert list(it.line) == ["u", "s"]


def test_or_gets_the_slot_back_when_those_who_wait_may_not_have_it() -> None:
    it = pool(node("a"), max_nodes=1)
    join(it, "s")
    told(it)
    join(it, "t", exclude="a")
    told(it)
    it.yield_slot("s", 30)
    assert told(it) == {"s": Granted("a")}


def test_what_was_to_be_told_to_one_that_left_is_not() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "s", "t")
    told(it)
    it.yield_slot("t", 1)  # it holds none
    it.lose_session("t", 1)
    it.observe("a", E.SILENT, 1)
    it.leave("s", 1)
    assert told(it) == {"t": Pending()}  # a lost node is awaited
    assert it.holders == {}


# --- nodes that go ---


def test_sessions_of_a_lost_node_are_told_once() -> None:
    it = pool(node("a", slots=2), max_nodes=1)
    join(it, "s", "t", "u")
    told(it)
    it.observe("a", E.SILENT, 1)
    assert told(it) == {"s": Lost(), "t": Lost(), "u": Pending()}
    assert (it.holders, it.nodes["a"].sessions, it.nodes["a"].linked) == ({}, set(), False)


def test_a_lost_session_is_told_before_its_slot_is_given_away() -> None:
    it = pool(node("a"), max_nodes=0)
    join(it, "s", "t")
    told(it)
    it.lose_session("s", 1)
    assert it.settle(1) == [("s", Lost())]
    join(it, "s again", front=True)
    assert told(it) == {"s again": Granted("a")}
    assert list(it.line) == ["t"]


def test_a_session_that_a_returning_node_does_not_list() -> None:
    it = pool(node("a", slots=2), max_nodes=0)
    join(it, "s", "t", "u")
    told(it)
    it.lose_session("s", 1)
    assert told(it) == {"s": Lost(), "u": Granted("a")}


def test_a_node_that_is_gone_is_forgotten() -> None:
    it = pool(node("a", managed=False), max_nodes=2)
    it.observe("a", E.DRAIN, 1)
    assert it.plan(1) == [Step("a", E.EMPTY)]
    it.observe("a", E.EMPTY, 1)
    assert (it.nodes, it.supply(), it.next_due(1, SILENCE)) == ({}, 2, float("inf"))


def test_an_event_that_is_not_allowed_raises_and_changes_nothing() -> None:
    it = pool(node("a"), max_nodes=1)
    with pytest.raises(TransitionError):
        it.observe("a", E.START, 1)
    assert it.nodes["a"].state is S.READY


# --- failures ---


def fail(it: Pool, id: str, now: float = 1.0) -> None:
    it.observe(id, E.REFUSED, now)


def started(id: str) -> Node:
    made = node(id, S.STOPPED, linked=False)
    made.receive(E.START, 0)
    return made


def test_a_failed_start_with_nothing_left() -> None:
    it = pool(started("a"), max_nodes=1)
    join(it, "s")
    told(it)
    fail(it, "a")
    assert told(it) == {"s": Failed(Error.START_FAILED)}
    assert it.plan(1) == []  # it counts until it is destroyed, and is not tried again


def test_a_failed_creation_with_nothing_left() -> None:
    it = pool(node("a", S.PROVISIONING), max_nodes=1)
    join(it, "s")
    told(it)
    fail(it, "a")
    assert told(it) == {"s": Failed(Error.POOL_FULL)}


def test_after_a_failed_start_another_stopped_node_then_a_new_one() -> None:
    it = pool(started("a"), node("b", S.STOPPED), max_nodes=3)
    join(it, "s")
    told(it)
    fail(it, "a")
    assert told(it) == {}
    assert it.plan(1) == [Step("b", E.START)]
    it.observe("b", E.START, 1)
    fail(it, "b")
    assert told(it) == {}
    assert it.plan(1) == [Create()]


def test_only_those_for_whom_nothing_is_left_are_told() -> None:
    it = pool(started("a"), started("b"), max_nodes=2)
    join(it, "s", "t", "u")
    assert told(it)["u"] == Full()
    fail(it, "a")
    assert told(it) == {"t": Failed(Error.START_FAILED)}  # "u" was never promised anything


def test_one_that_comes_later_is_told_full() -> None:
    it = pool(started("a"), max_nodes=1)
    fail(it, "a")
    join(it, "s")
    assert told(it) == {"s": Full()}


def test_a_failed_node_is_destroyed_and_replaced() -> None:
    it = pool(started("a"), max_nodes=1, failed_timeout=60, start_attempts=1)
    join(it, "s")
    told(it)
    fail(it, "a")
    told(it)
    assert it.expire(60.9, SILENCE) == []
    assert it.expire(61, SILENCE) == ["a"]
    assert [name for _, name in it.operations(61)] == ["destroy"]
    assert told(it) == {}
    it.observe("a", E.ACCEPTED, 62)
    assert told(it) == {"s": Pending()}
    assert it.plan(62) == [Create()]


def test_a_reserve_of_stopped_nodes_is_kept() -> None:
    it = pool(stopped_timeout=60, stopped_reserve=1)
    for id in "ab":
        it.add(Node(id, it.spec, S.STOPPED, 0))
    assert it.expire(60, SILENCE) == ["a"]
    assert it.nodes["b"].state is S.STOPPED
    assert it.next_due(60, SILENCE) == 120
    it.observe("a", E.ACCEPTED, 61)
    assert it.expire(120, SILENCE) == []
    it.add(Node("c", it.spec, S.STOPPED, 121))
    assert it.expire(180, SILENCE) == ["b"]


# --- the plan ---

PLANS = [
    ("nothing wanted, nothing there", [], 0, {}, []),
    ("a node a waiting session", [], 2, {}, ["create", "create"]),
    ("nodes of several slots", [], 3, {"slots": 2}, ["create", "create"]),
    ("no more than max_nodes", [], 9, {}, ["create"] * 4),
    ("slots kept ready", [], 0, {"min_ready": 3, "slots": 2}, ["create", "create"]),
    ("slots kept ready beside the demand", [("a", S.READY, 1, 1)], 0, {"min_ready": 1}, ["create"]),
    ("more of them under load", [(i, S.READY, 1, 1) for i in "abcd"], 0, {"beta": 1.5, "max_nodes": 9}, ["create"] * 3),
    ("the larger of both", [("a", S.READY, 1, 1)], 0, {"beta": 1.5, "min_ready": 1}, ["create"] * 2),
    ("not below that under load", [(i, S.READY, 1, i == "a") for i in "abc"], 0, {"beta": 1}, ["drain b"]),
    ("what is on its way counts", [("a", S.BOOTING, 1, 0), ("b", S.PROVISIONING, 1, 0)], 2, {}, []),
    ("stopped ones first", [("a", S.STOPPED, 1, 0)], 2, {}, ["start a", "create"]),
    ("a big stopped one is enough", [("a", S.STOPPED, 4, 0)], 3, {}, ["start a"]),
    ("one that is being stopped is waited for", [("a", S.STOPPING, 1, 0)], 1, {}, []),
    ("and no more than it has", [("a", S.STOPPING, 1, 0)], 2, {}, ["create"]),
    ("a lost one is replaced", [("a", S.LOST, 1, 0)], 1, {}, ["create"]),
    ("a lost one counts to max_nodes", [("a", S.LOST, 1, 0)], 1, {"max_nodes": 1}, []),
    ("a failed one too", [("a", S.FAILED, 1, 0), ("b", S.TERMINATING, 1, 0)], 1, {"max_nodes": 2}, []),
    ("a draining one as well", [("a", S.DRAINING, 1, 1)], 1, {"max_nodes": 1}, []),
    ("an idle one is drained", [("a", S.READY, 1, 0)], 0, {}, ["drain a"]),
    ("not below what is kept ready", [("a", S.READY, 1, 0), ("b", S.READY, 1, 0)], 0, {"min_ready": 1}, ["drain a"]),
    ("nor in part", [("a", S.READY, 4, 0)], 0, {"min_ready": 1}, []),
    ("a smaller one then", [("a", S.READY, 4, 0), ("b", S.READY, 1, 0)], 0, {"min_ready": 4}, ["drain b"]),
    ("one with a session is not", [("a", S.READY, 2, 1)], 0, {}, []),
    ("an empty draining one is stopped", [("a", S.DRAINING, 1, 0)], 0, {}, ["empty a"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "waiting", "spec", "steps"), [case[1:] for case in PLANS], ids=[case[0] for case in PLANS]
)
def test_plan(
    nodes: list[tuple[str, NodeState, int, int]], waiting: int, spec: dict[str, Any], steps: list[str]
) -> None:
    it = pool(*(node(id, state, slots=slots, used=used) for id, state, slots, used in nodes), **spec)
    join(it, *(f"s{n}" for n in range(waiting)))
    told(it)
    assert [written(step) for step in it.plan(120)] == steps


def written(step: Create | Step) -> str:
    return "create" if isinstance(step, Create) else f"{step.event.value} {step.node}"


def test_stopped_nodes_beyond_a_maximum_that_was_made_smaller_are_destroyed() -> None:
    """The longest stopped first, and those that go anyway count; what runs is left alone."""
    stopped = [node(name, S.STOPPED, since=since) for name, since in (("a", 3.0), ("b", 1.0), ("c", 2.0))]
    where = pool(*stopped, node("r", used=1), node("f", S.FAILED), max_nodes=2)
    join(where, "s1", "s2")
    assert where.plan(5.0) == [Step("b", E.DESTROY), Step("c", E.DESTROY)]
    for id in ("b", "c"):
        where.observe(id, E.DESTROY, 5.0)
    assert where.plan(5.0) == [Step("a", E.START)]
    running = pool(*(node(f"r{number}", used=1) for number in range(3)), max_nodes=1)
    assert running.plan(5.0) == []


def test_the_last_to_be_stopped_is_started_first() -> None:
    it = pool(node("a", S.STOPPED, since=1), node("b", S.STOPPED, since=2), node("c", S.STOPPED, since=2), max_nodes=3)
    join(it, "s", "t", "u")
    assert [written(step) for step in it.plan(5)] == ["start b", "start c", "start a"]


def test_a_plan_that_is_followed_asks_for_nothing_twice() -> None:
    it = pool(max_nodes=4)
    join(it, "s", "t")
    for n, step in enumerate(it.plan(0)):
        assert step == Create()
        it.add(node(f"n{n}", S.PROVISIONING, linked=False))
    assert it.plan(0) == []


def test_idle_for_long_enough_the_longest_first() -> None:
    it = pool(node("a"), node("b"), max_nodes=2, idle_timeout=120)
    join(it, "s")
    told(it)  # on a
    it.leave("s", 50)
    assert it.plan(119.9) == []
    assert it.next_due(100, 1e9) == 120
    assert it.plan(120) == [Step("b", E.DRAIN)]
    it.observe("b", E.DRAIN, 120)
    assert it.next_due(120, 1e9) == 170
    assert it.plan(170) == [Step("b", E.EMPTY), Step("a", E.DRAIN)]


def test_a_node_that_just_came_back_is_not_idle_for_long() -> None:
    it = pool(node("a"), max_nodes=1)
    it.observe("a", E.SILENT, 500)
    it.observe("a", E.REGISTERED, 510)
    it.nodes["a"].linked = True
    assert it.plan(510) == []


def test_only_nodes_that_a_provider_made_are_stopped() -> None:
    it = pool(node("a", managed=False), max_nodes=1)
    assert it.plan(1000) == []


def test_a_node_whose_socket_dropped_is_not_stopped_for_idling() -> None:
    it = pool(node("a", linked=False), max_nodes=1)
    assert it.plan(1000) == []


# --- operations and time ---


def test_operations_one_a_node_and_again_after_a_pause() -> None:
    it = pool(node("a", S.STOPPING, linked=False), node("b", S.STARTING, linked=False), node("c"), max_nodes=9)
    due = it.operations(0)
    assert [(each.id, name) for each, name in due] == [("a", "stop"), ("b", "start")]
    for each, _ in due:
        each.busy = True
    assert it.operations(0) == []
    it.nodes["a"].busy = False
    it.observe("a", E.REFUSED, 10)
    assert it.operations(10) == []
    assert it.next_due(10, SILENCE) == 11
    assert [name for _, name in it.operations(11)] == ["stop"]


def test_a_creation_that_may_have_been_asked_for_is_not_asked_for_again() -> None:
    it = pool(node("a", S.PROVISIONING, linked=False), max_nodes=1)
    it.nodes["a"].uncertain = True
    assert it.operations(0) == []
    it.nodes["a"].uncertain = False
    assert [name for _, name in it.operations(0)] == ["create"]


def test_silence() -> None:
    it = pool(node("a"), node("b"), max_nodes=2)
    it.nodes["b"].heard = 5
    assert it.next_due(0, SILENCE) == 15
    assert it.expire(14.9, SILENCE) == []
    assert it.expire(15, SILENCE) == ["a"]
    assert it.nodes["a"].state is S.LOST
    assert it.next_due(15, SILENCE) == 20


def test_the_awaited_node_is_given_up() -> None:
    it = pool(node("a", S.LOST, linked=False), max_nodes=1, lost_timeout=60)
    assert it.expire(60, SILENCE) == ["a"]
    assert it.nodes["a"].state is S.TERMINATING


def test_adopted_sessions_hold_their_slots() -> None:
    it = pool(node("a", slots=2, linked=False), max_nodes=0)
    it.adopt("s", "a")
    it.nodes["a"].linked = True
    join(it, "t", "u")
    assert told(it) == {"t": Granted("a"), "u": Full()}
    assert it.holders["s"] is it.nodes["a"]
