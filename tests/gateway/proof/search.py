"""Breadth first over all that can happen to a `Model`, with what must hold of every state and every step."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf

from gateway.proof.canonical import canonical
from gateway.proof.checks import check_places, check_slots, check_statuses, servable
from gateway.proof.copies import Copies
from gateway.proof.model import Event, Model
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import State

_LEAVING = ("close", "drop")
_COMING_FIRST = {State.RETRYING, State.AWAY, State.SUSPENDED}  # if they have held a slot


class CounterexampleError(AssertionError):
    """A shortest way to a state or a step that must not be.

    Attributes:
        trace: The events that lead there.
    """

    def __init__(self, trace: list[Event], error: BaseException) -> None:
        steps = "\n".join(f"  {number}. {' '.join(event)}" for number, event in enumerate(trace, start=1))
        super().__init__(f"{type(error).__name__}: {error}\nafter\n{steps}")
        self.trace = trace


@dataclass
class Result:
    """What was searched. `closed`: nothing was left to be searched."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    closed: bool = False
    ways_out: dict[int, list[int]] = field(default_factory=dict)  # state: those from which it is reached by leaving
    empty: list[int] = field(default_factory=list)  # states without any session

    def __str__(self) -> str:
        end = "closed" if self.closed else "not closed"
        return f"{self.states} states, {self.transitions} transitions, depth {self.depth}, {end}"


def _key(form: str) -> bytes:
    return blake2b(form.encode(), digest_size=16).digest()


class _Search:
    """What is known, and what is still to be gone on from: the number, depth and snapshot of each new state."""

    def __init__(self, model: Model) -> None:
        self.result = Result()
        self._copies = Copies(model)
        self._known: dict[bytes, int] = {}
        self._parents: list[tuple[int, Event]] = []
        self.frontier: deque[tuple[int, int, bytes]] = deque()
        self._reach(model, canonical(model), 0, ("begin",), 0)

    def _reach(self, model: Model, form: str, parent: int, event: Event, level: int) -> int:
        """Take in the state that an event has led to, and return its number."""
        key = _key(form)
        if (number := self._known.get(key)) is None:
            number = self._known[key] = self.result.states
            self.result.states += 1
            self.result.depth = level
            self._parents.append((parent, event))
            self.frontier.append((number, level, self._copies.take(model)))
            if not model.bridge.sessions:
                self.result.empty.append(number)
        return number

    def trace(self, number: int) -> list[Event]:
        """The events that lead to a state."""
        steps: list[Event] = []
        while number:
            number, event = self._parents[number]
            steps.append(event)
        return steps[::-1]

    def expand(self) -> None:
        """Let all that can happen in the oldest new state happen."""
        number, level, snapshot = self.frontier.popleft()
        base = self._copies.restore(snapshot)
        before = _Before(base, canonical(base))
        for event in list(base.events()):
            after = self._copies.restore(snapshot)
            try:
                after.happen(event)
                check_state(after)
                form = canonical(after)
                before.check_step(event, after, form)
            except Exception as error:
                raise CounterexampleError([*self.trace(number), event], error) from error
            self.result.transitions += 1
            reached = self._reach(after, form, number, event, level + 1)
            if event[0] == "timeout" or event[-1] in _LEAVING:
                self.result.ways_out.setdefault(reached, []).append(number)


def search(make: Callable[[], Model], depth: int = 10_000, states: int = 10_000_000) -> Result:
    """Search all states up to a depth, or so many of them. Raises CounterexampleError."""
    running = _Search(make())
    result = running.result
    while running.frontier:
        if running.frontier[0][1] >= depth or result.states >= states:
            return result
        running.expand()
    result.closed = True
    check_ways_out(result, running.trace)
    return result


def check_ways_out(result: Result, trace: Callable[[int], list[Event]]) -> None:
    """From every state, clients that leave and deadlines alone lead to one without sessions."""
    reached, todo = set(result.empty), list(result.empty)
    while todo:
        for state in result.ways_out.get(todo.pop(), ()):
            if state not in reached:
                reached.add(state)
                todo.append(state)
    if stuck := set(range(result.states)) - reached:
        raise CounterexampleError(trace(min(stuck)), AssertionError("a session that nothing can end"))


