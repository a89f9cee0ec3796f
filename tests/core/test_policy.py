"""Priorities, maxima, fairness, fallback and windows, case by case; and the order in which slots are acquired."""

from math import inf
from typing import Any

import pytest

from rtcbridge.core.errors import Error
from rtcbridge.core.events import Failed, Full, Granted, Pending
from rtcbridge.core.fallback import chain
from rtcbridge.core.node import Node, NodeEvent, NodeState
from rtcbridge.core.policy import target
from rtcbridge.core.pool import Create, Pool, Step
from rtcbridge.core.pools import Pools
from rtcbridge.core.spec import PoolSpec, ProjectSpec, Window

S, E = NodeState, NodeEvent


def pools(*specs: dict[str, Any], projects: dict[str, dict[str, int]] | None = None) -> Pools:
    """Pools that create nothing, unless it is said."""
    some = [PoolSpec(**{"max_nodes": 0, **spec}) for spec in specs]
    return Pools(some, [ProjectSpec(id=id, **settings) for id, settings in (projects or {}).items()])


def add(pool: Pool, id: str, slots: int = 1, state: NodeState = S.READY, now: float = 0.0) -> Node:
    node = Node(id, pool.spec, state, now)
    pool.add(node)
    node.capacity, node.linked = slots, state is S.READY
    return node


def told(where: Pools, now: float = 0.0) -> dict[str, Any]:
    """What settling says to each session, until it says nothing more."""
    said: list[tuple[str, Any]] = []
    where.unsettled.update(where)
    while where.unsettled:
        _, pool = where.unsettled.popitem()
        while verdicts := pool.settle(now):
            said += verdicts
    assert len(dict(said)) == len(said), "somebody was told twice"
    return dict(said)


def join(pool: Pool, *sessions: str, **kind: Any) -> None:
    """Put sessions in line; the first letter of each is its project."""
    for session in sessions:
        pool.join(session, **{"patient": True, "project": session[0].upper() * 6, **kind})


def free(where: Pools, session: str, now: float = 0.0) -> dict[str, Any]:
    """Free the slot of a session of the first pool; return what is told."""
    next(iter(where.values())).leave(session, now)
    return told(where, now)


# --- priorities ---


def test_the_higher_priority_is_served_first_and_first_come_first_served_within_it() -> None:
    it = pools({"name": "p"}, projects={"BBBBBB": {"priority": 1}, "CCCCCC": {"priority": -1}})
    p = it["p"]
    add(p, "n")
    join(p, "a0")
    told(it)
    join(p, "c1", "a1", "b1", "a2", "b2")
    told(it)
    assert list(p.line) == ["b1", "b2", "a1", "a2", "c1"]
    assert [p.position(session) for session in ("b1", "a1", "c1")] == [1, 3, 5]
    assert free(it, "a0") == {"b1": Granted("n")}


def test_those_who_lost_their_node_are_before_all_others() -> None:
    it = pools({"name": "p"}, projects={"BBBBBB": {"priority": 1}})
    join(it["p"], "b1", "a1")
    join(it["p"], "a2", front=True)
    assert list(it["p"].line) == ["a2", "b1", "a1"]


def test_nobody_is_overtaken_for_longer_than_the_time_for_it() -> None:
    it = pools({"name": "p", "overtake_timeout": 60.0}, projects={"BBBBBB": {"priority": 9}})
    p = it["p"]
    join(p, "a1")
    told(it, 0.0)
    join(p, "a2", "b1")
    told(it, 30.0)
    assert list(p.line) == ["b1", "a1", "a2"]
    told(it, 60.0)
    join(p, "b2")
    told(it, 61.0)
    assert list(p.line) == ["a1", "b1", "b2", "a2"]
    told(it, 90.0)
    assert list(p.line) == ["a1", "a2", "b1", "b2"]


def test_without_that_time_priorities_are_absolute() -> None:
    it = pools({"name": "p", "overtake_timeout": 0.0}, projects={"BBBBBB": {"priority": 1}})
    join(it["p"], "a1")
    told(it, 0.0)
    join(it["p"], "b1")
    told(it, 1e9)
    assert list(it["p"].line) == ["b1", "a1"]


def test_the_priority_decides_who_is_promised_the_nodes_to_come() -> None:
    it = pools({"name": "p", "max_nodes": 1}, projects={"BBBBBB": {"priority": 1}})
    join(it["p"], "a1")
    assert told(it) == {"a1": Pending()}
    join(it["p"], "b1")
    assert told(it) == {"b1": Pending(), "a1": Full()}


# --- maxima ---


