"""The simulation: time jumps from event to event, and at each the pool's own code decides what to do.

What the bridge's reconciler does with a provider and a clock, this does with drawn durations.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from math import inf

from rtcbridge.core.errors import TransitionError
from rtcbridge.core.events import Failed, Granted
from rtcbridge.core.node import Node, NodeEvent, NodeState
from rtcbridge.core.pool import Create, Pool, Step
from rtcbridge.core.spec import PoolSpec
from rtcbridge.sim.arrivals import Session
from rtcbridge.sim.outcome import Outcome, Sample
from rtcbridge.sim.world import World

_S, _E = NodeState, NodeEvent
_OFF = frozenset({_S.PROVISIONING, _S.STOPPED, _S.FAILED, _S.TERMINATING, _S.GONE})  # the machine is not paid for
_PLANS = 2  # as in the reconciler: an empty node that the first drains is stopped at once
_SAMPLES = 2_000  # moments of a simulation that can be plotted


class Simulation:
    """One pool, one sequence of sessions, one seed.

    The draws of a session are its own and those of machines are counted, so that two policies meet the same
    clients, and the n-th start takes as long under both.

    Args:
        spec: the pool, as the bridge would have it.
        world: everything around it.
        sessions: by arrival.
        seed: of all draws.
        stopped: stopped nodes at the beginning.
        begin: seconds; what happens before is not counted.
        end: seconds; what happens after is not.
    """

    def __init__(
        self,
        spec: PoolSpec,
        world: World,
        sessions: Sequence[Session],
        seed: int,
        *,
        stopped: int,
        begin: float,
        end: float,
    ) -> None:
        self.pool = Pool(spec)
        self._world, self._sessions = world, sessions
        self._begin, self._end = begin, end
        self._machines = random.Random(f"machines {seed}")  # noqa: S311 - a simulation
        patience = random.Random(f"patience {seed}")  # noqa: S311
        self._patience = [patience.expovariate(1 / world.patience) for _ in sessions]
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = self._made = 0
        self._billed: dict[str, NodeState] = {}
        self._running = self._disks = 0
        self._outcome = Outcome(spec=spec, connect=world.connect, seconds=end - begin)
        self._every = max(60.0, end / _SAMPLES)
        for _ in range(min(stopped, spec.max_nodes)):
            self._add(_S.STOPPED)

    def run(self) -> Outcome:
        """Let the time pass; return what came of it."""
        arrivals = iter(enumerate(self._sessions))
        index, (arrival, _) = next(arrivals, (0, (inf, 0.0)))
        self._at(0.0, self._sample)
        due = 0.0
        while True:
            event = self._events[0][0] if self._events else inf
            now = min(arrival, event, due)
            if now > self._end:
                break
            self._pass(now)
            if arrival == now:
                self._arrive(index)
                index, (arrival, _) = next(arrivals, (0, (inf, 0.0)))
            elif event == now:
                heappop(self._events)[2]()
            due = self._round()
        self._pass(self._end)
        self._outcome.usd = self._world.cost(self._outcome.running, self._outcome.disks)
        return self._outcome

    # --- time and money ---

    def _at(self, time: float, what: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._events, (time, self._count, what))

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._at(self._now + seconds, what)

    def _pass(self, now: float) -> None:
        if now > self._begin:
            seconds = now - max(self._now, self._begin)
            self._outcome.running += self._running * seconds
            self._outcome.disks += self._disks * seconds
            self._outcome.served += len(self.pool.holders) * seconds
        self._now = now

    def _bill(self, node: Node) -> None:
        before, now = self._billed.get(node.id, _S.GONE), node.state
        self._running += (now not in _OFF) - (before not in _OFF)
        self._disks += (now is not _S.GONE) - (before is not _S.GONE)
        self._billed[node.id] = now
        if now is _S.GONE:
            del self._billed[node.id]

    def _sample(self) -> None:
        pool = self.pool
        self._outcome.samples.append(Sample(self._now, len(pool.holders), self._running))
        self._after(self._every, self._sample)

    # --- clients ---

    def _arrive(self, index: int) -> None:
        session = str(index)
        self.pool.join(session, patient=True)
        self._settle()
        if session in self.pool.line:
            self._after(self._patience[index], lambda: self._leave(index))

    def _leave(self, index: int) -> None:
        if (session := str(index)) in self.pool.line:
            self.pool.leave(session, self._now)
            self._count_lost(index, "abandoned")

    def _count_lost(self, index: int, how: str) -> None:
        arrival = self._sessions[index][0]
        if arrival >= self._begin:
            self._outcome.lose(how, arrival)

    def _settle(self) -> None:
        while verdicts := self.pool.settle(self._now):
            for session, verdict in verdicts:
                if isinstance(verdict, Granted):
                    self._serve(int(session))
                elif isinstance(verdict, Failed):
                    self.pool.leave(session, self._now)
                    self._count_lost(int(session), "refused")

    def _serve(self, index: int) -> None:
        arrival, seconds = self._sessions[index]
        if arrival >= self._begin:
            self._outcome.serve(arrival, self._now - arrival)
        session = str(index)
        self._after(seconds, lambda: self.pool.leave(session, self._now))

    # --- nodes ---

    def _add(self, state: NodeState) -> None:
        self._made += 1
        node = Node(f"{self._made:06}", self.pool.spec, state, self._now)
        self.pool.add(node)
        self._bill(node)

    def _tell(self, node: Node, event: NodeEvent) -> None:
        with suppress(TransitionError):  # the node has moved on, and the event says nothing
            if self.pool.nodes.get(node.id) is node and self.pool.observe(node.id, event, self._now):
                self._bill(node)

    def _round(self) -> float:
        """Do what the pool wants; return when it wants to be asked again, if nothing happens."""
        pool, now = self.pool, self._now
        for id in pool.expire(now, inf):
            self._bill(pool.nodes[id])  # no deadline of a managed node ends in GONE
        for _ in range(_PLANS):
            if not (steps := pool.plan(now)):
                break
            for step in steps:
                self._take(step)
        self._settle()
        for node, operation in pool.operations(now):
            node.busy = True
            getattr(self, f"_{operation}")(node)
        due = pool.next_due(now, inf)
        return due if due > now else now + 0.01  # a deadline may lie just behind what the clock shows

    def _take(self, step: Create | Step) -> None:
        if isinstance(step, Create):
            self._add(_S.PROVISIONING)
        else:
            self._tell(self.pool.nodes[step.node], step.event)

    def _create(self, node: Node) -> None:
        self._outcome.creates += self._now >= self._begin
        self._boot(node, self._world.create_failures, self._world.create.draw(self._machines))

    def _start(self, node: Node) -> None:
        self._outcome.starts += self._now >= self._begin
        self._boot(node, self._world.start_failures, self._world.start.draw(self._machines))

    def _boot(self, node: Node, failures: float, seconds: float) -> None:
        if self._machines.random() < failures:
            self._outcome.failures += self._now >= self._begin
            self._after(self._world.refusal, lambda: self._answer(node, _E.REFUSED))
            return
        self._after(0.0, lambda: self._answer(node, _E.ACCEPTED))
        self._after(seconds, lambda: self._register(node))

    def _stop(self, node: Node) -> None:
        self._after(self._world.stop, lambda: self._answer(node, _E.ACCEPTED))

    def _destroy(self, node: Node) -> None:
        self._after(self._world.destroy, lambda: self._answer(node, _E.ACCEPTED))

    def _answer(self, node: Node, event: NodeEvent) -> None:
        node.busy = False
        self._tell(node, event)

    def _register(self, node: Node) -> None:
        self._tell(node, _E.REGISTERED)
        node.linked = node.state is _S.READY
