"""The whole life of nodes and sessions under the real bridge and reconciler, with a fault possible at every step.

The fakes are those of `gateway.proof`: a cloud that lies, a disk that fails, nodes and clients at the level of
messages, and a clock that is moved by hand. `PROVE=examples[,steps]` in the environment makes it as long as that.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from gateway.proof.checks import check_now, check_rest, check_silence
from gateway.proof.cloud import Agent, Outcome
from gateway.proof.mutants import mutate
from gateway.proof.world import SEEN, Customer, World
from rtcbridge import config
from rtcbridge.core.breaker import Breaker
from rtcbridge.core.machine import REPORTS
from rtcbridge.core.node import NODE_TRANSITIONS, NodeEvent
from rtcbridge.core.pool import Pool, Step
from rtcbridge.gateway import reconciler
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.reconciler import Reconciler
from rtcbridge.ports import Machine

_EXAMPLES, _STEPS = [int(number) for number in [*os.environ.get("PROVE", "300").split(","), "50"][:2]]
_FEW = 20  # examples, in the fast tests
MACHINE = settings(
    max_examples=_EXAMPLES,
    stateful_step_count=_STEPS,
    deadline=None,
    derandomize="PROVE" not in os.environ,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
_index = st.integers(0, 99)
_T = TypeVar("_T")

_pools = st.builds(
    config.Pool,
    name=st.just("p"),
    provider=st.just("command"),
    slots=st.integers(1, 2),
    min_ready=st.integers(0, 1),
    beta=st.sampled_from([0.0, 1.0]),
    hold_beta=st.sampled_from([0.0, 2.0]),
    demand_window=st.sampled_from([0.0, 10.0]),
    max_per_project=st.sampled_from([0, 0, 1]),
    start_attempts=st.integers(1, 3),
    stopped_reserve=st.integers(0, 1),
    max_nodes=st.integers(1, 3),
    idle_timeout=st.just(5.0),
    stopped_timeout=st.just(30.0),
    provision_timeout=st.just(8.0),
    start_timeout=st.just(8.0),
    boot_timeout=st.just(8.0),
    lost_timeout=st.just(6.0),
    drain_timeout=st.just(20.0),
    stop_timeout=st.just(9.0),
    destroy_timeout=st.just(9.0),
    failed_timeout=st.just(7.0),
    breaker_failures=st.sampled_from([0, 1, 3]),
    breaker_pause=st.just(5.0),
    breaker_max_pause=st.just(20.0),
)
_sessions = st.builds(
    config.Sessions,
    claim_timeout=st.just(3.0),
    answer_timeout=st.just(2.0),
    connect_timeout=st.just(4.0),
    resume_grace=st.just(6.0),
    max_session=st.sampled_from([0.0, 25.0]),
    max_candidates=st.just(4),
)


def _pick(there: Sequence[_T], index: int) -> _T:
    return there[index % len(there)]


class Life(RuleBasedStateMachine):
    """One elastic pool, up to four clients, a fake cloud."""

    world: World

    @initialize(
        pool=_pools,
        sessions=_sessions,
        stopped=st.integers(0, 2),
        clients=st.integers(0, 3),
        served=st.booleans(),
        outage=st.booleans(),
    )
    def begin(
        self, pool: config.Pool, sessions: config.Sessions, stopped: int, clients: int, served: bool, outage: bool
    ) -> None:
        """Clients are there already, and perhaps served; the cloud may fail at once."""
        nodes = config.Nodes(heartbeat=1.0, missed=3)
        whole = config.Config(sessions=sessions, nodes=nodes, pools=(pool,))
        self.world = World(whole, min(stopped, pool.max_nodes))
        self.world.cloud.outage = outage
        self.wave(clients)
        if served:
            self.all_goes_well(1.0)

    def look(self) -> None:
        """Let all that can happen now happen, and see whether it may."""
        self.world.turn()
        check_now(self.world)

    # --- clients ---

    def some_customer(self, index: int) -> Customer:
        return _pick(self.world.customers, index)

    @precondition(lambda self: len(self.world.customers) < 4)
    @rule(start=st.booleans(), project=st.integers(0, 1))
    def client_comes(self, start: bool, project: int) -> None:
        customer = self.world.customer_comes(project)
        customer.say({"type": "session_start"} if start else {"type": "offer", "sdp": "o"})
        self.look()

    @precondition(lambda self: self.world.customers)
    @rule(index=_index, message=st.sampled_from(["session_start", "offer", "offer", "candidate"]))
    def client_speaks(self, index: int, message: str) -> None:
        fields = {"session_start": {}, "offer": {"sdp": "o"}, "candidate": {"candidate": {"candidate": "c"}}}
        self.some_customer(index).say({"type": message, **fields[message]})
        self.look()

    @rule(clients=st.integers(0, 3))
    def wave(self, clients: int) -> None:
        """All clients go, and others come: this makes nodes start and stop."""
        for customer in self.world.customers:
            customer.socket.quit(goodbye=True)
        self.world.customers.clear()
        self.look()
        for number in range(clients):
            self.world.customer_comes(number % 2).say({"type": "session_start"})
        self.look()

    @precondition(lambda self: self.world.customers)
    @rule()
    def clients_claim(self) -> None:
        for customer in self.world.customers:
            if customer.told == "waiting" and not customer.answered:
                customer.say({"type": "offer", "sdp": "o"})
        self.look()

    @precondition(lambda self: self.world.customers)
    @rule(index=_index, goodbye=st.booleans())
    def client_goes(self, index: int, goodbye: bool) -> None:
        customer = self.some_customer(index)
        self.world.customers.remove(customer)
        customer.socket.quit(goodbye)
        self.look()

    # --- nodes ---

    @precondition(lambda self: self.world.cloud.agents())
    @rule(late=st.booleans())
    def agents_come_up(self, late: bool) -> None:
        """Those that are not there register, the first of them only if `late`."""
        missing = [agent for agent in self.world.cloud.agents() if not agent.is_up]
        for agent in missing[:1] if late else missing:
            self.world.register(agent)
        check_now(self.world)

    @precondition(lambda self: self.world.everyone())
    @rule(index=_index, keep=st.integers(0, 7))
    def agent_registers_again(self, index: int, keep: int) -> None:
        """While its old socket may still be open; some of its sessions may have gone."""
        self.world.register(_pick(self.world.everyone(), index), keep)
        check_now(self.world)

    @precondition(lambda self: self.world.everyone())
    @rule(index=_index)
    def agent_drops(self, index: int) -> None:
        agent = _pick(self.world.everyone(), index)
        if agent.socket is not None:
            agent.socket.quit(goodbye=False)
        self.look()

    @rule(keep=st.integers(0, 7), there=st.sampled_from([True, True, False]))
    def own_node(self, keep: int, there: bool) -> None:
        """A node that no provider made comes, or its program ends."""
        if there:
            self.world.register(self.world.own_node("own"), keep)
        elif agent := self.world.own.get("own"):
            agent.die()
        self.look()

    @precondition(lambda self: any(agent.sessions for agent in self.world.everyone()))
    @rule(connected=st.sampled_from([True, True, False]))
    def agents_answer(self, connected: bool) -> None:
        for agent in self.world.everyone():
            for session in list(agent.sessions):
                agent.speak(session, "answer")
                if connected:
                    agent.speak(session, "connected")
        self.look()

    @precondition(lambda self: any(agent.offered for agent in self.world.everyone()))
    @rule(
        index=_index,
        which=_index,
        what=st.sampled_from(["answer", "candidate", "error", "connected", "closed"]),
        stale=st.booleans(),
    )
    def agent_speaks(self, index: int, which: int, what: str, stale: bool) -> None:
        """Of any session that it was ever offered; or, if `stale`, on a socket that it has given up."""
        agent = _pick([agent for agent in self.world.everyone() if agent.offered], index)
        session = _pick(sorted(agent.offered), which)
        if stale:
            if agent.old is not None:
                agent.old.say({"type": "session_state", "session": session, "state": "closed"})
        else:
            agent.speak(session, what)
        self.look()

    @rule(listening=st.booleans())
    def agents_listen(self, listening: bool) -> None:
        """What is not read when a socket breaks is lost."""
        self.world.listening = listening
        self.look()

    # --- the cloud ---

    @rule(prompt=st.booleans(), slow_lists=st.booleans())
    def cloud_mood(self, prompt: bool, slow_lists: bool) -> None:
        self.world.cloud.prompt, self.world.cloud.slow_lists = prompt, slow_lists

    @rule(outage=st.booleans())
    def cloud_outage(self, outage: bool) -> None:
        self.world.cloud.outage = outage

    @precondition(lambda self: self.world.cloud.calls)
    @rule(index=_index, outcome=st.sampled_from([Outcome.DONE, Outcome.DONE, *Outcome]))
    def cloud_answers(self, index: int, outcome: Outcome) -> None:
        self.world.cloud.finish(_pick(self.world.cloud.calls, index), outcome)
        self.look()

    @precondition(lambda self: self.world.cloud.calls)
    @rule()
    def cloud_obeys(self) -> None:
        for call in list(self.world.cloud.calls):
            self.world.cloud.finish(call, Outcome.DONE)
        self.look()

    @precondition(lambda self: self.world.cloud.strays)
    @rule(index=_index, again=st.booleans())
    def stray_request_lands(self, index: int, again: bool) -> None:
        self.world.cloud.land(index % len(self.world.cloud.strays), keep=again)
        self.look()

    @rule(index=_index, lie=st.sampled_from([None, *Machine]))
    def cloud_lies(self, index: int, lie: Machine | None) -> None:
        """From now on its list is wrong about a machine; it may be one that never was."""
        known = [*self.world.cloud.machines, *self.world.pool.nodes]
        if known:
            self.world.cloud.lies[_pick(sorted(set(known)), index)] = lie
            self.world.cloud.bent = True

    @rule()
    def cloud_is_honest(self) -> None:
        self.world.cloud.lies.clear()

    @precondition(lambda self: self.world.cloud.agents())
    @rule(index=_index)
    def spot_notice(self, index: int) -> None:
        """The cloud will take a machine away; when it does, the node should have been drained."""
        self.world.cloud.notices.add(_pick(self.world.cloud.agents(), index).node)

    @precondition(lambda self: self.world.cloud.agents())
    @rule(index=_index, gone=st.booleans())
    def machine_dies(self, index: int, gone: bool) -> None:
        """It is switched off, or taken away altogether."""
        node = _pick(self.world.cloud.agents(), index).node
        self.world.cloud.do("destroy" if gone else "stop", node)
        self.look()

    @precondition(lambda self: any(not machine.running for machine in self.world.cloud.machines.values()))
    @rule(index=_index)
    def machine_is_started_by_hand(self, index: int) -> None:
        stopped = [id for id, machine in self.world.cloud.machines.items() if not machine.running]
        self.world.cloud.bent = True
        self.world.cloud.do("start", _pick(stopped, index))
        self.look()

    # --- the bridge ---

    @rule(how=st.sampled_from(["written", "unwritten", "in order"]))
    def bridge_ends(self, how: str) -> None:
        """It is killed, with what it was about to write on the disk or not; or it is ended in good order."""
        if how == "in order":
            self.world.restart()
        else:
            self.world.crash(written=how == "written")
        check_now(self.world)

    @rule(slow=st.booleans(), failing=st.sampled_from([False, False, True]))
    def disk(self, slow: bool, failing: bool) -> None:
        self.world.disk.slow, self.world.disk.failing = slow, failing
        if not slow:
            self.world.ledger.write()
        self.look()

    @precondition(lambda self: self.world.ledger.pending)
    @rule()
    def disk_writes(self) -> None:
        self.world.ledger.write()
        self.look()

    @precondition(lambda self: self.world.pool.nodes)
    @rule(index=_index, action=st.sampled_from(["drain_node", "drain_node", "stop_node", "start_node", "destroy_node"]))
    def admin_orders(self, index: int, action: str) -> None:
        self.world.order(action, _pick(sorted(self.world.pool.nodes), index))
        check_now(self.world)

    # --- time ---

    @rule(seconds=st.sampled_from([0.02, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0]), beating=st.sampled_from([True, True, False]))
    def time_passes(self, seconds: float, beating: bool) -> None:
        self.world.beating = beating
        self.world.advance(seconds)
        check_now(self.world)

    @rule(seconds=st.sampled_from([2.0, 10.0, 100.0]))
    def clock_leaps(self, seconds: float) -> None:
        """The whole process was held up for so long."""
        self.world.loop.leap(seconds)
        self.look()

    @rule(seconds=st.sampled_from([-3600.0, -5.0, 5.0, 3600.0]))
    def wall_clock_is_set(self, seconds: float) -> None:
        self.world.skew += seconds

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def all_goes_well(self, seconds: float) -> None:
        """For a moment nothing fails: what was asked is done, nodes come up, clients claim, media flows."""
        world = self.world
        for _ in range(2):
            self.cloud_obeys()
            world.serve()
        world.advance(seconds)
        check_now(world)

    # --- the end ---

    def teardown(self) -> None:
        """With faults off, everything comes to rest; with the clients gone, everything is given back."""
        if not (world := getattr(self, "world", None)):
            return
        try:
            count = len(world.cloud.strays)
            world.honest(lambda operation, node: (len(operation) + len(node) + count) % 2 == 0)
            world.live(200.0)
            check_now(world)
            check_rest(world)
            world.hang_up()
            world.live(100.0)
            check_now(world)
            check_silence(world)
        finally:
            world.close()


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_a_life_with_faults_at_every_step() -> None:
    run_state_machine_as_test(Life, settings=settings(MACHINE, max_examples=_FEW, stateful_step_count=30))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_many_lives_with_faults_at_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    SEEN.clear()
    run_state_machine_as_test(Life, settings=MACHINE)
    tried = f"{_EXAMPLES} lives of {_STEPS} steps: {len(SEEN)} of the {len(NODE_TRANSITIONS)} transitions of a node"
    with capsys.disabled():
        if "PROVE" in os.environ:
            print(f"\n{tried}")
    missed = sorted((state.value, event.value) for state, event in NODE_TRANSITIONS.keys() - SEEN.keys())
    assert len(missed) < len(NODE_TRANSITIONS) / 3, missed  # else the lives are too dull to show anything


# --- the rules can fail ---


@pytest.fixture
def world() -> Iterator[World]:
    pool = config.Pool(name="p", provider="command", max_nodes=2, breaker_failures=1)
    made = World(config.Config(nodes=config.Nodes(heartbeat=1.0, missed=3), pools=(pool,)))
    yield made
    made.close()


def somebody_is_served(world: World) -> str:
    """A client has media on a node; return the node's id."""
    world.customer_comes().say({"type": "session_start"})
    world.turn()
    world.serve()
    check_now(world)
    return next(iter(world.cloud.machines))