def test_a_project_that_has_its_maximum_waits_and_blocks_nobody() -> None:
    it = pools({"name": "p"}, projects={"AAAAAA": {"max_sessions": 2}})
    p = it["p"]
    add(p, "n", slots=4)
    join(p, "a1", "a2", "a3", "b1", "a4")
    assert told(it) == {
        "a1": Granted("n"), "a2": Granted("n"), "b1": Granted("n"), "a3": Full(), "a4": Full()
    }  # fmt: skip
    assert (p.position("a3"), p.position("a4"), p.eta("a3", 1.0)) == (1, 2, None)
    assert free(it, "b1") == {}
    assert free(it, "a2") == {"a3": Granted("n")}


def test_those_who_may_not_be_served_are_no_demand() -> None:
    it = pools({"name": "p", "max_nodes": 9}, projects={"AAAAAA": {"max_sessions": 2}})
    join(it["p"], *(f"a{n}" for n in range(6)))
    assert [type(verdict) for verdict in told(it).values()] == [Pending, Pending, Full, Full, Full, Full]
    assert it["p"].plan(0) == [Create(), Create()]


def test_one_that_takes_no_place_in_line_is_refused() -> None:
    it = pools({"name": "p"}, projects={"AAAAAA": {"max_sessions": 1}})
    add(it["p"], "n", slots=2)
    join(it["p"], "a1", "a2", patient=False)
    assert told(it) == {"a1": Granted("n"), "a2": Full()}
    assert "a2" not in it["p"].line


def test_the_maximum_is_over_all_pools_and_a_slot_of_one_frees_the_other() -> None:
    it = pools({"name": "p"}, {"name": "q"}, projects={"AAAAAA": {"max_sessions": 1}})
    add(it["p"], "n")
    add(it["q"], "m")
    join(it["p"], "a1")
    told(it)
    join(it["q"], "a2", "b1")
    assert told(it) == {"a2": Full(), "b1": Granted("m")}
    it["q"].leave("b1", 1.0)
    assert told(it) == {}
    it["p"].leave("a1", 2.0)
    assert "q" in it.unsettled
    assert told(it) == {"a2": Granted("m")}


def test_a_maximum_for_each_project_in_one_pool() -> None:
    it = pools({"name": "p", "max_per_project": 1}, {"name": "q"})
    add(it["p"], "n", slots=3)
    add(it["q"], "m", slots=3)
    join(it["p"], "a1", "a2", "b1")
    join(it["q"], "a3", "a4")
    assert told(it) == {
        "a1": Granted("n"), "b1": Granted("n"), "a2": Full(), "a3": Granted("m"), "a4": Granted("m")
    }  # fmt: skip


def test_adopted_sessions_count() -> None:
    it = pools({"name": "p"}, projects={"AAAAAA": {"max_sessions": 1}})
    add(it["p"], "n", slots=2)
    it["p"].adopt("a0", "n", "AAAAAA", since=-100.0)
    join(it["p"], "a1")
    assert told(it) == {"a1": Full()}
    assert free(it, "a0") == {"a1": Granted("n")}


def test_a_lost_node_frees_what_its_sessions_counted_for() -> None:
    it = pools({"name": "p"}, projects={"AAAAAA": {"max_sessions": 1}})
    add(it["p"], "n")
    add(it["p"], "o")
    join(it["p"], "a1", "a2")
    told(it)
    it["p"].observe("n", E.SILENT, 1.0)
    assert told(it)["a2"] == Granted("o")


# --- fairness ---


def test_the_project_with_the_fewest_slots_goes_first() -> None:
    it = pools({"name": "p", "fair": True})
    p = it["p"]
    node = add(p, "n", slots=3)
    join(p, "a1", "a2", "a3", "a4", "a5", "b1", "c1", "b2")
    assert list(told(it)) [:3] == ["a1", "b1", "c1"]  # fmt: skip
    assert list(p.line) == ["a2", "b2", "a3", "a4", "a5"]
    assert [p.position(session) for session in p.line] == [1, 2, 3, 4, 5]
    node.capacity = 5
    assert [*told(it)] == ["a2", "b2"]


def test_fairness_is_within_a_priority() -> None:
    it = pools({"name": "p", "fair": True}, projects={"AAAAAA": {"priority": 1}})
    add(it["p"], "n", slots=3)
    join(it["p"], "b1", "a1", "a2", "a3")
    assert [session for session, verdict in told(it).items() if verdict == Granted("n")] == ["a1", "a2", "a3"]


