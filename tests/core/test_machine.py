"""Clients, nodes, a provider and time, in any order, against the rules of protocol part 2.

The rules are checked by what each side was sent and by an oracle that derives places and statuses afresh.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.tiny import Limits, Peer, TinyBridge
from rtcbridge.core.line import Line, Waiter
from rtcbridge.core.node import COMING, Node, NodeEvent, NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import PoolSpec, SessionSpec

MACHINE = settings(
    max_examples=160,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

IN_LINE = {State.ASKED, State.PENDING, State.FULL, State.CLAIMING, State.HELD, State.RETRYING}
HOLDING = {State.RESERVED, State.OFFERED, State.REOFFERED, State.ANSWERED, State.LIVE, State.DETACHED}
AWAITED = COMING | {NodeState.STOPPING, NodeState.STOPPED, NodeState.LOST}
SPEC = SessionSpec(
    claim_timeout=3, answer_timeout=2, connect_timeout=4, resume_grace=6, max_session=12, max_candidates=4
)
LIMITS = Limits(heartbeat=1, missed=5, message_burst=10**9, auth_timeout=10**9)
OFFER = {"type": "offer", "sdp": "o"}
CANDIDATE = {"type": "candidate", "candidate": {"candidate": "c"}}

_pools = st.builds(
    PoolSpec,
    name=st.just("p"),
    elastic=st.sampled_from([True, True, True, False]),
    slots=st.integers(1, 2),
    min_ready=st.integers(0, 1),
    beta=st.sampled_from([0.0, 1.0]),
    hold_beta=st.sampled_from([0.0, 1.0]),
    demand_window=st.sampled_from([0.0, 10.0]),
    start_attempts=st.integers(1, 3),
    stopped_reserve=st.integers(0, 1),
    max_nodes=st.integers(0, 3),
    idle_timeout=st.just(5.0),
    stopped_timeout=st.just(60.0),
    provision_timeout=st.just(8.0),
    start_timeout=st.just(8.0),
    boot_timeout=st.just(8.0),
    lost_timeout=st.just(6.0),
    drain_timeout=st.just(20.0),
    stop_timeout=st.just(9.0),
    destroy_timeout=st.just(9.0),
    failed_timeout=st.just(7.0),
)
_index = st.integers(0, 99)


_HAS_MACHINE = (NodeState.BOOTING, NodeState.READY, NodeState.LOST, NodeState.DRAINING)
_T = TypeVar("_T")


def _pick(there: Sequence[_T], index: int) -> _T:
    return there[index % len(there)]


class Client:
    """A client's end: what it was told."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.session: Session | None = None
        self.started = False  # it has sent session_start in this session
        self.status = ""  # the last node_status of this session
        self.answered = False