def found(world: World, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_now(world)


def test_a_session_that_is_tried_again_is_not_adopted_on_the_node_that_did_not_answer(world: World) -> None:
    world.customer_comes().say({"type": "offer", "sdp": "o"})
    world.turn()
    (first,) = world.cloud.agents()
    world.register(first)
    (session,) = first.sessions
    first.speak(session, "error")
    world.customer_comes().say({"type": "offer", "sdp": "o"})  # it gets the slot of the one that waits for another
    world.turn()
    world.crash(written=True)
    check_now(world)
    assert list(world.bridge.sessions) == list(first.sessions)


def test_an_intent_that_is_not_stored_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, Reconciler, "_round", "await self._store(pool)", "pass")
    world.customer_comes().say({"type": "session_start"})
    world.turn()
    found(world, "before its intent was stored")


def test_two_operations_of_one_node_are_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, Pool, "operations", "and not node.busy", "")
    world.cloud.prompt = False
    world.customer_comes().say({"type": "session_start"})
    world.turn()
    world.reconciler.wake(world.pool)
    world.turn()
    found(world, "beside another operation")


def test_a_lie_that_is_believed_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "report", lambda node, machine: REPORTS.get((node.state, machine)))
    world.cloud.lies[somebody_is_served(world)] = None
    world.advance(5.0)
    found(world, "was used and well, and was given up")