def test_who_is_promised_a_node_follows_the_slots_that_are_given_back() -> None:
    it = pools({"name": "p", "fair": True, "max_nodes": 2})
    add(it["p"], "n")
    join(it["p"], "a1")
    told(it)
    join(it["p"], "a2", "b1")
    assert told(it) == {"b1": Pending(), "a2": Full()}
    it["p"].nodes["n"].capacity = 0
    assert free(it, "a1") == {"a2": Pending(), "b1": Full()}


# --- fallback ---


def test_who_would_be_told_full_gets_a_slot_of_the_fallback() -> None:
    it = pools({"name": "p", "fallback": "q"}, {"name": "q"})
    p, q = it["p"], it["q"]
    add(p, "n")
    add(q, "m")
    join(p, "a1", "a2", "a3")
    assert told(it) == {"a1": Granted("n"), "a2": Granted("m"), "a3": Full()}
    assert (list(p.line), list(q.line)) == (["a3"], ["a3"])
    assert free(it, "a2") == {"a3": Granted("m")}
    assert (list(p.line), list(q.line)) == ([], [])
    assert free(it, "a3") == {}
    assert q.holders == {}


def test_pending_there_beats_full_here_and_the_first_slot_ends_both_places() -> None:
    it = pools({"name": "p", "fallback": "q"}, {"name": "q", "max_nodes": 1})
    p, q = it["p"], it["q"]
    add(p, "n")
    join(p, "a1", "a2", "a3")
    assert told(it) == {"a1": Granted("n"), "a2": Pending(), "a3": Full()}
    assert q.plan(0) == [Create()]
    add(q, "m", state=S.PROVISIONING)
    assert free(it, "a1") == {"a2": Granted("n"), "a3": Pending()}
    assert list(q.line) == ["a3"]
    q.observe("m", E.REGISTERED, 1.0)
    q.nodes["m"].linked = True
    assert told(it, 1.0) == {"a3": Granted("m")}
    assert list(p.line) == []


def test_what_the_own_pool_promises_later_is_told_once() -> None:
    it = pools({"name": "p", "fallback": "q"}, {"name": "q"})
    p, q = it["p"], it["q"]
    node = add(p, "n")
    join(p, "a1", "a2")
    assert told(it)["a2"] == Full()
    add(p, "n2", state=S.BOOTING)
    assert told(it) == {"a2": Pending()}
    add(q, "m", state=S.BOOTING)
    assert told(it) == {}
    p.observe("n2", E.TIMEOUT, 600.0)
    assert told(it) == {}  # the fallback still promises one
    q.observe("m", E.TIMEOUT, 600.0)
    assert told(it) == {"a2": Failed(Error.POOL_FULL)}
    assert node.sessions == {"a1"}


def test_one_without_a_place_in_line_is_refused_when_no_pool_has_any() -> None:
    it = pools({"name": "p", "fallback": "q"}, {"name": "q", "fallback": "r"}, {"name": "r"})
    add(it["r"], "o")
    join(it["p"], "a1", "a2", patient=False)
    assert told(it) == {"a1": Granted("o"), "a2": Full()}
    assert not any(pool.line.waiters or pool._claims.keys() - {"a1"} for pool in it.values())


def test_one_that_decides_to_stay_waits_in_all() -> None:
    it = pools({"name": "p", "fallback": "q"}, {"name": "q", "max_nodes": 1})
    join(it["p"], "a1", patient=False)
    assert told(it) == {"a1": Pending()}
    assert list(it["p"].line) == []
    it["p"].stay("a1")
    assert told(it) == {}
    assert list(it["p"].line) == list(it["q"].line) == ["a1"]


def test_a_reservation_of_the_fallback_that_runs_out_begins_anew_at_home() -> None:
    it = pools({"name": "p", "fallback": "q"}, {"name": "q"})
    p, q = it["p"], it["q"]
    add(q, "m")
    join(p, "a1", "a2")
    assert told(it) == {"a1": Granted("m"), "a2": Full()}
    p.yield_slot("a1", 30.0)
    assert told(it, 30.0) == {"a2": Granted("m"), "a1": Full()}
    p.yield_slot("a2", 60.0)
    assert told(it, 60.0) == {"a1": Granted("m"), "a2": Full()}
    p.leave("a2", 61.0)
    told(it, 61.0)
    p.yield_slot("a1", 90.0)
    assert told(it, 90.0) == {"a1": Granted("m")}  # nobody waits: it is renewed
    assert q.nodes["m"].sessions == {"a1"}


def test_a_project_at_the_pools_maximum_for_it_goes_to_the_fallback() -> None:
    it = pools({"name": "p", "fallback": "q", "max_per_project": 1}, {"name": "q"})
    add(it["p"], "n", slots=2)
    add(it["q"], "m")
    join(it["p"], "a1", "a2")
    assert told(it) == {"a1": Granted("n"), "a2": Granted("m")}


