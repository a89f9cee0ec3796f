"""Who gets which slot, and what to create, start and stop. The caller brings the time."""

from typing import TypeAlias

from msgspec import Struct

from rtcbridge.core import policy
from rtcbridge.core.breaker import Breaker
from rtcbridge.core.errors import Error
from rtcbridge.core.events import Failed, Full, Granted, Lost, Pending, PoolEvent
from rtcbridge.core.line import Line, Waiter
from rtcbridge.core.messages import Status
from rtcbridge.core.node import COMING, OPERATIONS, UP, Node, NodeEvent, NodeState, Order
from rtcbridge.core.spec import PoolSpec
from rtcbridge.core.tally import Tally, ordered_step

Verdict: TypeAlias = tuple[str, PoolEvent]  # a session's id, and what the pool says to it


class Create(Struct, frozen=True):
    """Make one more node. The caller adds it to the pool before it does anything else."""


class Step(Struct, frozen=True):
    """Let this node take this event: START, DRAIN, EMPTY, STOP or DESTROY."""

    node: str
    event: NodeEvent


class Pool:
    """The nodes of one kind, the sessions that hold their slots, and the line of those that wait.

    A call costs about the same however many nodes and sessions there are. `nodes` and `line` are there to be
    read; they are changed by the methods only.
    """

    def __init__(self, spec: PoolSpec) -> None:
        self.spec = spec
        self.nodes: dict[str, Node] = {}
        self.holders: dict[str, Node] = {}
        self.line = Line()
        self.breaker = Breaker(spec.breaker_failures, spec.breaker_pause, spec.breaker_max_pause)
        self._tally = Tally()
        self._verdicts: dict[str, PoolEvent] = {}  # to be told at the next settling
        self._cause: Error | None = None  # why the supply has shrunk since the last one

    # --- sessions ---

    def join(self, session: str, *, patient: bool, front: bool = False, exclude: str = "") -> None:
        """Put a session in line; `settle` then says what it gets. Nothing happens if it is here already."""
        if session in self.line or session in self.holders:
            return
        waiter = Waiter(patient, exclude)
        if front:
            self.line.push(session, waiter)
        else:
            self.line.append(session, waiter)

    def stay(self, session: str) -> None:
        """Let a waiting session keep its place also when the pool is full."""
        if waiter := self.line.get(session):
            waiter.patient = True

    def leave(self, session: str, now: float) -> None:
        """Free the slot or the place in line of a session."""
        self._verdicts.pop(session, None)
        if self.line.pop(session) is None and (node := self.holders.pop(session, None)):
            node.sessions.discard(session)
            if not node.sessions:
                node.idle_since = now
            self._tally.count(node)

    def yield_slot(self, session: str, now: float) -> None:
        """A reservation ran out: renew it when nobody waits, else send it to the end of the line."""
        if (node := self.holders.get(session)) is None:
            return
        if self.line:
            self.leave(session, now)
            self.join(session, patient=True)
        else:
            self._verdicts[session] = Granted(node.id)

    def adopt(self, session: str, node: str) -> None:
        """Let a session of an earlier life of this bridge hold its slot."""
        self._hold(session, self.nodes[node])

    def _hold(self, session: str, node: Node) -> None:
        node.sessions.add(session)
        self.holders[session] = node
        self._tally.count(node)

    # --- nodes ---

    def add(self, node: Node) -> None:
        """Take in a new node."""
        self.nodes[node.id] = node
        node.watch = self._tally.note
        self._tally.note(node)
        if node.state is NodeState.PROVISIONING:
            self.breaker.begin(node.id)

    def observe(self, id: str, event: NodeEvent, now: float) -> bool:
        """Tell a node what happened to it; return whether its state changed. Raises TransitionError."""
        node = self.nodes[id]
        before, uncertain = node.state, node.uncertain
        if not node.receive(event, now):
            return False
        if not uncertain:
            self._judge(node, before, now)
        if node.state is NodeState.FAILED:
            self._cause = Error.START_FAILED if node.started else Error.POOL_FULL
        if node.state not in UP:
            self._lose(node)
        if node.state is NodeState.GONE:
            node.watch = None
            del self.nodes[id]
            self._tally.forget(id)
        return True

    def _judge(self, node: Node, before: NodeState, now: float) -> None:
        """Let the breaker know how a creation or a start went."""
        breaker, asked = self.breaker, before in (NodeState.PROVISIONING, NodeState.STARTING)
        match node.state:
            case NodeState.STARTING:
                breaker.begin(node.id)
            case NodeState.BOOTING if asked:
                breaker.accept()
            case NodeState.READY if before in COMING or before is NodeState.FAILED:
                if asked:
                    breaker.accept()
                breaker.come_up()
            case NodeState.FAILED:
                breaker.fail(node.id, node.reason, now, accepted=not asked)
            case NodeState.STOPPING | NodeState.TERMINATING:
                breaker.drop(node.id)

    def _lose(self, node: Node) -> None:
        for session in sorted(node.sessions):
            self.holders.pop(session, None)
            self._verdicts[session] = Lost()
        node.sessions.clear()
        node.linked = False

    def lose_session(self, session: str, now: float) -> None:
        """A node came back without this session."""
        if session in self.holders:
            self.leave(session, now)
            self._verdicts[session] = Lost()

    # --- who gets which slot ---

    def settle(self, now: float) -> list[Verdict]:
        """Give free slots to those in line, tell the others where they stand; return what is new.

        To be called again after its verdicts were followed, until it returns nothing: those who lost their slot
        come first, since they rejoin the line before it moves.
        """
        verdicts: list[Verdict] = []
        if self._verdicts:
            verdicts += self._verdicts.items()
            self._verdicts.clear()
            return verdicts
        if self.line:
            self._assign(verdicts)
        if self.line:
            self._refuse(verdicts)
            for session, waiter, status in self.line.divide(self.supply()):
                if not waiter.exclude:
                    self._tell(session, waiter, status, verdicts)
        self._cause = None
        return verdicts

    def _assign(self, verdicts: list[Verdict]) -> None:
        """Match waiting sessions, oldest first, to ready nodes."""
        passed: list[tuple[str, Waiter]] = []
        while self.line and self._tally.open:
            session, waiter = self.line.pop_first()
            node = self._choose(waiter.exclude)
            if node is None:
                passed.append((session, waiter))
                continue
            self._hold(session, node)
            verdicts.append((session, Granted(node.id)))
        for session, waiter in reversed(passed):
            self.line.push(session, waiter)

    def _choose(self, exclude: str) -> Node | None:
        """The fullest node with a free slot: whole nodes stay empty and can be stopped. Ties: the id."""
        for _, id in self._tally.open[:2]:
            if id != exclude:
                return self.nodes[id]
        return None

    def _refuse(self, verdicts: list[Verdict]) -> None:
        """Tell those that may not have every node where they stand."""
        gone = 0
        for place, session, waiter in list(self.line.places()):
            status = Status.PENDING if place - gone <= self.supply(waiter.exclude) else Status.FULL
            self._tell(session, waiter, status, verdicts)
            gone += session not in self.line

    def _tell(self, session: str, waiter: Waiter, status: Status, verdicts: list[Verdict]) -> None:
        if status is not waiter.status:
            verdicts.append((session, self._verdict(waiter, status)))
            waiter.status = status
        if status is Status.FULL and not waiter.patient:
            self.line.pop(session)

    def _verdict(self, waiter: Waiter, status: Status) -> PoolEvent:
        if status is Status.PENDING:
            return Pending()
        if self._cause is not None and waiter.status is Status.PENDING:
            return Failed(self._cause)
        return Full()

    def supply(self, exclude: str = "") -> int:
        """Return how many slots are on their way, or could be: what a place in line is compared with."""
        if not self.spec.elastic:
            return 0
        tally, excluded = self._tally, self._tally.share(exclude)
        dormant = tally.dormant - excluded.dormant
        coming = tally.supply - excluded.supply - dormant
        possible = dormant + self.spec.slots * self._creatable()
        allowed = self.breaker.allowance
        return coming + (possible if allowed is None else min(possible, allowed * self.spec.slots))

    def _creatable(self) -> int:
        return max(0, self.spec.max_nodes - len(self.nodes)) if self.spec.elastic else 0

    # --- what to create, start and stop ---

    def plan(self, now: float) -> list[Create | Step]:
        """Compare what is with what should be; return the steps between: start, then create."""
        tally = self._tally
        steps: list[Create | Step] = [Step(node, NodeEvent.EMPTY) for node in tally.emptied]
        steps += [Step(id, event) for id, node in tally.ordered.items() if (event := ordered_step(node))]
        if not self.spec.elastic:
            return steps
        demand = len(self.line) + tally.sessions
        missing = policy.target(demand, self.spec.min_ready, self.spec.beta) + self._useless() - tally.capacity
        return steps + (self._more(missing) if missing > 0 else self._less(-missing, now))

    def _useless(self) -> int:
        """Slots that a waiting session may not have, since their node did not answer it."""
        excluded = {waiter.exclude for waiter in self.line.excluding.values()}
        shares = [self._tally.share(node) for node in excluded]
        return sum(max(0, share.capacity - share.sessions) for share in shares)

    def _more(self, missing: int) -> list[Create | Step]:
        steps: list[Create | Step] = []
        for node in sorted(self._tally.stopped.values(), key=lambda node: (-node.since, node.id)):
            if missing > 0:
                steps.append(Step(node.id, NodeEvent.START))
                missing -= node.capacity
        # A node that is being stopped can be started again soon: cheaper than a new one.
        missing -= self._tally.stopping
        new = min(self._creatable(), -(-missing // self.spec.slots))
        return (steps + [Create()] * new)[: self.breaker.allowance]

    def _less(self, surplus: int, now: float) -> list[Create | Step]:
        steps: list[Create | Step] = []
        for since, id in self._tally.idle:
            if surplus <= 0 or since + self.spec.idle_timeout > now:
                break
            if (capacity := self.nodes[id].capacity) <= surplus:
                steps.append(Step(id, NodeEvent.DRAIN))
                surplus -= capacity
        return steps

    @property
    def restless(self) -> bool:
        """Whether a settling may have left something to plan. A static pool only lets drained nodes go."""
        return bool(self.line or self.spec.elastic or self._tally.emptied)

    def operations(self, now: float) -> list[tuple[Node, str]]:
        """Return the provider operations that are due: one a node at a time, refused ones after a pause."""
        return [
            (node, OPERATIONS[node.state])
            for node in self._tally.acting.values()
            if node.managed
            and not node.busy
            and node.retry_at <= now
            and not (node.uncertain and node.state is NodeState.PROVISIONING)
        ]

    # --- time ---

    def expire(self, now: float, silence: float) -> list[str]:
        """Let the deadlines that have passed take effect; return the nodes that changed. `silence`: seconds."""
        self.breaker.expire(now)
        changed = []
        for node in self._tally.pop_due(now, silence):
            reserved = node.state is NodeState.STOPPED and node.order is Order.NONE
            if reserved and len(self._tally.stopped) <= self.spec.stopped_reserve:
                node.prolong(now)
                continue
            silent = node.state in UP and node.heard + silence <= now
            if self.observe(node.id, NodeEvent.SILENT if silent else NodeEvent.TIMEOUT, now):
                changed.append(node.id)
        return changed

    def next_due(self, now: float, silence: float) -> float:
        """Return when the next deadline, retry, idle node or end of a pause is due; infinity if nothing is."""
        due = min(self._tally.next_due(now, silence), self.breaker.until)
        return min(due, self._tally.next_idle(now, self.spec.idle_timeout)) if self.spec.elastic else due
