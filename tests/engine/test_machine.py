"""One Hypothesis machine over every engine: two replicas do what they like, and the rules hold after each step."""

import asyncio
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from engine.conftest import POOL, Replica, flush
from rtcbridge.drivers.engine import MemoryEngine, MemoryHub, parse_engine_url
from rtcbridge.ports_engine import Grant, News, Place, Wake

SESSIONS = st.sampled_from([f"s{number}" for number in range(6)])
NODES = st.sampled_from(["n1", "n2", "n3"])
REPLICA = st.integers(0, 1)
LIMITS = {"P": 1, "Q": 2}


class Machine(RuleBasedStateMachine):
    """A session belongs to one of two replicas. The model knows who waits and who holds by what replicas are told."""

    make: Any = None  # returns two engines that share an empty store

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        engines = self.loop.run_until_complete(type(self).make())
        self.replicas = [Replica(engine) for engine in engines]
        for replica in self.replicas:
            self.loop.run_until_complete(replica.start())
        self.owner: dict[str, int] = {}
        self.epochs: dict[str, int] = {}
        self.sockets = 0
        self.at: dict[str, int] = {}
        self.up: set[str] = set()
        self.live: set[str] = set()
        self.excluded: dict[str, str] = {}
        self.begun: set[str] = set()  # by the journal: those that have not ended, and those that have
        self.over: set[str] = set()
        self.project: dict[str, str] = {}
        self.told: dict[str, tuple[int, str]] = {}  # of its node, by the last word to a session's owner
        for number, replica in enumerate(self.replicas):
            replica.told = partial(self.note, number)

    def note(self, number: int, wake: Wake) -> None:
        if wake.news in (News.GRANTED, News.MOVED) and self.owner.get(wake.session) == number:
            self.told[wake.session] = (wake.epoch, wake.replica)
        for replica in self.replicas:
            replica.heard.set()

    def granted(self, session: str, standing: Grant | Place) -> None:
        if isinstance(standing, Grant):
            self.told[session] = (standing.epoch, standing.replica)

    def do(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    def store(self, session: str) -> Any:
        return self.replicas[self.owner[session]].store

    def ends(self, session: str) -> None:
        if session in self.begun:
            self.begun.discard(session)
            self.over.add(session)

    def forget(self, session: str) -> None:
        self.ends(session)
        self.owner.pop(session, None)
        self.live.discard(session)
        self.excluded.pop(session, None)
        self.project.pop(session, None)

    def barred(self, session: str, view: Any) -> bool:
        project = self.project[session]
        return project in LIMITS and [self.project[each] for each in view.sessions].count(project) >= LIMITS[project]

    @rule(
        session=SESSIONS,
        owner=REPLICA,
        rank=st.integers(-3, 3),
        front=st.booleans(),
        exclude=st.sampled_from(["", "n1"]),
        patient=st.booleans(),
        project=st.sampled_from(["", "P", "Q"]),
    )
    def reserve(
        self, session: str, owner: int, rank: int, front: bool, exclude: str, patient: bool, project: str
    ) -> None:
        known = session in self.owner
        self.told = self.told if known else {other: word for other, word in self.told.items() if other != session}
        self.owner.setdefault(session, owner)
        project = self.project.setdefault(session, project)
        options = {"rank": rank, "front": front, "exclude": exclude, "patient": patient}
        options |= {"project": project, "limit": LIMITS.get(project, 0)}
        standing = self.do(self.store(session).reserve(session, **options))
        self.granted(session, standing)
        if not known and exclude and session in self.over:
            self.over.discard(session)
            self.begun.add(session)
        if not known and exclude:
            self.excluded[session] = exclude
            assert not isinstance(standing, Grant) or standing.node != exclude
        if not known and isinstance(standing, Place) and not patient and 0 <= standing.supply < standing.place:
            self.forget(session)
        assert self.do(self.replicas[owner].store.look()) is not None

    @precondition(lambda self: self.owner)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        session = data.draw(st.sampled_from(sorted(self.owner)))
        store = self.store(session)
        assert self.do(store.release(session))
        assert not self.do(store.release(session))
        self.forget(session)

    @precondition(lambda self: self.owner)
    @rule(data=st.data(), what=st.sampled_from(["begin", "yield", "suspend", "resume"]))
    def change(self, data: Any, what: str) -> None:
        session = data.draw(st.sampled_from(sorted(self.owner)))
        store = self.store(session)
        if what == "begin":
            if self.do(store.begin(session)):
                self.live.add(session)
                self.begun.add(session)
                self.over.discard(session)
        elif what == "yield":
            self.granted(session, self.do(store.yield_slot(session)))
            if session not in self.live:
                self.excluded.pop(session, None) if session in self.do(store.look()).sessions else None
        elif what == "suspend" and session not in self.live:
            assert self.do(store.suspend(session)).place == 0
        elif what == "resume":
            self.granted(session, self.do(store.resume(session)))

    @precondition(lambda self: self.owner)
    @rule(data=st.data(), replica=REPLICA)
    def take_over(self, data: Any, replica: int) -> None:
        session = data.draw(st.sampled_from(sorted(self.owner)))
        project = self.project[session]
        share: dict[str, Any] = {"project": project, "limit": LIMITS.get(project, 0)}
        before = self.do(self.store(session).reserve(session, **share))
        self.owner[session] = replica
        standing = self.do(self.store(session).take_over(session, **share))
        assert standing == before
        self.granted(session, standing)

    @precondition(lambda self: self.over)
    @rule(data=st.data(), replica=REPLICA)
    def confirm(self, data: Any, replica: int) -> None:
        session = data.draw(st.sampled_from(sorted(self.over | self.begun)))
        self.do(self.replicas[replica].store.confirm([session]))
        self.over.discard(session)

    @rule(node=NODES, replica=REPLICA, capacity=st.integers(1, 3), open=st.booleans())
    def node_up(self, node: str, replica: int, capacity: int, open: bool) -> None:
        view = self.do(self.replicas[0].store.look())
        there = view.nodes.get(node)
        held = len(there.sessions) if there else 0
        alive = [session for session in (there.sessions if there else ()) if view.sessions[session].live]
        self.sockets += 1
        back = self.do(
            self.replicas[replica].store.node_up(
                node, max(capacity, held), f"k{self.sockets}", alive, self.epochs.get(node, 0), open=open
            )
        )
        assert back.epoch > self.epochs.get(node, 0)
        assert len(back.sessions) >= held
        assert all(owner == self.replicas[self.owner[each]].address for each, owner in back.sessions.items())
        self.epochs[node], self.at[node] = back.epoch, replica
        self.up.add(node)

    @precondition(lambda self: self.at)
    @rule(data=st.data())
    def node_down(self, data: Any) -> None:
        node = data.draw(st.sampled_from(sorted(self.at)))
        store = self.replicas[self.at[node]].store
        assert self.do(store.node_down(node, self.epochs[node]))
        assert not self.do(store.node_down(node, self.epochs[node] - 1))
        self.up.discard(node)

    @precondition(lambda self: self.at)
    @rule(data=st.data(), open=st.booleans())
    def node_open(self, data: Any, open: bool) -> None:
        node = data.draw(st.sampled_from(sorted(self.at)))
        store = self.replicas[self.at[node]].store
        assert self.do(store.node_open(node, self.epochs[node], open)) == (node in self.up or not open)
        assert not self.do(store.node_open(node, self.epochs[node] - 1, open))

    @precondition(lambda self: self.at)
    @rule(data=st.data())
    def node_gone(self, data: Any) -> None:
        node = data.draw(st.sampled_from(sorted(self.at)))
        lost = self.do(self.replicas[0].store.look()).nodes[node].sessions
        assert self.do(self.replicas[self.at.pop(node)].store.node_gone(node, self.epochs[node]))
        self.up.discard(node)
        for session in sorted(lost):
            assert self.do(self.replicas[self.owner[session]].store.release(session))
            self.forget(session)

    @invariant()
    def rules_hold(self) -> None:
        view = self.do(self.replicas[1].store.look())
        assert set(view.sessions) | set(view.line) | set(view.away) == set(self.owner)
        assert not set(view.sessions) & (set(view.line) | set(view.away))
        for node in view.nodes.values():
            assert len(node.sessions) <= node.capacity
            assert all(view.sessions[session].node == node.id for session in node.sessions)
            assert node.replica == (self.replicas[self.at[node.id]].address if node.id in self.up else "")
        free = {node.id for node in view.nodes.values() if node.open and len(node.sessions) < node.capacity}
        for session in view.line:
            able = free - {self.excluded.get(session, "")}
            assert not able or self.barred(session, view), f"{session} waits beside {free}"
        for project, limit in LIMITS.items():
            assert [self.project[session] for session in view.sessions].count(project) <= limit
        for session, held in view.sessions.items():
            assert held.owner == self.replicas[self.owner[session]].engine.replica
            assert held.live == (session in self.live)
            assert (held.epoch, held.replica) == (view.nodes[held.node].epoch, view.nodes[held.node].replica)
            assert self.do(self.replicas[0].store.find(session)) == held

    @invariant()
    def the_journal_has_what_ended(self) -> None:
        entries = self.do(self.replicas[0].store.journal(0.0))
        assert sorted(entry.id for entry in entries) == sorted(self.over)
        assert all(entry.began <= entry.ended for entry in entries)

    @invariant()
    def places_follow_the_line(self) -> None:
        view = self.do(self.replicas[0].store.look())
        places = {**self.do(self.replicas[0].store.places()), **self.do(self.replicas[1].store.places())}
        line = {session: place for place, session in enumerate(view.line, 1)} | dict.fromkeys(view.away, 0)
        assert places == {
            session: Place(place, view.supply, barred=self.barred(session, view)) for session, place in line.items()
        }

    def teardown(self) -> None:
        """In the end, whoever was told anything last was told what is so."""
        view = self.do(self.replicas[0].store.look())
        true = {session: (held.epoch, held.replica) for session, held in view.sessions.items()}
        for replica in self.replicas:
            self.do(replica.until(lambda: {session: self.told.get(session) for session in true} == true, 3))
            assert all(isinstance(wake.news, News) and wake.news is not News.ORPHAN for wake in replica.wakes)
        for session, held in view.sessions.items():
            again = self.do(self.store(session).reserve(session))
            assert again == Grant(held.node, held.epoch, held.replica)
        for replica in self.replicas:
            self.do(replica.engine.close())
        self.loop.close()


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_any_order_of_calls(kind, request):
    if kind == "redis":
        pytest.importorskip("redis")
        from rtcbridge.drivers.engine.redis_engine import RedisEngine

        server = request.getfixturevalue("shared_server")

    async def make() -> list[Any]:
        if kind == "memory":
            hub = MemoryHub()
            return [MemoryEngine(hub), MemoryEngine(hub)]
        flush(server)
        url = parse_engine_url(server.url)
        first = RedisEngine(url)
        await first.start([POOL], lambda *_: None, lambda *_: None)
        await first.pipe.call("HDEL", f"{first.store(POOL).prefix}meta", "recover")
        await first.close()
        return [RedisEngine(url, lease=30.0), RedisEngine(url, lease=30.0)]

    machine = type("Machine", (Machine,), {"make": staticmethod(make)})
    examples = 60 if kind == "memory" else 12
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=list(Phase) if kind == "memory" else [Phase.generate],
        ),
    )
