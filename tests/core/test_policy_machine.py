"""Several pools in which projects matter: any steps, against the plainest way to say what each session is to get.

The oracle knows who came when, and derives places, statuses and grants afresh after each step.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rtcbridge.core.events import Failed, Full, Granted, Lost, Pending
from rtcbridge.core.node import Node, NodeEvent, NodeState
from rtcbridge.core.pool import Create, Pool
from rtcbridge.core.pools import Pools
from rtcbridge.core.projects import Share
from rtcbridge.core.spec import PoolSpec, ProjectSpec

MACHINE = settings(
    max_examples=90,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PROJECTS = ("AAAAAA", "BBBBBB", "CCCCCC")
OVERTAKING = 30.0
FRONT, OVERDUE = -2.0, -1.0
_T = TypeVar("_T")
_index = st.integers(0, 99)


def _pick(there: Sequence[_T], index: int) -> _T:
    return there[index % len(there)]


@dataclass(eq=False)
class Client:
    """What the oracle knows of one session."""

    id: str
    project: str
    home: str
    number: int
    patient: bool
    front: int = 0  # those that came to the front: the later, the earlier
    exclude: str = ""
    holds: str = ""  # a node
    told: str = ""  # the last verdict
    away: bool = False


def spec(name: str, fallback: str) -> st.SearchStrategy[PoolSpec]:
    return st.builds(
        PoolSpec,
        name=st.just(name),
        elastic=st.sampled_from([True, True, False]),
        slots=st.integers(1, 2),
        min_ready=st.integers(0, 1),
        max_nodes=st.integers(0, 3),
        idle_timeout=st.just(5.0),
        fair=st.sampled_from([True, True, False]),
        max_per_project=st.sampled_from([0, 0, 1, 2]),
        overtake_timeout=st.sampled_from([0.0, OVERTAKING]),
        fallback=st.sampled_from(["", fallback]),
    )


_projects = st.tuples(
    *(
        st.builds(
            ProjectSpec, id=st.just(id), priority=st.sampled_from([0, 0, 5]), max_sessions=st.sampled_from([0, 0, 1, 3])
        )
        for id in PROJECTS[:2]
    )
)


class Policy(RuleBasedStateMachine):
    """Three pools, a and b and c, of which a falls back to b and b to c, or not."""

    @initialize(a=spec("a", "b"), b=spec("b", "c"), c=spec("c", ""), projects=_projects)
    def begin(self, a: PoolSpec, b: PoolSpec, c: PoolSpec, projects: tuple[ProjectSpec, ...]) -> None:
        self.pools = Pools((a, b, c), projects)
        self.priority = {each.id: each.priority for each in projects}
        self.most = {each.id: each.max_sessions or inf for each in projects}
        self.clients: dict[str, Client] = {}
        self.entered: dict[tuple[str, str], int] = {}  # pool and session: the order in which they came to that line
        self.since: dict[tuple[str, str], float] = {}  # since when it was known to wait there
        self.now, self.count = 0.0, 0
        self.waiting: dict[str, list[str]] = {}  # by pool: those in line at the beginning of a settling
        for pool in self.pools.values():
            self.watch(pool)
        self.settle(*self.pools.values())

    # --- what the gateway does ---

    def settle(self, *changed: Pool) -> None:
        """Follow verdicts and plans until there is nothing new, in the pools that were changed."""
        unsettled = self.pools.unsettled
        unsettled |= {pool.spec.name: pool for pool in changed}
        for _ in range(300):
            while unsettled:
                pool = unsettled.pop(min(unsettled))
                self.note(pool)
                self.waiting[pool.spec.name] = list(pool.line)
                for session, verdict in pool.settle(self.now):
                    self.take(session, verdict)
                    unsettled[pool.spec.name] = pool
                self.check_slots()
            self.reconcile()
            if not unsettled:
                break
        else:
            raise AssertionError("it does not come to rest")
        assert not any(pool.settle(self.now) for pool in self.pools.values()), "a pool was forgotten"
        self.check()

    def watch(self, pool: Pool) -> None:
        """Check each slot that is given away: those before it in line may not have that node."""
        hold = pool._hold

        def watched(session: str, node: Node, share: Share | None) -> None:
            waiting = self.waiting[pool.spec.name]
            before = self.served(pool, waiting)
            for one in before[: before.index(session)]:
                assert self.clients[one].exclude == node.id, "served before its turn"
            waiting.remove(session)
            hold(session, node, share)

        pool._hold = watched  # type: ignore[method-assign]

    def take(self, session: str, verdict: Any) -> None:
        """Follow one verdict as a session would."""
        client = self.clients[session]
        match verdict:
            case Granted(node=node):
                assert not client.away
                assert client.holds in ("", node), "a second slot"
                client.holds, client.told, client.front = node, "waiting", 0
            case Pending():
                assert client.told != "pending"
                client.told = "pending"
            case Full() | Failed():
                assert client.told != "full"
                client.told = "full"
                if not client.patient:
                    self.quit(client)
            case Lost():
                assert client.holds
                client.holds = ""
                self.quit(client)
                self.come(client.project, client.home, patient=True, front=True)

    def reconcile(self) -> None:
        for pool in self.pools.values():
            for step in pool.plan(self.now):
                self.pools.unsettled[pool.spec.name] = pool
                if isinstance(step, Create):
                    self.count += 1
                    pool.add(Node(f"{pool.spec.name}{self.count}", pool.spec, NodeState.PROVISIONING, self.now))
                else:
                    node = pool.nodes[step.node]
                    pool.observe(step.node, step.event, self.now)
                    node.linked &= node.state is NodeState.DRAINING

    # --- clients ---

    def come(self, project: str, home: str, *, patient: bool = True, front: bool = False, exclude: str = "") -> Client:
        self.count += 1
        client = Client(f"s{self.count}", project, home, self.count, patient, self.count if front else 0, exclude)
        self.clients[client.id] = client
        self.pools[home].join(client.id, patient=patient, front=front, exclude=exclude, project=project)
        self.pools.unsettled[home] = self.pools[home]
        return client

    def quit(self, client: Client) -> None:
        del self.clients[client.id]
        self.pools[client.home].leave(client.id, self.now)
        self.pools.unsettled[client.home] = self.pools[client.home]

    @precondition(lambda self: len(self.clients) < 9)
    @rule(project=st.sampled_from(PROJECTS), home=st.sampled_from("aaabc"), patient=st.booleans())
    def client_comes(self, project: str, home: str, patient: bool) -> None:
        self.come(project, home, patient=patient)
        self.settle()

    @precondition(lambda self: len(self.clients) < 7)
    @rule(projects=st.lists(st.sampled_from(PROJECTS), min_size=2, max_size=5))
    def clients_come(self, projects: list[str]) -> None:
        for project in projects:
            self.come(project, "a")
            self.settle()

    @precondition(lambda self: self.clients)
    @rule(index=_index)
    def client_leaves(self, index: int) -> None:
        self.quit(_pick(list(self.clients.values()), index))
        self.settle()

    @precondition(lambda self: any(not one.patient for one in self.clients.values()))
    @rule(index=_index)
    def client_stays(self, index: int) -> None:
        client = _pick([one for one in self.clients.values() if not one.patient], index)
        client.patient = True
        if client.id not in self.pools[client.home].line:  # it was full there, and comes again
            self.count += 1
            client.number, client.front = self.count, client.front and self.count
        self.pools[client.home].stay(client.id)
        self.settle(self.pools[client.home])

    @precondition(lambda self: any(one.holds for one in self.clients.values()))
    @rule(index=_index)
    def reservation_runs_out(self, index: int) -> None:
        client = _pick([one for one in self.clients.values() if one.holds], index)
        others = bool(self.pool_of(client.holds).line.queue)
        self.pools[client.home].yield_slot(client.id, self.now)
        if others:
            client.holds, client.told, client.patient, client.exclude = "", "", True, ""
            client.front = 0
            self.renumber(client)
        self.settle(self.pools[client.home])

    @precondition(lambda self: any(one.holds for one in self.clients.values()))
    @rule(index=_index)
    def node_does_not_answer(self, index: int) -> None:
        client = _pick([one for one in self.clients.values() if one.holds], index)
        node, client.holds = client.holds, ""
        self.quit(client)
        self.come(client.project, client.home, patient=False, front=True, exclude=node)
        self.settle()

    @precondition(lambda self: any(not one.away and one.patient for one in self.clients.values()))
    @rule(index=_index)
    def client_is_away(self, index: int) -> None:
        client = _pick([one for one in self.clients.values() if not one.away and one.patient], index)
        self.pools[client.home].suspend(client.id, self.now)
        client.away = True
        if client.holds:
            client.holds, client.told, client.exclude = "", "", ""
            self.renumber(client)
            client.front = self.count
        self.settle(self.pools[client.home])

    @precondition(lambda self: any(one.away for one in self.clients.values()))
    @rule(index=_index)
    def client_is_back(self, index: int) -> None:
        client = _pick([one for one in self.clients.values() if one.away], index)
        client.away, client.told = False, ""
        self.pools[client.home].resume(client.id)
        self.settle(self.pools[client.home])
        assert client.told, "nothing was said to one that came back"

    def renumber(self, client: Client) -> None:
        self.count += 1
        client.number = self.count

    # --- nodes and time ---

    def pool_of(self, node: str) -> Pool:
        return self.pools[node[0]]

    def some(self, *states: NodeState) -> list[Node]:
        return [node for pool in self.pools.values() for node in pool.nodes.values() if node.state in states]

    @rule(pool=st.sampled_from("abc"), slots=st.integers(1, 2))
    def own_node_comes(self, pool: str, slots: int) -> None:
        if len(self.pools[pool].nodes) < 4:
            self.count += 1
            node = Node(f"{pool}{self.count}", self.pools[pool].spec, NodeState.READY, self.now, managed=False)
            self.pools[pool].add(node)
            node.capacity, node.linked = slots, True
        self.settle(self.pools[pool])

    @precondition(lambda self: self.some(NodeState.PROVISIONING, NodeState.BOOTING, NodeState.STARTING))
    @rule(index=_index)
    def node_is_ready(self, index: int) -> None:
        node = _pick(self.some(NodeState.PROVISIONING, NodeState.BOOTING, NodeState.STARTING), index)
        self.pool_of(node.id).observe(node.id, NodeEvent.REGISTERED, self.now)
        node.linked = True
        self.settle(self.pool_of(node.id))

    @precondition(lambda self: self.some(NodeState.PROVISIONING, NodeState.STARTING, NodeState.STOPPING))
    @rule(index=_index, accepted=st.booleans())
    def provider_answers(self, index: int, accepted: bool) -> None:
        node = _pick(self.some(NodeState.PROVISIONING, NodeState.STARTING, NodeState.STOPPING), index)
        event = NodeEvent.ACCEPTED if accepted else NodeEvent.REFUSED
        self.pool_of(node.id).observe(node.id, event, self.now)
        self.settle(self.pool_of(node.id))

    @precondition(lambda self: self.some(NodeState.READY))
    @rule(index=_index, event=st.sampled_from([NodeEvent.SILENT, NodeEvent.DRAIN]))
    def node_goes(self, index: int, event: NodeEvent) -> None:
        node = _pick(self.some(NodeState.READY), index)
        self.pool_of(node.id).observe(node.id, event, self.now)
        self.settle(self.pool_of(node.id))

    @rule(seconds=st.sampled_from([1.0, 6.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for pool in self.pools.values():
            for node in pool.nodes.values():
                node.heard = self.now
            pool.expire(self.now, inf)
        self.settle(*self.pools.values())

    # --- what must hold ---

    def check_slots(self) -> None:
        held: Counter[str] = Counter()
        for pool in self.pools.values():
            for node in pool.nodes.values():
                assert len(node.sessions) <= node.capacity
            for session in pool.holders:
                held[self.clients[session].project] += session in self.clients
            by_project = Counter(self.clients[session].project for session in pool.holders)
            if pool.spec.max_per_project:
                assert max(by_project.values(), default=0) <= pool.spec.max_per_project
        assert all(held[project] <= self.most.get(project, inf) for project in held)

    def check(self) -> None:
        for pool in self.pools.values():
            self.note(pool)
        for client in self.clients.values():
            self.check_one(client)
        for pool in self.pools.values():
            self.check_line(pool)
            assert pool.plan(self.now) == []

    def note(self, pool: Pool) -> None:
        """Note who is in a line, and since when; its own sessions must have come to it as they came."""
        name = pool.spec.name
        for session, waiter in pool.line.waiters.items():
            if self.entered.get((name, session)) != waiter.key[1]:  # it has come, or come again
                self.entered[name, session] = waiter.key[1]
                self.since.pop((name, session), None)
            if not waiter.suspended:
                self.since.setdefault((name, session), self.now)
        own = [client for client in self.clients.values() if client.home == name and client.id in pool.line]
        for some in ([one for one in own if one.front], [one for one in own if not one.front]):
            some.sort(key=lambda one: self.entered[name, one.id])
            came = [-one.front or one.number for one in some]
            assert came == sorted(came)

    def check_one(self, client: Client) -> None:
        """A session holds one slot, or has a place in its own pool or where it fell back to, and knows which."""
        holding = [pool.spec.name for pool in self.pools.values() if client.id in pool.holders]
        waiting = [pool.spec.name for pool in self.pools.values() if client.id in pool.line]
        if client.holds:
            assert holding == [client.holds[0]]
            assert not waiting
            assert client.id in self.pool_of(client.holds).nodes[client.holds].sessions
            assert client.told == "waiting"
            return
        assert not holding
        assert waiting
        assert set(waiting) <= {client.home, *self.way(client.home)}
        if client.patient:
            assert client.home in waiting
        if client.away:
            return
        statuses = {self.status(self.pools[name], client) for name in waiting}
        assert client.told == ("pending" if "pending" in statuses else "full")
        if client.told == "full":
            assert waiting == [client.home, *self.way(client.home)], "not tried where it could be"

    def way(self, pool: str) -> list[str]:
        fallback = self.pools[pool].spec.fallback
        return [fallback, *self.way(fallback)] if fallback else []

    def rank(self, pool: Pool, client: Client) -> float:
        """The class of a session in a line: the lowest goes first."""
        if client.front:
            return FRONT
        limit, key = pool.spec.overtake_timeout, (pool.spec.name, client.id)
        if limit and self.since.get(key, inf) + limit <= self.now:
            return OVERDUE
        return 100.0 - self.priority.get(client.project, 0)

    def by_age(self, pool: Pool, some: Sequence[str]) -> list[Client]:
        """Some of those in a line, by class, and as they came to it."""
        here = [self.clients[session] for session in some]
        return sorted(here, key=lambda one: (self.rank(pool, one), self.entered[pool.spec.name, one.id]))

    def order(self, pool: Pool, some: Sequence[Client]) -> list[str]:
        """In which order these are served, given as by `by_age`."""
        if not pool.spec.fair:
            return [client.id for client in some]
        held = Counter(self.clients[session].project for session in pool.holders)
        behind = Counter[tuple[float, str]]()  # those of a class and project that came before
        keyed = []
        for number, client in enumerate(some):
            rank, level = self.rank(pool, client), 0
            if rank > OVERDUE:
                level = held[client.project] + behind[rank, client.project]
                behind[rank, client.project] += 1
            keyed.append((rank, level, number, client.id))
        return [key[3] for key in sorted(keyed)]

    def room(self, pool: Pool, project: str) -> float:
        """How many of a project's waiting sessions may be served in this pool."""
        held = Counter(self.clients[session].project for each in self.pools.values() for session in each.holders)
        here = sum(self.clients[session].project == project for session in pool.holders)
        return max(0, min(self.most.get(project, inf) - held[project], (pool.spec.max_per_project or inf) - here))

    def served(self, pool: Pool, waiting: Sequence[str] | None = None) -> list[str]:
        """Those of a line that may be served, in order."""
        waiting = list(pool.line) if waiting is None else waiting
        room = {project: self.room(pool, project) for project in PROJECTS}
        some = []
        for client in self.by_age(pool, waiting):
            if not client.away and room[client.project] >= 1:
                room[client.project] -= 1
                some.append(client)
        return self.order(pool, some)

    def status(self, pool: Pool, client: Client) -> str:
        served = self.served(pool)
        if client.id not in served:
            return "full"
        exclude = pool.line.waiters[client.id].exclude
        return "pending" if served.index(client.id) + 1 <= pool.supply(exclude) else "full"

    def check_line(self, pool: Pool) -> None:
        """Nobody who may be served waits beside a free slot; the places are those of the oracle."""
        order, served = self.order(pool, self.by_age(pool, list(pool.line))), self.served(pool)
        assert list(pool.line) == order
        assert [standing.session for standing in pool.waiting(self.now)] == order
        assert len(pool.line.queue) == len(served)
        for node in pool.nodes.values():
            if node.state is NodeState.READY and node.linked and node.free:
                assert all(pool.line.waiters[session].exclude == node.id for session in served)
        for place, session in enumerate(served, start=1):
            assert pool.line.place(pool.line.waiters[session]) == place

    def teardown(self) -> None:
        if not getattr(self, "pools", None):
            return
        for client in list(self.clients.values()):
            self.quit(client)
        self.settle()
        for pool in self.pools.values():
            assert (len(pool.line), pool.holders, pool._claims, pool._guests, pool._held) == (0, {}, {}, {}, {})
            assert not pool.line.queue
            assert not pool.line.excluding
            for share in pool._shares.values():
                assert (share.held, share.account.held, share.queued, share.barred) == (0, 0, [], [])


TestPolicy = Policy.TestCase
TestPolicy.settings = MACHINE