def test_a_used_node_that_is_stopped_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = somebody_is_served(world)
    monkeypatch.setattr(Pool, "plan", lambda pool, now: [Step(node, NodeEvent.EMPTY)])
    world.order("drain_node", node)
    found(world, "was used and well, and was given up")


def test_a_start_while_the_breaker_is_open_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaker, "allowance", None)
    world.cloud.outage = True
    world.customer_comes().say({"type": "session_start"})
    world.turn()
    world.customer_comes().say({"type": "session_start"})
    world.advance(1.0)
    found(world, "while the breaker is open")


def test_a_machine_that_is_not_swept_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, Reconciler, "_sweep", "id not in pool.nodes", "False")
    world.cloud.do("create", f"p-{world.reconciler._tag}-00000009")
    world.live(30.0)
    with pytest.raises(AssertionError):
        check_rest(world)


def test_a_client_that_is_told_nothing_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, Bridge, "_settle_all", "self.deliver(entry, Source.POOL, verdict)", "pass")
    world.customer_comes().say({"type": "session_start"})
    world.turn()
    with pytest.raises(AssertionError):
        check_now(world)


def test_agent_is_a_fake_that_holds_to_its_capacity() -> None:
    agent = Agent("n", "token", capacity=1)
    agent._take("one")
    with pytest.raises(AssertionError, match="more live sessions than slots"):
        agent._take("two")
