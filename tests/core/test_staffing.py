"""How many slots a pool wants up, and when it changes its mind."""

from math import exp, inf, log, sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.test_pool import node, pool, written
from rtcbridge.core.node import NodeEvent, NodeState
from rtcbridge.core.policy import Band, Staffing, target
from rtcbridge.core.spec import PoolSpec


def spec(**changes: Any) -> PoolSpec:
    return PoolSpec(name="p", **changes)


@pytest.mark.parametrize(
    ("demand", "floor", "beta", "average", "slots"),
    [
        (0, 0, 0.0, None, 0),
        (0, 2, 1.0, None, 2),
        (9, 2, 0.0, None, 11),
        (9, 2, 1.0, None, 12),
        (10, 2, 1.0, None, 14),
        (9, 4, 1.0, None, 13),
        (9, 0, 1.0, 16.0, 13),
        (9, 0, 1.0, 16.1, 14),
        (9, 2, 1.0, 0.0, 11),
        (0, 1, 1.0, 16.0, 1),
    ],
)
def test_target(demand: int, floor: int, beta: float, average: float | None, slots: int) -> None:
    assert target(demand, floor, beta, average) == slots


@pytest.mark.parametrize("demand", [0, 1, 25])
def test_without_new_keys_there_is_no_upper_bound_and_the_demand_of_the_moment_counts(demand: int) -> None:
    staffing = Staffing()
    for now, other in enumerate((40, demand)):
        band = staffing.band(spec(beta=1.0, min_ready=2), other, float(now))
    assert band == Band(target(demand, 2, 1.0), inf)
    assert staffing.next_change(spec(beta=1.0)) == inf


def test_the_upper_bound() -> None:
    assert Staffing().band(spec(beta=1.0, hold_beta=1.5, min_ready=2), 16, 0.0) == Band(20, 22)
    assert Staffing().band(spec(beta=1.0, hold_beta=1.5, min_ready=7), 16, 0.0) == Band(23, 23)
    assert Staffing().band(spec(beta=1.0, hold_beta=1.5), 0, 0.0) == Band(0, 0)


def test_a_window_remembers_what_the_demand_was() -> None:
    staffing, it = Staffing(), spec(beta=1.0, hold_beta=2.0, demand_window=100.0)
    assert staffing.band(it, 16, 0.0) == Band(20, 24)
    assert staffing.band(it, 9, 0.0) == Band(13, 17)
    after = 9 + 7 * exp(-1)  # 11.6
    assert staffing.band(it, 9, 100.0) == Band(9 + 4, 9 + 7)
    assert 3 < sqrt(after) < 3.5 < 4
    assert staffing.band(it, 0, 100.0) == Band(0, 7)  # without demand nothing is started, something may be kept
    assert staffing.band(it, 0, 1e9) == Band(0, 0)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    staffing, it = Staffing(), spec(beta=1.0, demand_window=100.0)
    staffing.band(it, 16, 1000.0)
    assert staffing.band(it, 9, 500.0).start == 9 + 4
    assert staffing.band(it, 9, 600.0).start == 9 + 4  # 11.6 on the average


_changes = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 5000)), min_size=1, max_size=12)
_specs = st.builds(
    spec,
    beta=st.sampled_from([0.0, 0.5, 1.0, 1.2, 1.5]),
    hold_beta=st.sampled_from([0.0, 1.5, 2.0]),
    min_ready=st.integers(0, 3),
    demand_window=st.sampled_from([0.5, 600.0, 1800.0, 1e6]),
)


@given(_changes, _specs, st.integers(1, 5))
def test_how_often_it_is_asked_does_not_matter(changes: list[tuple[int, float]], it: PoolSpec, parts: int) -> None:
    once, often = Staffing(), Staffing()
    now = 0.0
    for demand, seconds in changes:
        for part in range(parts):
            often.band(it, demand, now + seconds * part / parts)
        once.band(it, demand, now)
        now += seconds
        assert often._average is not None
        assert once._average is not None
    first, second = once.band(it, demand, now), often.band(it, demand, now)
    assert abs(often._average - once._average) < 0.01
    assert abs(first.start - second.start) <= 1  # one apart if a rounding lies between


@given(_changes, _specs)
def test_the_band_changes_when_it_was_said_to(changes: list[tuple[int, float]], it: PoolSpec) -> None:
    staffing = Staffing()
    now = 0.0
    for demand, seconds in changes:
        now += seconds
        band = staffing.band(it, demand, now)
    for _ in range(200):
        due = staffing.next_change(it)
        if due == inf:
            assert staffing.band(it, demand, now + 50 * it.demand_window) == band
            return
        assert due > now
        just_before = max(now, due - 3e-4 * it.demand_window)
        assert staffing.band(it, demand, just_before) == band or due - now < 1e-3 * it.demand_window
        now, band = due, staffing.band(it, demand, due)
    raise AssertionError("the band never comes to rest")


