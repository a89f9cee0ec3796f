"""A step of a pool costs the same with ten and with ten thousand sessions and nodes.

What is compared is the number of function calls, which no other load on the machine changes; what a call of C
code does inside is bounded by the time of the whole.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from rtcbridge.core.node import Node, NodeEvent, NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.core.pools import Pools
from rtcbridge.core.spec import PoolSpec, ProjectSpec

SILENCE = 15.0
LONGEST = 10.0  # seconds; it takes a hundredth of that


def calls(action: Callable[[], object]) -> int:
    """Function calls, of Python's and of C's, that an action makes."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


SPEC = PoolSpec(name="p", slots=2, idle_timeout=1e6)
PROJECTS = [f"P{n:05}" for n in range(5)]
KINDS = {
    "plain": ({}, []),
    "ranked": ({}, [ProjectSpec(id=PROJECTS[1], priority=1), ProjectSpec(id=PROJECTS[2], max_sessions=3)]),
    "fair": ({"fair": True}, [ProjectSpec(id=PROJECTS[1], priority=1)]),
}


def crowd(nodes: int, waiting: int, used: int = 1, kind: str = "plain") -> Pool:
    """A pool of ready nodes with `used` of two slots taken, and a line behind."""
    settings, projects = KINDS[kind]
    pool = Pools([replace(SPEC, max_nodes=nodes, **settings)], projects)["p"]
    for n in range(nodes):
        node = Node(f"n{n:05}", pool.spec, NodeState.READY, 0.0)
        pool.add(node)
        node.linked = True
        for slot in range(used):
            pool.adopt(f"{node.id}/{slot}", node.id, PROJECTS[n % 5], since=-float(n))
    for n in range(waiting):
        pool.join(f"w{n}", patient=True, project=PROJECTS[n % 5])
    while pool.settle(0.0):
        pass
    return pool


def everything(pool: Pool) -> None:
    """What follows each event in the gateway."""
    while pool.settle(1.0):
        pass
    pool.plan(1.0)
    pool.operations(1.0)
    pool.expire(1.0, SILENCE)
    pool.next_due(1.0, SILENCE)


def join_and_leave(pool: Pool) -> None:
    pool.join("new", patient=True)
    everything(pool)
    pool.leave("new", 1.0)
    everything(pool)


def a_slot_is_freed(pool: Pool) -> None:
    pool.leave("n00005/0", 1.0)
    everything(pool)


def one_leaves_the_front_of_the_line(pool: Pool) -> None:
    pool.leave(pool.line.queue[0][2], 1.0)
    everything(pool)


def a_node_is_lost_and_returns(pool: Pool) -> None:
    pool.observe("n00005", NodeEvent.SILENT, 1.0)
    everything(pool)
    pool.observe("n00005", NodeEvent.REGISTERED, 1.0)
    pool.nodes["n00005"].linked = True
    everything(pool)


def a_reservation_runs_out(pool: Pool) -> None:
    pool.yield_slot("n00005/0", 1.0)
    everything(pool)


def one_is_away_and_comes_back(pool: Pool) -> None:
    session = pool.line.queue[0][2]
    pool.suspend(session, 1.0)
    everything(pool)
    pool.resume(session)
    everything(pool)


def where_the_last_one_stands(pool: Pool) -> None:
    session = f"w{len(pool.line) - 1}"
    pool.position(session)
    pool.eta(session, 2.0)


STEPS = [
    join_and_leave,
    a_slot_is_freed,
    one_leaves_the_front_of_the_line,
    a_node_is_lost_and_returns,
    a_reservation_runs_out,
    one_is_away_and_comes_back,
    where_the_last_one_stands,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("used", [1, 2], ids=["room", "full"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_the_cost_of_a_step(step: Callable[[Pool], None], used: int, kind: str) -> None:
    costs = []
    for size in (40, 1000):
        pool = crowd(nodes=size, waiting=10 * size if used == 2 else 3 * size, used=used, kind=kind)
        everything(pool)
        costs.append(calls(lambda pool=pool: step(pool)))  # type: ignore[misc]
    assert costs[1] <= costs[0] + 40, costs


def test_a_session_that_finds_a_free_slot_is_not_held_up_by_what_waiting_needs() -> None:
    """Most sessions never wait: what a join, its slot and its end cost is bounded, whatever else a pool can do."""
    pool = crowd(nodes=50, waiting=0)
    everything(pool)
    assert calls(lambda: (pool.join("new", patient=True), pool.settle(1.0), pool.settle(1.0))) <= 36
    assert calls(lambda: (pool.leave("new", 2.0), pool.settle(2.0))) <= 26


def test_a_line_of_ten_thousand_is_served_by_a_thousand_nodes() -> None:
    began = time.perf_counter()
    pool = crowd(nodes=1000, waiting=0, used=2)
    for n in range(10_000):
        pool.join(f"w{n}", patient=True)
        everything(pool)
    for n in range(1000):
        pool.leave(f"n{n:05}/0", 2.0)
        everything(pool)
    assert len(pool.line) == 9000
    assert pool.line.queue[0][2] == "w1000"
    assert time.perf_counter() - began < LONGEST
