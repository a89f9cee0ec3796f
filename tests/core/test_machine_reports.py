"""What a provider's list means: each state of a node against each word of the provider."""

import itertools

import pytest

from rtcbridge.core.machine import REPORTS, Machine, report
from rtcbridge.core.node import NODE_TRANSITIONS, OPERATIONS, UP, Node, NodeEvent, NodeState, Order
from rtcbridge.core.pool import Create, Pool, Step
from rtcbridge.core.spec import PoolSpec

SPEC = PoolSpec(name="p", slots=2)
S, E = NodeState, NodeEvent

# What becomes of a node: the columns are coming, running, leaving, stopping, stopped, and no machine. A dot: nothing.
TABLE = """
provisioning  booting     booting     booting      .         .        .
starting      booting     booting     booting      .         .        failed
booting       .           .           terminating  failed    failed   failed
ready         .           .           draining     draining  stopped  gone
lost          .           .           terminating  stopping  stopped  gone
draining      .           .           .            .         stopped  gone
stopping      .           .           .            .         stopped  gone
stopped       booting     booting     .            .         .        gone
failed        .           .           .            .         .        .
terminating   .           .           .            .         .        gone
"""
MACHINES = (*Machine, None)
CELLS = [
    (NodeState(line.split()[0]), machine, after)
    for line in TABLE.strip().splitlines()
    for machine, after in zip(MACHINES, line.split()[1:], strict=True)
]


def test_the_table_names_every_state_but_the_last() -> None:
    assert {(state, machine) for state, machine, _ in CELLS} == set(
        itertools.product(set(NodeState) - {NodeState.GONE}, MACHINES)
    )


@pytest.mark.parametrize(("state", "machine", "after"), CELLS, ids=lambda part: getattr(part, "value", part))
def test_every_pair(state: NodeState, machine: Machine | None, after: str) -> None:
    node = Node("n", SPEC, state, 0.0)
    node.busy = state is S.TERMINATING
    event = report(node, machine)
    if event is not None:
        node.receive(event, 1.0)
    assert node.state.value == (state.value if after == "." else after)


@pytest.mark.parametrize(("pair", "event"), REPORTS.items(), ids=str)
def test_every_event_is_allowed_where_it_is_told(pair: tuple[NodeState, Machine], event: NodeEvent) -> None:
    assert (pair[0], event) in NODE_TRANSITIONS


def test_no_word_of_a_provider_makes_a_node_ready() -> None:
    told = set(REPORTS.values()) | {E.ACCEPTED, E.REFUSED}
    made_ready = {
        (state, event) for (state, event), after in NODE_TRANSITIONS.items() if after is S.READY and state is not after
    }
    assert {event for _, event in made_ready} == {E.REGISTERED}
    assert E.REGISTERED not in told


@pytest.mark.parametrize("state", sorted(UP, key=lambda state: state.value), ids=lambda state: state.value)
@pytest.mark.parametrize("machine", [Machine.STOPPED, None])
def test_an_agent_that_speaks_is_believed_more_than_the_list(state: NodeState, machine: Machine | None) -> None:
    node = Node("n", SPEC, state, 0.0)
    node.linked = True
    assert report(node, machine) is None
    node.linked = False
    assert report(node, machine) is not None


@pytest.mark.parametrize(("state", "machine", "after"), CELLS, ids=lambda part: getattr(part, "value", part))
def test_while_an_operation_is_under_way_the_list_can_only_say_that_it_is_done(
    state: NodeState, machine: Machine | None, after: str
) -> None:
    if state not in OPERATIONS:
        return
    node = Node("n", SPEC, state, 0.0)
    node.busy = True
    event = report(node, machine)
    done = {S.PROVISIONING: "booting", S.STARTING: "booting", S.STOPPING: "stopped", S.TERMINATING: "gone"}
    assert (event is not None) == (after == done[state])


def test_a_machine_that_is_to_be_destroyed_is_not_taken_for_gone_before_the_provider_was_asked() -> None:
    node = Node("n", SPEC, S.TERMINATING, 0.0)
    assert report(node, None) is None
    node.receive(E.REFUSED, 1.0)
    assert report(node, None) is E.VANISHED


def test_it_settles() -> None:
    """However a node stood, the same word said again and again changes nothing after the second time."""
    for state, machine in itertools.product(set(NodeState) - {NodeState.GONE}, MACHINES):
        node = Node("n", SPEC, state, 0.0)
        seen = []
        for _ in range(4):
            if node.state is not S.GONE and (event := report(node, machine)):
                node.receive(event, 1.0)
            seen.append(node.state)
        assert seen[1] is seen[2] is seen[3], (state, machine, seen)


# --- interruptions and orders, in a pool ---


def pool(*nodes: Node, **spec: int | float) -> Pool:
    it = Pool(PoolSpec(name="p", **spec))  # type: ignore[arg-type]
    for node in nodes:
        it.add(node)
        node.linked = node.state in UP
    return it