def check_state(model: Model) -> None:
    """What must hold of every state."""
    check_places(model)  # type: ignore[arg-type]
    check_slots(model)  # type: ignore[arg-type]
    check_statuses(model)  # type: ignore[arg-type]
    pool, disk = model.pool, model.disk
    for each in model.bridge.pools.values():
        assert each.plan(model.clock.now) == [], "something is left to be done, and nobody is woken up for it"
        assert not each._verdicts
        assert all(node.refusals <= each.spec.start_attempts for node in each.nodes.values()), "started too often"
    assert not model.bridge.pools.unsettled
    begun = {id: entry.session.node for id, entry in model.bridge.sessions.items() if entry.begun}
    known = {id: row.node for id, row in disk.sessions.items()}  # one that is tried again: ""
    assert known == begun, "the ledger disagrees"
    rows = {id: (row.state, row.started, row.capacity, row.ordered) for id, row in disk.nodes.items()}
    assert rows == {
        id: (n.state.value, n.started, n.capacity, n.order.value) for id, (_, n) in model.bridge.nodes.items()
    }
    assert not any(model.reconciler._dirty.values())
    _check_served(model)
    for id, entry in model.bridge.sessions.items():
        assert entry.client is not None or entry.session.deadline < inf, f"nobody and nothing can end {id}"
    made = {id for id, node in pool.nodes.items() if node.managed}
    assert len(made) <= max(0, pool.spec.max_nodes), "more nodes than are allowed"
    busy = [operation.arguments["node"].id for operation in model.operations]
    assert len(busy) == len(set(busy)), "two operations of one node"


def _check_served(model: Model) -> None:
    """While a node's socket is up, it and the bridge agree on what it serves."""
    for agent in model.agents():
        entries = model.bridge.sessions.items()
        if agent.is_up:
            begun = {id for id, entry in entries if entry.begun and entry.session.node == agent.node}
            assert set(agent.sessions) == begun, f"{agent.node} serves {set(agent.sessions)}, and should {begun}"


class _Before:
    """What a step is compared with."""

    def __init__(self, model: Model, form: str) -> None:
        pools = model.bridge.pools
        self._lines = {name: list(pool.line) for name, pool in pools.items()}
        self._holders = {id for pool in pools.values() for id in pool.holders}
        self._sessions = set(model.bridge.sessions)
        states = {id: entry.session.state for id, entry in model.bridge.sessions.items()}
        self._twice = {id for id, state in states.items() if state is State.REOFFERED}
        self._tried = {id: entry.session.node for id, entry in model.bridge.sessions.items() if entry.session.node}
        self._tried |= {id: waiter.exclude for pool in pools.values() for id, waiter in pool.line.waiters.items()}
        self._form = form

    def check_step(self, event: Event, after: Model, form: str) -> None:
        """First come, first served; and what comes from an older epoch changes nothing."""
        if event[0] == "stale":
            assert form == self._form, "a message of an older epoch changed something"
        if event[0] == "crash":
            return
        for pool in after.bridge.pools.values():
            self._check_line(after, pool, self._lines[pool.spec.name])
        for id, entry in after.bridge.sessions.items():
            if entry.session.state is State.REOFFERED and id not in self._twice and self._tried.get(id):
                assert entry.session.node != self._tried[id], "the same node was tried again"

    def _check_line(self, after: Model, pool: Pool, before: list[str]) -> None:
        stayed = [session for session in before if session in pool.line]
        assert stayed == [session for session in pool.line if session in stayed], "the order of the line has changed"
        allowed = set(servable(after, pool))  # type: ignore[arg-type]
        for session in (set(pool.holders) - self._holders) & set(before):
            for other in before[: before.index(session)]:
                if other in allowed:
                    exclude = pool.line.waiters[other].exclude
                    assert exclude == pool.holders[session].id, "the line was not served in order"
        self._check_joins(after, pool, stayed)

    def _check_joins(self, after: Model, pool: Pool, stayed: list[str]) -> None:
        """New ones come last, those who lost a node come first."""
        line = list(pool.line)
        for place, session in enumerate(line):
            if session in stayed:
                continue
            joined = after.bridge.sessions[session].session
            rejoined = session not in self._sessions and joined._dropping
            claim = pool.line.waiters[session].claim
            front = claim.front if claim is not None else rejoined or joined.state in _COMING_FIRST
            others = line[:place] if front else line[place + 1 :]
            assert not set(others) & set(stayed), "somebody jumped the line, or lost a place that was kept"
