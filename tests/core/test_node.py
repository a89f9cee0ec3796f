"""Every cell of the node's table, its deadlines, and the pause before a refused operation is tried again."""

import re
from itertools import pairwise

import pytest

from rtcbridge.core.errors import TransitionError
from rtcbridge.core.node import (
    COMING,
    NODE_TRANSITIONS,
    OPERATIONS,
    UP,
    Node,
    NodeEvent,
    NodeState,
    Order,
    duration,
)
from rtcbridge.core.spec import PoolSpec

SPEC = PoolSpec(
    name="p",
    slots=2,
    provision_timeout=1,
    start_timeout=2,
    boot_timeout=3,
    lost_timeout=4,
    drain_timeout=5,
    stop_timeout=6,
    stopped_timeout=7,
    failed_timeout=8,
    destroy_timeout=9,
)

CELLS = """
provisioning: accepted booting, refused failed, registered ready, undone provisioning, destroy terminating,
    timeout failed
booting: registered ready, interrupted terminating, halting failed, halted failed, vanished failed, stop stopping,
    destroy terminating, timeout failed
ready: registered ready, accepted ready, refused ready, silent lost, interrupted draining, halting draining,
    halted stopped, vanished gone, drain draining, stop stopping, destroy terminating
lost: registered ready, interrupted terminating, halting stopping, halted stopped, vanished gone, stop stopping,
    destroy terminating, timeout terminating
draining: registered draining, empty stopping, silent stopping, interrupted draining, halting draining,
    halted stopped, vanished gone, stop stopping, destroy terminating, timeout stopping
stopping: accepted stopped, refused stopping, halted stopped, vanished gone, destroy terminating, timeout terminating
stopped: start starting, runs booting, registered ready, vanished gone, destroy terminating, timeout terminating
starting: accepted booting, refused failed, registered ready, vanished failed, stop stopping, destroy terminating,
    timeout failed
failed: registered ready, destroy terminating, rested stopping, timeout terminating
terminating: accepted gone, refused terminating, vanished gone, timeout terminating
gone:
"""
EXPECTED = {
    (NodeState(state), NodeEvent(event)): NodeState(after)
    for state, cells in re.findall(r"(\w+):((?:[^:]*$)|(?:[^:]*(?=\n\w+:)))", CELLS)
    for event, after in re.findall(r"(\w+) (\w+)", cells)
}
DURATIONS = {
    NodeState.PROVISIONING: 1,
    NodeState.STARTING: 2,
    NodeState.BOOTING: 3,
    NodeState.LOST: 4,
    NodeState.DRAINING: 5,
    NodeState.STOPPING: 6,
    NodeState.STOPPED: 7,
    NodeState.FAILED: 8,
    NodeState.TERMINATING: 9,
}


def snapshot(node: Node) -> dict[str, object]:
    return {name: set(value) if isinstance(value, set) else value for name, value in vars(node).items()}


def test_the_table_has_these_cells_and_no_others() -> None:
    assert dict(NODE_TRANSITIONS) == EXPECTED


@pytest.mark.parametrize("event", NodeEvent, ids=lambda event: event.value)
@pytest.mark.parametrize("state", NodeState, ids=lambda state: state.value)
def test_every_cell(state: NodeState, event: NodeEvent) -> None:
    node = Node("n", SPEC, state, 10.0)
    before = snapshot(node)
    after = EXPECTED.get((state, event))
    if after is None:
        with pytest.raises(TransitionError, match=f"node n: {event.value} while {state.value}"):
            node.receive(event, 20.0)
        assert snapshot(node) == before
        return

    assert node.receive(event, 20.0) is (after is not state)

    assert node.state is after
    if after is not state:
        assert (node.since, node.deadline) == (20.0, 20.0 + DURATIONS.get(after, float("inf")))


@pytest.mark.parametrize("state", NodeState, ids=lambda state: state.value)
def test_durations(state: NodeState) -> None:
    assert duration(state, SPEC) == DURATIONS.get(state, float("inf"))


def test_every_state_with_a_deadline_says_what_happens_at_it() -> None:
    assert {state for state, event in EXPECTED if event is NodeEvent.TIMEOUT} == set(DURATIONS)
    assert set(NodeState) - set(DURATIONS) == {NodeState.READY, NodeState.GONE}


def test_stopped_nodes_may_be_kept_for_ever() -> None:
    assert duration(NodeState.STOPPED, PoolSpec(name="p", stopped_timeout=0)) == float("inf")


def test_the_provider_has_an_operation_in_each_state_that_its_word_ends() -> None:
    ended = {state for (state, event), after in EXPECTED.items() if event is NodeEvent.ACCEPTED and after is not state}
    assert ended == set(OPERATIONS)


@pytest.mark.parametrize("state", NodeState, ids=lambda state: state.value)
def test_from_every_state_a_silent_world_leads_out(state: NodeState) -> None:
    """With nothing but time, a node ends in a state that is not transient, or is to be destroyed, for ever again."""
    node = Node("n", SPEC, state, 0.0)
    for _ in range(10):
        if node.state in UP:
            node.receive(NodeEvent.SILENT, 0.0)
        elif node.state is not NodeState.GONE:
            node.receive(NodeEvent.TIMEOUT, 0.0)
    assert node.state in (NodeState.TERMINATING, NodeState.GONE)