# --- the pool ---


def ready(count: int, used: int = 0, **changes: Any):
    """So many ready nodes of one slot, the first of them used, the others idle since 100, 101, …"""
    nodes = [node(f"n{index:02}", used=int(index < used), since=100.0 + index) for index in range(count)]
    return pool(*nodes, max_nodes=30, idle_timeout=600.0, **changes)


def test_what_is_above_the_upper_bound_is_stopped_at_once_the_longest_idle_first() -> None:
    it = ready(9, used=4, beta=0.5, hold_beta=1.0)
    assert [written(step) for step in it.plan(120)] == ["drain n04", "drain n05", "drain n06"]


def test_what_is_within_the_band_waits_for_its_idle_timeout() -> None:
    it = ready(6, used=4, beta=0.5, hold_beta=1.0)
    assert it.plan(120) == []
    assert it.next_due(120, 1e9) == 704.0
    assert [written(step) for step in it.plan(704)] == ["drain n04"]


def test_never_below_the_lower_bound() -> None:
    assert ready(6, used=4, beta=1.0, hold_beta=1.0).plan(1e5) == []
    assert [written(step) for step in ready(5, used=4, beta=1.0, hold_beta=1.0).plan(1e5)] == ["create"]


def test_a_node_of_several_slots_is_stopped_if_the_whole_of_it_is_too_many() -> None:
    it = pool(node("a", slots=4, used=4), node("b", slots=4), node("c", slots=2), idle_timeout=600.0, hold_beta=1.0)
    assert [written(step) for step in it.plan(1)] == ["drain b"]
    it = pool(node("a", slots=4, used=4), node("b", slots=6), idle_timeout=600.0, hold_beta=1.5)
    assert it.plan(1) == []


def test_the_pool_wakes_up_when_its_average_has_fallen_far_enough() -> None:
    it = ready(7, used=4, hold_beta=1.0, demand_window=10.0)
    it.plan(200)
    for session in ("n00/0", "n01/0", "n02/0"):
        it.holders[session] = it.nodes[session[:3]]
        it.leave(session, 200)
    assert [written(step) for step in it.plan(200)] == ["drain n04", "drain n05", "drain n06", "drain n00"]
    for id in ("n04", "n05", "n06", "n00"):
        it.observe(id, NodeEvent.DRAIN, 200)
        it.observe(id, NodeEvent.EMPTY, 200)
    assert it.plan(200) == []
    due = it.next_due(200, 1e9)
    assert due == pytest.approx(200 + 10 * log(3 / 1e-3), abs=0.1)  # when the average of 4 has come to 1
    assert [written(step) for step in it.plan(due)] == ["drain n01"]


@pytest.mark.parametrize(("attempts", "operations"), [(1, ["destroy"]), (3, ["stop"])])
def test_a_node_whose_start_was_refused_is_put_back(attempts: int, operations: list[str]) -> None:
    it = pool(node("a", NodeState.STOPPED), max_nodes=1, start_attempts=attempts, min_ready=1)
    it.observe("a", NodeEvent.START, 0)
    it.observe("a", NodeEvent.REFUSED, 0)
    assert it.expire(60, 1e9) == ["a"]
    assert [name for _, name in it.operations(60)] == operations


def test_after_so_many_refusals_in_a_row_it_is_destroyed() -> None:
    it = pool(node("a", NodeState.STOPPED), max_nodes=1, start_attempts=2)
    now = 0.0
    for state in (NodeState.READY, NodeState.STOPPING, NodeState.TERMINATING):
        it.observe("a", NodeEvent.START, now)
        if state is NodeState.READY:  # a start that goes well in between does not count
            it.observe("a", NodeEvent.REFUSED, now)
            it.expire(now := now + 60, 1e9)
            it.observe("a", NodeEvent.ACCEPTED, now)
            it.observe("a", NodeEvent.START, now)
            it.observe("a", NodeEvent.REGISTERED, now)
            assert it.nodes["a"].state is state
            it.observe("a", NodeEvent.DRAIN, now)
            it.observe("a", NodeEvent.EMPTY, now)
        else:
            it.observe("a", NodeEvent.REFUSED, now)
            it.expire(now := now + 60, 1e9)
            assert it.nodes["a"].state is state
        if state is not NodeState.TERMINATING:
            it.observe("a", NodeEvent.ACCEPTED, now)


def test_others_are_started_before_one_whose_start_was_refused() -> None:
    it = pool(node("a", NodeState.STOPPED, since=9), node("b", NodeState.STOPPED, since=1), min_ready=1)
    it.nodes["a"].refusals = 1
    assert [written(step) for step in it.plan(10)] == ["start b"]
