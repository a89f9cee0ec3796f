"""What must hold of a `World`: after every step, at rest with all faults gone, and when nobody is left."""

from collections import Counter
from math import inf

from gateway.proof.world import World
from rtcbridge.core.breaker import BreakerState
from rtcbridge.core.node import NodeState, Order
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import State

IN_LINE = {State.ASKED, State.PENDING, State.FULL, State.CLAIMING, State.HELD, State.RETRYING, State.SUSPENDED}
HOLDING = {State.RESERVED, State.OFFERED, State.REOFFERED, State.ANSWERED, State.LIVE, State.DETACHED}


def check_now(world: World) -> None:
    """After every step, whatever went wrong so far."""
    complaints = world.complaints()
    assert not complaints, complaints
    check_places(world)
    check_slots(world)
    check_statuses(world)
    check_size(world)
    check_ledger(world)
    check_outlook(world)


def check_places(world: World) -> None:
    """A session is in line or holds a slot of the node that it names, never both, and each is somebody's."""
    pools = world.bridge.pools.values()
    states = {id: entry.session.state for id, entry in world.bridge.sessions.items()}
    waiting = {id for pool in pools for id in pool.line}
    holders = {id: node for pool in pools for id, node in pool.holders.items()}
    assert not waiting & set(holders)
    away = {id for id, state in states.items() if state is State.AWAY}  # either
    assert {id for id, state in states.items() if state in IN_LINE} == waiting - away
    assert {id for id, state in states.items() if state in HOLDING} == set(holders) - away
    assert away <= waiting | set(holders)
    assert set(states.values()) <= IN_LINE | HOLDING | {State.NEW, State.AWAY}
    for id, node in holders.items():
        assert id in node.sessions
        assert world.bridge.sessions[id].session.node == node.id
        assert world.bridge.nodes[node.id][1] is node
    assert sum(len(node.sessions) for pool in pools for node in pool.nodes.values()) == len(holders)
    for pool in pools:
        projects = Counter(world.bridge.sessions[id].project for id in pool.holders)
        most = max(projects.values(), default=0)
        assert most <= (pool.spec.max_per_project or most), f"a project is above its maximum: {projects}"


def servable(world: World, pool: Pool) -> list[str]:
    """Those in a pool's line that may be served, in order: nobody beyond his project's maximum or away for long."""
    sessions = world.bridge.sessions
    counts = Counter(sessions[id].project for id in pool.holders)
    found = []
    for session in pool.line:
        project = sessions[session].project
        if sessions[session].session.state is State.SUSPENDED:
            continue
        if not pool.spec.max_per_project or counts[project] < pool.spec.max_per_project:
            counts[project] += 1
            found.append(session)
    return found


def check_slots(world: World) -> None:
    """Never above a node's capacity, and nobody who may have a free slot waits beside it."""
    for pool, node in world.bridge.nodes.values():
        assert len(node.sessions) <= node.capacity
        if node.state is NodeState.READY and node.linked and node.free:
            for session in servable(world, pool):
                waiter = pool.line.waiters[session]
                assert waiter.exclude == node.id, f"{session} waits beside a free slot of {node.id}"


def check_statuses(world: World) -> None:
    """Whoever sent session_start was told the truth: of a slot, of a place within the supply, of one beyond it."""
    waiting, promised = set(), set()
    for pool in world.bridge.pools.values():
        waiting |= set(pool.line)
        for place, session in enumerate(servable(world, pool), start=1):
            if place <= pool.supply(pool.line.waiters[session].exclude):
                promised.add(session)
    for customer in world.customers:
        entry = world.bridge.sessions.get(customer.session)
        if entry is None or not customer.started:
            continue
        state = entry.session.state
        if customer.session in waiting:
            truth = "pending" if customer.session in promised else "full"
        else:
            assert state in HOLDING
            truth = "waiting"
        assert customer.told == truth, (state, customer.told, truth)