class Bridge(RuleBasedStateMachine):
    """One pool, up to five clients, nodes of its own and nodes that a provider makes."""

    @initialize(spec=_pools, eager=st.sampled_from([True, True, False]))
    def begin(self, spec: PoolSpec, eager: bool) -> None:
        self.bridge = TinyBridge([spec], {"key": "p"}, {"nk": "p"}, SPEC, LIMITS, eager)
        self.bridge.on_pool = self.on_pool
        self.clients: list[Client] = []
        self.live: dict[str, set[str]] = {}  # what each node believes to serve
        self.offered: dict[str, set[str]] = {}  # what each node was ever offered
        self.order: list[str] = []  # the line, as it should be
        self.excluded: dict[str, str] = {}
        self.settle()

    @property
    def pool(self) -> Pool:
        return self.bridge.pools["p"]

    # --- the line, told by the steps alone ---

    def on_pool(self, what: str, session: str, node: str) -> None:
        """Keep the line as protocol part 2 says; a grant must go to the first who may have that node."""
        if what in ("front", "back"):
            assert session not in self.order
            self.order.insert(0 if what == "front" else len(self.order), session)
            self.excluded[session] = node
        elif what == "yield" and self.order:
            self.order.append(session)
            self.excluded[session] = ""
        elif what == "leave" and session in self.order:
            self.order.remove(session)
        elif what == "granted" and session in self.order:  # else a reservation was renewed
            before = self.order[: self.order.index(session)]
            assert all(self.excluded[one] == node for one in before), (before, session, node)
            assert self.excluded[session] != node
            self.order.remove(session)

    # --- clients ---

    def there(self) -> list[Client]:
        return [one for one in self.clients if one.peer.open]

    @precondition(lambda self: len(self.there()) < 5)
    @rule()
    def client_comes(self) -> None:
        peer = self.bridge.connect(is_node=False)
        self.bridge.send(peer, {"type": "CREDENTIAL", "payload": {"credential": "key"}})
        assert peer.take() == [{"type": "auth_success"}]
        self.clients.append(Client(peer))

    @precondition(lambda self: self.there())
    @rule(index=_index)
    def session_start(self, index: int) -> None:
        client = _pick(self.there(), index)
        self.hear(client)
        client.started, client.status = True, ""  # it is to be answered, also with what it knows
        self.bridge.send(client.peer, {"type": "session_start"})
        self.rest()

    @precondition(lambda self: self.there())
    @rule(index=_index, candidates=st.integers(0, 6))
    def offer(self, index: int, candidates: int) -> None:
        client = _pick(self.there(), index)
        self.bridge.send(client.peer, OFFER)
        for _ in range(candidates):
            self.bridge.send(client.peer, CANDIDATE)
        self.rest()

    @precondition(lambda self: self.there())
    @rule(index=_index)
    def candidate(self, index: int) -> None:
        self.bridge.send(_pick(self.there(), index).peer, CANDIDATE)
        self.rest()

    @precondition(lambda self: self.there())
    @rule(index=_index, goodbye=st.booleans())
    def client_goes(self, index: int, goodbye: bool) -> None:
        self.bridge.quit(_pick(self.there(), index).peer, goodbye)
        self.rest()

    # --- nodes ---

    def made(self, *states: NodeState) -> list[Node]:
        return [node for node in self.bridge.nodes.values() if node.managed and node.state in states]

    def serving(self, late: bool = False) -> list[tuple[str, str]]:
        """The sessions that nodes with a socket serve, or that they ever did."""
        known = self.offered if late else self.live
        return [(id, session) for id in self.bridge.sockets for session in sorted(known.get(id, ()))]

    def register(self, id: str, token: str, keep: int) -> None:
        live = self.live.setdefault(id, set())
        listed = [session for n, session in enumerate(sorted(live)) if keep >> n & 1]
        payload = {"credential": token, "node": id, "pool": "p", "sessions": listed}
        peer = self.bridge.connect(is_node=True)
        self.bridge.send(peer, {"type": "REGISTER", "payload": payload})
        if peer.open:
            live.intersection_update(listed)
        self.rest()

    @rule(which=st.sampled_from(["own1", "own2"]), keep=st.integers(0, 7))
    def own_node_registers(self, which: str, keep: int) -> None:
        self.register(which, "nk", keep)

    @precondition(lambda self: self.made(*NodeState))
    @rule(index=_index, keep=st.integers(0, 7))
    def made_node_registers(self, index: int, keep: int) -> None:
        node = _pick(self.made(*NodeState), index)
        self.register(node.id, f"token-{node.id}", keep)

    @precondition(lambda self: self.bridge.sockets)
    @rule(index=_index)
    def node_drops(self, index: int) -> None:
        self.bridge.quit(_pick(list(self.bridge.sockets.values()), index), goodbye=False)
        self.rest()

    @precondition(lambda self: self.serving(late=True))
    @rule(
        index=_index, late=st.booleans(), what=st.sampled_from(["answer", "candidate", "error", "connected", "closed"])
    )
    def node_speaks(self, index: int, late: bool, what: str) -> None:
        id, session = _pick(self.serving(late) or self.serving(late=True), index)
        self.speak(id, session, what)
        self.rest()

    def speak(self, id: str, session: str, what: str) -> None:
        message: dict[str, Any] = {"type": what, "session": session}
        if what == "answer":
            message["sdp"] = "a"
        elif what == "candidate":
            message["candidate"] = {"candidate": "nc"}
        elif what == "error":
            message["message"] = "no"
        else:
            message |= {"type": "session_state", "state": what}
        if what in ("error", "closed"):
            self.live[id].discard(session)
        self.bridge.send(self.bridge.sockets[id], message)

    @precondition(lambda self: self.serving())
    @rule(connected=st.booleans())
    def nodes_answer(self, connected: bool) -> None:
        for id, session in self.serving():
            self.speak(id, session, "answer")
            if connected:
                self.speak(id, session, "connected")
        self.rest()

    @precondition(lambda self: self.bridge.sockets)
    @rule(quiet=st.booleans())
    def nodes_beat(self, quiet: bool) -> None:
        for id, peer in self.bridge.sockets.items():
            connected = [] if quiet else sorted(self.live.get(id, ()))
            self.bridge.send(peer, {"type": "heartbeat", "connected": connected})
        self.rest()

    @precondition(lambda self: any(node.state is NodeState.READY for node in self.bridge.nodes.values()))
    @rule(index=_index)
    def node_is_drained(self, index: int) -> None:
        ready = [node for node in self.bridge.nodes.values() if node.state is NodeState.READY]
        self.bridge.tell(_pick(ready, index), NodeEvent.DRAIN)
        self.bridge.settle_if_eager()
        self.rest()

    # --- the provider ---

    @precondition(lambda self: self.bridge.operations)
    @rule(index=_index, accepted=st.sampled_from([True, True, False]))
    def provider_answers(self, index: int, accepted: bool) -> None:
        self.bridge.answer(_pick(self.bridge.operations, index), accepted)
        self.rest()

    @precondition(lambda self: self.bridge.operations)
    @rule()
    def provider_obeys(self) -> None:
        """It does all that it was asked for, and its machines come up."""
        for operation in list(self.bridge.operations):
            self.bridge.answer(operation, accepted=True)
            if operation.name in ("create", "start"):
                self.live[operation.node.id] = set()
                self.register(operation.node.id, f"token-{operation.node.id}", 0)
        self.rest()

    @precondition(lambda self: self.made(*_HAS_MACHINE))
    @rule(index=_index, event=st.sampled_from([NodeEvent.HALTED, NodeEvent.VANISHED]))
    def machine_is_down(self, index: int, event: NodeEvent) -> None:
        self.bridge.tell(_pick(self.made(*_HAS_MACHINE), index), event)
        self.bridge.settle_if_eager()
        self.rest()

    # --- time ---

    @rule(seconds=st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0]), beating=st.sampled_from([True, True, False]))
    def time_passes(self, seconds: float, beating: bool) -> None:
        for _ in range(int(seconds * 2)):
            if beating:
                for id, peer in self.bridge.sockets.items():
                    beat = {"type": "heartbeat", "connected": sorted(self.live.get(id, ()))}
                    self.bridge.send(peer, beat)
            self.bridge.advance(0.5)
            self.rest()

    @rule()
    def settle(self) -> None:
        self.bridge.settle()
        self.rest(settled=True)

    # --- what must hold ---

    def rest(self, settled: bool = False) -> None:
        """Read what was sent; the bridge is at rest unless it settles later."""
        for id, peer in self.bridge.sockets.items():
            self.read_node(id, peer)
        for client in self.clients:
            self.hear(client)
        if settled or self.bridge.eager:
            self.check()

    def read_node(self, id: str, peer: Peer) -> None:
        live, offered = self.live.setdefault(id, set()), self.offered.setdefault(id, set())
        node = self.bridge.nodes[id]
        for message in peer.take():
            session = message.get("session")
            match message["type"]:
                case "offer":
                    live.add(session)
                    offered.add(session)
                    assert len(live) <= node.capacity, "more live sessions than slots"
                case "candidate":
                    assert session in offered, "a candidate overtook its offer"
                case "session_end":
                    assert session in offered, "the end of a session that was never offered"
                    live.discard(session)
                case kind:
                    assert kind in ("registered", "drain")

    def hear(self, client: Client) -> None:
        for frame in list(client.peer.got):
            message = json.loads(frame)
            match message["type"]:
                case "node_status":
                    assert client.started, "a status that was not asked for"
                    assert message["status"] != client.status, "the same status again"
                    client.status = message["status"]
                case "answer":
                    client.answered = True
                case "candidate":
                    assert client.answered, "a candidate overtook its answer"
                case "error" if message["message"] == "The node was lost.":
                    client.started, client.status, client.answered = True, "", False
        client.peer.got.clear()
        self.follow(client)

    def follow(self, client: Client) -> None:
        """Notice that a client's session is another one, or has ended."""
        session = client.peer.session
        if session is client.session and not (session and session.state is State.ENDED):
            return
        rejoined = session is not None and session._dropping and client.started
        if session is None or session.state is State.ENDED:
            client.started = False
        elif client.session is not None and not rejoined:
            client.started = client.started and session._started
        client.session, client.answered = session, session is not None and session.relaying

    def check(self) -> None:
        self.check_places()
        self.check_slots()
        self.check_statuses()
        self.check_plan()

    def check_places(self) -> None:
        """A session is in line, or holds a slot, or neither; and the line is in order."""
        pool = self.pool
        assert list(pool.line) == self.order
        assert not set(pool.line) & set(pool.holders)
        states = {id: session.state for id, (session, *_) in self.bridge.sessions.items()}
        assert {id for id, state in states.items() if state in IN_LINE} == set(pool.line)
        assert {id for id, state in states.items() if state in HOLDING} == set(pool.holders)
        assert set(states.values()) <= IN_LINE | HOLDING | {State.NEW}
        for id, node in pool.holders.items():
            assert id in node.sessions
            assert self.bridge.sessions[id][0].node == node.id
        assert sum(len(node.sessions) for node in pool.nodes.values()) == len(pool.holders)

    def check_slots(self) -> None:
        """Never over capacity, no waiter beside a free slot, no more nodes than allowed."""
        pool = self.pool
        for node in pool.nodes.values():
            assert len(node.sessions) <= node.capacity
            if node.state is NodeState.READY and node.linked and node.free:
                assert all(self.excluded[session] == node.id for session in self.order)
        made = sum(node.managed for node in pool.nodes.values())
        assert made <= (pool.spec.max_nodes if pool.spec.elastic else 0)

    def supply(self, exclude: str) -> int:
        """The slots that a place in line is compared with, by the words of protocol part 2."""
        pool = self.pool
        if not pool.spec.elastic:
            return 0
        nodes = [node for node in pool.nodes.values() if node.id != exclude]
        coming = sum(node.capacity for node in nodes if node.state in AWAITED)
        dropped = sum(node.free for node in nodes if node.state is NodeState.READY and not node.linked)
        return coming + dropped + pool.spec.slots * max(0, pool.spec.max_nodes - len(pool.nodes))

    def check_statuses(self) -> None:
        for client in self.clients:
            session = client.peer.session
            if not client.peer.open or session is None or not client.started:
                continue
            if session.id in self.order:
                place = self.order.index(session.id) + 1
                truth = "pending" if place <= self.supply(self.excluded[session.id]) else "full"
            elif session.state in HOLDING:
                truth = "waiting"
            else:
                continue
            assert client.status == truth, (session.state, client.status, truth)

    def check_plan(self) -> None:
        """Nothing is left to be planned, and starting or creating is triggered for those within the supply."""
        pool = self.pool
        assert pool.plan(self.bridge.now) == []
        if not any(not self.excluded[one] for one in self.order) or not pool.spec.elastic:
            return
        nodes = list(pool.nodes.values())
        if len(nodes) < pool.spec.max_nodes or any(node.state is NodeState.STOPPED for node in nodes):
            on_their_way = [node for node in nodes if node.state in AWAITED - {NodeState.STOPPED}]
            dropped = [node for node in nodes if node.state is NodeState.READY and not node.linked]
            assert on_their_way or dropped

    def teardown(self) -> None:
        """When everybody falls silent, every state that is not meant to last ends."""
        if not getattr(self, "bridge", None):
            return
        self.settle()
        self.bridge.advance(500)
        self.settle()
        states = {session.state for session, *_ in self.bridge.sessions.values()}
        assert states <= {State.NEW, State.FULL}
        left = Counter(node.state for node in self.pool.nodes.values())
        assert left.pop(NodeState.STOPPED, 0) <= self.pool.spec.stopped_reserve
        assert set(left) <= {NodeState.TERMINATING}
        for client in list(self.clients):
            self.bridge.quit(client.peer)
        self.settle()
        assert (self.bridge.sessions, list(self.pool.line), self.pool.holders) == ({}, [], {})
        self.provide()

    def provide(self) -> None:
        """A provider that obeys brings the pool to what it should be, and nothing goes on by itself."""
        bridge, spec = self.bridge, self.pool.spec
        for _ in range(50):
            self.provider_obeys()
            for peer in bridge.sockets.values():
                bridge.send(peer, {"type": "heartbeat"})
            bridge.advance(3)
            self.settle()
        ready = sum(node.capacity for node in self.pool.nodes.values() if node.state is NodeState.READY)
        allowed = spec.slots * spec.max_nodes if spec.elastic else 0
        assert ready >= min(spec.min_ready, allowed)
        assert ready < spec.min_ready + spec.slots
        assert {node.state for node in self.pool.nodes.values()} <= {NodeState.READY, NodeState.STOPPED}


TestBridge = Bridge.TestCase
TestBridge.settings = MACHINE


def _pop_last(line: Line) -> tuple[str, Waiter]:
    session = line.queue.pop()[2]
    line._untold.pop(session, None)
    return session, line.waiters.pop(session)


@pytest.mark.parametrize("slots", [1, 2])
def test_the_machine_notices_a_broken_pool(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above can fail: a pool that serves the last first is caught."""
    spec = PoolSpec(name="p", max_nodes=0, slots=slots)
    machine = Bridge()
    machine.begin(spec=spec, eager=True)
    machine.own_node_registers(which="own1", keep=0)
    monkeypatch.setattr("rtcbridge.core.line.Line.pop_first", _pop_last)
    machine.bridge.eager = False
    for index in range(slots + 1):
        machine.client_comes()
        machine.session_start(index=index)
    with pytest.raises(AssertionError):
        machine.settle()