@pytest.mark.parametrize(("state", "event"), [cell for cell in EXPECTED if cell[0] in UP | COMING | {NodeState.LOST}])
def test_a_node_that_no_provider_made_is_gone_where_others_are_stopped(state: NodeState, event: NodeEvent) -> None:
    node = Node("n", SPEC, state, 0.0, managed=False)
    node.receive(event, 1.0)
    after = EXPECTED[state, event]
    machine_only = (NodeState.STOPPING, NodeState.STOPPED, NodeState.TERMINATING)
    assert node.state is (NodeState.GONE if after in machine_only else after)


def test_a_refused_operation_is_tried_again_after_longer_and_longer_pauses() -> None:
    node = Node("n", SPEC, NodeState.STOPPING, 0.0)
    pauses = []
    for _ in range(2000):
        node.receive(NodeEvent.REFUSED, 100.0)
        pauses.append(node.retry_at - 100.0)
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(pauses[8:]) == {60}
    assert all(first <= second for first, second in pairwise(pauses))
    assert node.deadline == 6  # which the refusals do not put off


def test_a_destruction_begins_anew_at_its_deadline() -> None:
    node = Node("n", SPEC, NodeState.TERMINATING, 0.0)
    node.receive(NodeEvent.REFUSED, 1.0)
    assert node.receive(NodeEvent.TIMEOUT, 9.0) is False
    assert (node.deadline, node.retry_at) == (18.0, 9.0)


@pytest.mark.parametrize("state", NodeState, ids=lambda state: state.value)
def test_free_slots(state: NodeState) -> None:
    node = Node("n", SPEC, state, 0.0)
    assert node.free == (2 if state is NodeState.READY else 0)
    node.sessions.update({"a", "b", "c"})  # its capacity was lowered under them
    assert node.free == 0


def test_it_remembers_that_it_was_started() -> None:
    node = Node("n", SPEC, NodeState.STOPPED, 0.0)
    assert not node.started
    node.receive(NodeEvent.START, 1.0)
    assert node.started


def test_coming_up_clears_the_reason_and_starts_its_idle_time() -> None:
    node = Node("n", SPEC, NodeState.FAILED, 0.0)
    node.reason = "no answer in time"
    node.receive(NodeEvent.REGISTERED, 5.0)
    assert (node.reason, node.idle_since, node.heard) == ("", 5.0, 5.0)


# --- orders, and what the provider says ---


def test_a_node_that_is_stopped_by_somebody_stays_so_until_somebody_starts_it() -> None:
    node = Node("n", SPEC, NodeState.READY, 0.0)
    node.receive(NodeEvent.STOP, 1.0)
    node.receive(NodeEvent.ACCEPTED, 2.0)
    assert (node.state, node.order) == (NodeState.STOPPED, Order.STOP)
    node.receive(NodeEvent.START, 3.0)
    assert (node.state, node.order) == (NodeState.STARTING, Order.NONE)


def test_a_node_under_an_order_gives_no_slot_away() -> None:
    node = Node("n", SPEC, NodeState.READY, 0.0)
    node.order = Order.STOP
    assert node.free == 0


@pytest.mark.parametrize("before", [NodeState.READY, NodeState.DRAINING])
@pytest.mark.parametrize(("event", "order"), [(NodeEvent.INTERRUPTED, Order.DESTROY), (NodeEvent.HALTING, Order.NONE)])
def test_a_machine_that_will_be_gone_soon(before: NodeState, event: NodeEvent, order: Order) -> None:
    node = Node("n", SPEC, before, 0.0)
    node.sessions.add("s")
    node.receive(event, 1.0)
    assert (node.state, node.leaving, node.order, node.sessions) == (NodeState.DRAINING, True, order, {"s"})
    node.receive(NodeEvent.HALTED, 2.0)
    assert (node.state, node.leaving, node.order) == (NodeState.STOPPED, False, order)


def test_a_creation_that_did_not_come_about_may_be_asked_for() -> None:
    node = Node("n", SPEC, NodeState.PROVISIONING, 0.0)
    node.uncertain = True
    assert node.receive(NodeEvent.UNDONE, 0.5) is False
    assert (node.uncertain, node.deadline) == (False, 1.0)


REASONS = [
    (NodeState.PROVISIONING, NodeEvent.TIMEOUT, "provisioning took longer than 1 s"),
    (NodeState.STARTING, NodeEvent.TIMEOUT, "starting took longer than 2 s"),
    (NodeState.BOOTING, NodeEvent.TIMEOUT, "booting took longer than 3 s"),
    (NodeState.BOOTING, NodeEvent.HALTED, "its machine has stopped"),
    (NodeState.READY, NodeEvent.INTERRUPTED, "the provider takes its machine away"),
    (NodeState.STOPPED, NodeEvent.START, ""),
    (NodeState.FAILED, NodeEvent.TIMEOUT, "the reason before"),
]


@pytest.mark.parametrize(("state", "event", "reason"), REASONS, ids=str)
def test_why(state: NodeState, event: NodeEvent, reason: str) -> None:
    node = Node("n", SPEC, state, 0.0)
    node.reason = "the reason before"
    node.receive(event, 1.0)
    assert node.reason == reason
