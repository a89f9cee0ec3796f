"""The line and the tally against the plainest way to say the same: after any steps, both must agree."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rtcbridge.core.errors import TransitionError
from rtcbridge.core.line import Line, Waiter
from rtcbridge.core.messages import Status
from rtcbridge.core.node import COMING, OPERATIONS, UP, Node, NodeEvent, NodeState, Order
from rtcbridge.core.pool import Pool
from rtcbridge.core.spec import PoolSpec
from rtcbridge.core.tally import ordered_step

BOUNDED = settings(max_examples=120, deadline=None, derandomize=True)
NAMES = "abcdefgh"

_line_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "push", "pop"]), st.sampled_from(NAMES)),
        st.tuples(st.just("pop_first"), st.just("")),
        st.tuples(st.just("divide"), st.integers(0, 9)),
    ),
    max_size=60,
)


@given(_line_steps)
@BOUNDED
def test_the_line_is_a_list_with_a_mark_in_it(steps: list[tuple[str, str | int]]) -> None:
    line, plain, told = Line(), list[str](), dict[str, Status]()
    for step, what in steps:
        match step, what:
            case "append" | "push", str(name) if name not in plain:
                getattr(line, step)(name, Waiter(patient=True, exclude="n" if name < "c" else ""))
                plain.insert(0 if step == "push" else len(plain), name)
            case "pop", str(name):
                assert (line.pop(name) is not None) == (name in plain)
                plain = [one for one in plain if one != name]
                told.pop(name, None)
            case "pop_first", _ if plain:
                first = line.pop_first()
                assert first is not None
                assert first[0] == plain[0]
                told.pop(plain.pop(0), None)
            case "divide", int(supply):
                for session, waiter, status in line.divide(supply):
                    assert waiter is line.get(session)
                    waiter.status = told[session] = status
                assert told == {
                    one: Status.PENDING if place < supply else Status.FULL for place, one in enumerate(plain)
                }
        assert list(line) == plain
        assert (len(line), bool(line)) == (len(plain), bool(plain))
        assert all(name in line for name in plain)
        assert [line.place(line.waiters[name]) for name in plain] == list(range(1, len(plain) + 1))
        assert [name for name, _ in line.places()] == [name for name in plain if name < "c"]


SPEC = PoolSpec(
    name="p",
    slots=2,
    max_nodes=8,
    idle_timeout=7,
    provision_timeout=5,
    start_timeout=6,
    boot_timeout=9,
    lost_timeout=11,
    drain_timeout=13,
    stop_timeout=8,
    stopped_timeout=40,
    failed_timeout=10,
    destroy_timeout=12,
)
SILENCE = 4.0

_ids = st.sampled_from(["n1", "n2", "n3"])
_pool_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _ids, st.sampled_from(list(NodeState))),
        st.tuples(st.just("observe"), _ids, st.sampled_from(list(NodeEvent))),
        st.tuples(st.just("linked"), _ids, st.booleans()),
        st.tuples(st.just("busy"), _ids, st.booleans()),
        st.tuples(st.just("capacity"), _ids, st.integers(1, 3)),
        st.tuples(st.just("order"), _ids, st.sampled_from(list(Order))),
        st.tuples(st.just("heard"), _ids, st.none()),
        st.tuples(st.just("join"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("leave"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("pass"), st.integers(1, 90).map(lambda tenths: tenths / 10), st.none()),
        st.tuples(st.just("expire"), st.none(), st.none()),
    ),
    max_size=50,
)


@given(_pool_steps)
@BOUNDED
def test_what_the_pool_keeps_in_sum_is_the_sum(steps: list[tuple[str, Any, Any]]) -> None:
    pool, now = Pool(SPEC), 0.0
    for step, who, what in steps:
        if step == "pass":
            now += who
        elif step == "expire":
            _check_expire(pool, now)
        elif step in ("join", "leave"):
            pool.join(who, patient=True) if step == "join" else pool.leave(who, now)
        else:
            _change(pool, now, step, who, what)
        pool.settle(now)
        _check_sums(pool, now)


def _change(pool: Pool, now: float, step: str, id: str, what: Any) -> None:
    """Something happens to a node, if it is there."""
    node = pool.nodes.get(id)
    if step == "add":
        if node is None and what is not NodeState.GONE:
            pool.add(Node(id, SPEC, what, now, managed=id != "n3" or what not in OPERATIONS))
    elif node is None:
        return
    elif step == "observe":
        with suppress(TransitionError):
            pool.observe(id, what, now)
    else:
        setattr(node, step, now if step == "heard" else what)


def _check_sums(pool: Pool, now: float) -> None:
    tally, nodes = pool._tally, list(pool.nodes.values())
    dormant = {NodeState.STOPPING, NodeState.STOPPED}
    awaited = COMING | dormant | {NodeState.LOST}
    kept = [node for node in nodes if node.order is Order.NONE]
    up = [node for node in kept if node.state is NodeState.READY or node.state in COMING]
    ready = [node for node in kept if node.state is NodeState.READY]
    served = [node for node in nodes if node.state is NodeState.READY or node.state in COMING or node.leaving]
    assert tally.supply == sum(node.capacity for node in kept if node.state in awaited) + sum(
        node.free for node in ready if not node.linked
    )
    assert tally.dormant == sum(node.capacity for node in kept if node.state in dormant)
    assert tally.capacity == sum(node.capacity for node in up)
    assert tally.sessions == sum(len(node.sessions) for node in served)
    assert tally.stopping == sum(node.capacity for node in kept if node.state is NodeState.STOPPING)
    assert tally.open == sorted((-len(node.sessions), node.id) for node in ready if node.linked and node.free)
    assert tally.idle == sorted(
        (node.idle_since, node.id) for node in ready if node.linked and node.managed and not node.sessions
    )
    assert set(tally.stopped) == {node.id for node in kept if node.state is NodeState.STOPPED}
    emptied = [node for node in nodes if node.state is NodeState.DRAINING and not node.sessions]
    assert set(tally.emptied) == {node.id for node in emptied if node.order is not Order.DESTROY}
    assert set(tally.ordered) == {node.id for node in nodes if ordered_step(node)}
    assert set(tally.acting) == {node.id for node in nodes if node.state in OPERATIONS}
    assert pool.next_due(now, SILENCE) == _due(pool, now)


def _ends(node: Node) -> float:
    return min(node.deadline, node.heard + SILENCE) if node.state in UP else node.deadline


def _due(pool: Pool, now: float) -> float:
    """When something is due, by looking at every node."""
    due = [_ends(node) for node in pool.nodes.values()]
    due += [
        node.retry_at
        for node in pool.nodes.values()
        if node.managed and node.state in OPERATIONS and not node.busy and node.retry_at > now
    ]
    due += [stop for since, _ in pool._tally.idle if (stop := since + SPEC.idle_timeout) > now]
    return min([*due, pool.breaker.until])


def _check_expire(pool: Pool, now: float) -> None:
    states = {node.id: node.state for node in pool.nodes.values() if _ends(node) <= now}
    changed = pool.expire(now, SILENCE)
    after = {id: pool.nodes[id].state if id in pool.nodes else NodeState.GONE for id in states}
    assert set(changed) == {id for id, state in states.items() if after[id] is not state}
    assert {id for id, state in states.items() if after[id] is state} <= {
        id for id, state in states.items() if state is NodeState.TERMINATING
    }