def test_the_way_back_is_found() -> None:
    assert chain("a", {"a": "b", "b": "c", "c": ""}) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="a → b → a"):
        chain("a", {"a": "b", "b": "a"})


# --- windows ---


def test_a_window_changes_what_is_kept_and_its_end_changes_it_back() -> None:
    p = Pool(PoolSpec(name="p", max_nodes=5, idle_timeout=60))
    p.show(Window(min_ready=2, max_nodes=8, stopped_reserve=3))
    assert (p.spec.min_ready, p.spec.max_nodes, p.spec.stopped_reserve, p.spec.idle_timeout) == (2, 8, 3, 60)
    assert p.plan(0) == [Create(), Create()]
    for n in range(2):
        add(p, f"n{n}")
    p.show(Window(min_ready=1))
    assert (p.spec.max_nodes, p.plan(60)) == (5, [Step("n0", E.DRAIN)])
    p.show(None)
    assert p.plan(60) == [Step("n0", E.DRAIN), Step("n1", E.DRAIN)]


def test_a_change_of_the_pool_itself_outlives_a_window() -> None:
    p = Pool(PoolSpec(name="p", max_nodes=5))
    p.show(Window(min_ready=1))
    p.reshape(PoolSpec(name="p", max_nodes=7))
    assert (p.spec.max_nodes, p.spec.min_ready) == (7, 1)
    p.show(None)
    assert (p.spec.max_nodes, p.spec.min_ready) == (7, 0)


def test_what_an_operator_sets_goes_before_a_window() -> None:
    p = Pool(PoolSpec(name="p", max_nodes=5))
    p.reshape(PoolSpec(name="p", max_nodes=2), pinned=["max_nodes"])
    p.show(Window(min_ready=1, max_nodes=8))
    assert (p.spec.max_nodes, p.spec.min_ready) == (2, 1)
    p.reshape(PoolSpec(name="p", max_nodes=5))
    assert (p.spec.max_nodes, p.spec.min_ready) == (8, 1)


def test_a_lower_maximum_creates_nothing_and_takes_nothing_away() -> None:
    p = Pool(PoolSpec(name="p", max_nodes=3))
    for n in range(3):
        add(p, f"n{n}")
        p.join(f"s{n}", patient=True)
    p.settle(0)
    p.show(Window(max_nodes=1))
    p.join("more", patient=True)
    assert p.settle(1000) == [("more", Full())]
    assert p.plan(1000) == []


# --- the order of acquisition, and the way down ---


def test_warm_then_stopped_then_created_and_all_the_way_back_to_nothing() -> None:
    spec = PoolSpec(name="p", max_nodes=3, idle_timeout=60, stopped_timeout=600, stopped_reserve=1)
    p = Pool(spec)
    add(p, "warm")
    add(p, "stopped", state=S.STOPPED)
    for session in "abc":
        p.join(session, patient=True)
    assert dict(p.settle(0.0)) == {"a": Granted("warm"), "b": Pending(), "c": Pending()}
    assert p.plan(0.0) == [Step("stopped", E.START), Create()]
    p.observe("stopped", E.START, 0.0)
    add(p, "new", state=S.PROVISIONING)
    for node in ("stopped", "new"):
        p.observe(node, E.REGISTERED, 30.0)
        p.nodes[node].linked = True
    assert dict(p.settle(30.0)) == {"b": Granted("new"), "c": Granted("stopped")}
    for session in "abc":
        p.leave(session, 100.0)
    assert p.plan(159.9) == []
    for step in p.plan(160.0):
        assert isinstance(step, Step)
        p.observe(step.node, step.event, 160.0)
    for step in p.plan(160.0):
        assert isinstance(step, Step)
        p.observe(step.node, step.event, 160.0)
        p.observe(step.node, E.ACCEPTED, 160.0)
    assert [node.state for node in p.nodes.values()] == [S.STOPPED] * 3
    assert p.plan(160.0) == []
    assert len(p.expire(760.0, inf)) == 2  # one is kept as the reserve
    assert sorted(node.state.value for node in p.nodes.values()) == ["stopped", "terminating", "terminating"]


@pytest.mark.parametrize(
    ("demand", "floor", "beta", "slots"),
    [(0, 0, 0.0, 0), (0, 2, 1.5, 2), (4, 0, 0.0, 4), (4, 1, 1.0, 6), (9, 5, 1.0, 14), (2, 0, 1.0, 4)],
)
def test_the_target_is_the_demand_and_the_larger_of_floor_and_square_root(
    demand: int, floor: int, beta: float, slots: int
) -> None:
    assert target(demand, floor, beta) == slots