def node(id: str, state: NodeState = S.READY, slots: int = 1) -> Node:
    made = Node(id, PoolSpec(name="p", slots=slots), state, 0.0)
    made.capacity = slots
    return made


def serve(it: Pool, *sessions: str) -> None:
    for session in sessions:
        it.join(session, patient=True)
    it.settle(0)


def test_an_interrupted_node_is_replaced_at_once_and_destroyed_when_it_is_empty() -> None:
    it = pool(node("a", slots=2), max_nodes=3)
    serve(it, "s", "t")
    assert it.plan(1) == []
    it.observe("a", E.INTERRUPTED, 1)
    assert it.nodes["a"].sessions == {"s", "t"}
    assert it.plan(1) == [Create(), Create()], "its sessions will soon need slots"
    for number in range(2):
        it.add(node(f"b{number}", S.BOOTING))
        it.observe(f"b{number}", E.REGISTERED, 2)
        it.nodes[f"b{number}"].linked = True
    assert it.plan(2) == [], "the slots that are ready for them are not idle"
    it.leave("s", 3)
    it.leave("t", 3)
    assert it.plan(3) == [Step("a", E.DESTROY)]


def test_a_node_that_waits_for_nothing_is_destroyed_at_once() -> None:
    it = pool(node("a"), max_nodes=1)
    it.observe("a", E.INTERRUPTED, 1)
    assert it.plan(1) == [Step("a", E.DESTROY)]
    it.observe("a", E.DESTROY, 1)
    assert [name for _, name in it.operations(1)] == ["destroy"]


@pytest.mark.parametrize(
    ("event", "state"), [(E.HALTED, S.STOPPED), (E.SILENT, S.STOPPING), (E.TIMEOUT, S.STOPPING), (E.EMPTY, S.STOPPING)]
)
def test_an_interrupted_node_is_destroyed_however_it_ends(event: NodeEvent, state: NodeState) -> None:
    it = pool(node("a"), max_nodes=1)
    serve(it, "s")
    it.observe("a", E.INTERRUPTED, 1)
    it.observe("a", event, 2)
    assert it.nodes["a"].state is state
    assert Step("a", E.DESTROY) in it.plan(2)


def test_a_machine_that_is_being_stopped_by_the_cloud_is_replaced_and_kept() -> None:
    it = pool(node("a"), max_nodes=3)
    serve(it, "s")
    it.observe("a", E.HALTING, 1)
    assert it.plan(1) == [Create()]
    it.observe("a", E.HALTED, 2)
    assert it.nodes["a"].state is S.STOPPED
    assert it.supply() == 3


def test_a_node_that_was_stopped_on_request_is_not_counted_on_and_not_started() -> None:
    it = pool(node("a", S.STOPPED), max_nodes=1)
    it.nodes["a"].order = Order.STOP
    serve(it, "s")
    assert (it.supply(), it.plan(1)) == (0, [])
    it.observe("a", E.START, 2)
    assert it.supply() == 1


def test_nor_does_it_count_for_the_reserve() -> None:
    it = pool(node("a", S.STOPPED), node("b", S.STOPPED), max_nodes=2, stopped_timeout=60, stopped_reserve=1)
    it.nodes["a"].order = Order.STOP
    for each in it.nodes.values():
        each.deadline = 60
        it.add(each)
    assert it.expire(60, 15) == ["a"]


@pytest.mark.parametrize(
    ("state", "order", "event"),
    [
        (S.READY, Order.STOP, E.DRAIN),
        (S.READY, Order.DESTROY, E.DRAIN),
        (S.BOOTING, Order.STOP, E.STOP),
        (S.BOOTING, Order.DESTROY, E.DESTROY),
        (S.STOPPED, Order.DESTROY, E.DESTROY),
        (S.STOPPING, Order.DESTROY, E.DESTROY),
        (S.DRAINING, Order.STOP, E.EMPTY),
        (S.DRAINING, Order.DESTROY, E.DESTROY),
    ],
    ids=str,
)
def test_an_order_is_carried_out_whatever_has_come_between(state: NodeState, order: Order, event: NodeEvent) -> None:
    it = pool(node("a", state), max_nodes=1)
    it.nodes["a"].order = order
    serve(it, "s")
    assert it.holders == {}, "no slot of it is given away"
    assert it.plan(1) == [Step("a", event)]
    it.observe("a", event, 1)
    assert len(it.plan(1)) <= 1


def test_a_node_that_somebody_drained_is_stopped_and_one_beyond_the_need_as_well() -> None:
    it = pool(node("a"), node("b"), max_nodes=2, idle_timeout=1)
    it.nodes["a"].order = Order.STOP
    it.observe("a", E.DRAIN, 1)
    assert it.plan(2) == [Step("a", E.EMPTY), Step("b", E.DRAIN)]