def check_size(world: World) -> None:
    """Nodes, their intents among them, and machines are never more than `max_nodes`.

    A machine that no node stands for counts here too, as what it costs is the same, unless the cloud has lied or
    done something long after it was asked: then it may bring one to light whose node has long been given up. Such
    a machine is swept, as a node that is TERMINATING from the beginning, and neither counts.
    """
    pool, cloud = world.pool, world.cloud
    nodes = {id for id, node in pool.nodes.items() if node.managed}
    counted = {id for id in nodes if pool.nodes[id].state is not NodeState.TERMINATING}
    assert len(counted) <= world.spec.max_nodes, f"{len(counted)} nodes, and machines {set(cloud.machines)}"
    if not cloud.bent:
        assert len(nodes | set(cloud.machines)) <= world.spec.max_nodes, (nodes, set(cloud.machines))


def check_ledger(world: World) -> None:
    """A session begins once on a node, on two at most, and ends once at most."""
    for session, starts in world.disk.starts.items():
        nodes = [node for node in starts if node]  # while it is tried again, it is on none
        assert len(nodes) == len(set(nodes)) <= 2, f"{session} began on {nodes}"
    assert all(times == 1 for times in world.disk.ends.values())


def check_outlook(world: World) -> None:
    """Whoever waits has a place of his own, and what he is told of the time is a time."""
    pool, now = world.pool, world.loop.time()
    standings = pool.waiting(now)
    assert [standing.session for standing in standings] == list(pool.line)
    assert all(standing.eta is None or 0 <= standing.eta < inf for standing in standings), standings
    places = [pool.position(session) for session in servable(world, pool)]
    assert places == list(range(1, len(places) + 1)), places
    for node in pool.nodes.values():
        assert node.refusals <= pool.spec.start_attempts, f"{node.id} was started too often"


def check_rest(world: World) -> None:
    """Faults have been gone for longer than any deadline: nothing is on its way, and everybody is served or full."""
    pool, cloud = world.pool, world.cloud
    states = {id: node.state for id, node in pool.nodes.items()}
    assert set(states.values()) <= {NodeState.READY, NodeState.STOPPED}, states
    assert set(cloud.machines) == {id for id, node in pool.nodes.items() if node.managed}
    for id, machine in cloud.machines.items():
        assert machine.running == (states[id] is NodeState.READY), f"{id} is {states[id]}, runs: {machine.running}"
    for node in pool.nodes.values():
        assert node.linked == (node.state is NodeState.READY)
        assert not node.busy
    assert {id: row.state for id, row in world.disk.nodes.items()} == {id: s.value for id, s in states.items()}
    waiting = servable(world, pool)
    if waiting:
        stopped = [node for node in pool.nodes.values() if node.state is NodeState.STOPPED]
        assert all(node.order is not Order.NONE for node in stopped), "somebody waits beside a stopped node"
        assert pool.breaker.state is BreakerState.CLOSED
        assert len(states) >= world.spec.max_nodes, "somebody waits, and a node could be made"
        assert sum(node.free for node in pool.nodes.values()) == 0
    told = {customer.told for customer in world.customers if customer.session in pool.line}
    assert told <= {"full"}, told
    _check_sessions(world)


def _check_sessions(world: World) -> None:
    """The bridge, its nodes and the ledger agree on who is served."""
    begun = {id: session.node for id, session in world.begun().items()}
    serving = {session: agent.node for agent in world.everyone() for session in agent.sessions}
    assert serving == begun
    assert {row.id: row.node for row in world.ledger.open_sessions()} == begun
    assert not world.ledger.pending


def check_silence(world: World) -> None:
    """Nobody has been there for longer than any deadline: what is left is what the pool is told to keep."""
    check_rest(world)
    pool, spec = world.pool, world.spec
    assert (world.bridge.sessions, list(pool.line), pool.holders) == ({}, [], {})
    states = Counter(node.state for node in pool.nodes.values())
    assert states[NodeState.STOPPED] <= spec.stopped_reserve
    own = sum(node.capacity for node in pool.nodes.values() if not node.managed)
    ready = sum(node.capacity for node in pool.nodes.values() if node.state is NodeState.READY)
    assert ready >= min(spec.min_ready, spec.slots * spec.max_nodes)
    assert ready - own < spec.min_ready + spec.slots
