"""The nodes of a pool: what to create, start and stop, and when. The caller brings the time."""

from collections.abc import Callable

from msgspec import Struct

from rtcbridge.core import policy
from rtcbridge.core.assignment import Assignment
from rtcbridge.core.breaker import Breaker
from rtcbridge.core.errors import Error
from rtcbridge.core.events import Lost
from rtcbridge.core.node import COMING, OPERATIONS, UP, Node, NodeEvent, NodeState, Order
from rtcbridge.core.projects import Projects
from rtcbridge.core.spec import PoolSpec
from rtcbridge.core.tally import ordered_step

_GOING = frozenset({NodeState.FAILED, NodeState.TERMINATING})


class Create(Struct, frozen=True):
    """Make one more node. The caller adds it to the pool before it does anything else."""


class Step(Struct, frozen=True):
    """Let this node take this event: START, DRAIN, EMPTY, STOP or DESTROY."""

    node: str
    event: NodeEvent


class Pool(Assignment):
    """The nodes of one kind, with the sessions and the line of `Assignment`.

    Pools that know of each other are made by `Pools`.
    """

    def __init__(
        self,
        spec: PoolSpec,
        projects: Projects | None = None,
        stirred: Callable[[str], object] = lambda name: None,
    ) -> None:
        super().__init__(spec, projects, stirred)
        self.breaker = Breaker(spec.breaker_failures, spec.breaker_pause, spec.breaker_max_pause)
        self._staffing = policy.Staffing()

    # --- nodes ---

    def add(self, node: Node) -> None:
        """Take in a new node."""
        self.nodes[node.id] = node
        node.watch = self._tally.note
        self._tally.note(node)
        if node.state is NodeState.PROVISIONING:
            self.breaker.begin(node.id)
        if node.state in COMING:
            whole = node.state is NodeState.PROVISIONING and not node.uncertain
            self._estimator.begin(node.id, node.since, created=not node.started, whole=whole)

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
        if node.state is NodeState.STARTING:
            self._estimator.begin(id, now, created=False, whole=True)
        elif node.state is not NodeState.BOOTING:
            self._estimator.end(id, now, ready=node.state is NodeState.READY)
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
            self._estimator.held.pop(session, None)
            self._release(session)
            self._verdicts[session] = Lost()
        node.sessions.clear()
        node.linked = False

    def lose_session(self, session: str, now: float) -> None:
        """A node came back without this session."""
        if session in self.holders:
            self.leave(session, now)
            self._verdicts[session] = Lost()

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
        if excess := self._excess():
            return steps + excess  # the next plan goes on without them
        demand = len(self.line.queue) + tally.sessions
        band = self._staffing.band(self.spec, demand, now)
        useful = tally.capacity - self._useless()
        if useful < band.start:
            return steps + self._more(band.start - useful)
        return steps + self._less(useful - band.start, useful - band.stop, now)

    def _useless(self) -> int:
        """Slots that a waiting session may not have, since their node did not answer it."""
        excluded = {waiter.exclude for waiter in self.line.excluding.values()}
        shares = [self._tally.share(node) for node in excluded]
        return sum(max(0, share.capacity - share.sessions) for share in shares)

    def _excess(self) -> list[Create | Step]:
        """Stopped nodes beyond `max_nodes`, which was made smaller: the longest stopped go. Nothing that runs does."""
        excess = len(self.nodes) - self.spec.max_nodes
        if excess <= 0 or not self._tally.stopped:
            return []
        excess -= sum(node.state in _GOING or node.order is Order.DESTROY for node in self.nodes.values())
        stopped = sorted(self._tally.stopped.values(), key=lambda node: (node.since, node.id))
        return [Step(node.id, NodeEvent.DESTROY) for node in stopped[: max(0, excess)]]

    def _more(self, missing: int) -> list[Create | Step]:
        steps: list[Create | Step] = []
        for node in sorted(self._tally.stopped.values(), key=lambda node: (node.refusals, -node.since, node.id)):
            if missing > 0:
                steps.append(Step(node.id, NodeEvent.START))
                missing -= node.capacity
        # A node that is being stopped can be started again soon: cheaper than a new one.
        missing -= self._tally.stopping
        new = min(self._creatable(), -(-missing // self.spec.slots))
        return (steps + [Create()] * new)[: self.breaker.allowance]

    def _less(self, surplus: int, excess: float, now: float) -> list[Create | Step]:
        """Stop idle nodes: an excess at once, the rest of a surplus when they have been idle for long enough."""
        steps: list[Create | Step] = []
        for since, id in self._tally.idle:
            late = since + self.spec.idle_timeout <= now
            if surplus <= 0 or not (late or excess > 0):
                break
            capacity = self.nodes[id].capacity
            if capacity <= (surplus if late else excess):
                steps.append(Step(id, NodeEvent.DRAIN))
                surplus -= capacity
                excess -= capacity
        return steps

    @property
    def restless(self) -> bool:
        """Whether a settling may have left something to plan. A static pool only lets drained nodes go."""
        return bool(self.line.waiters or self.spec.elastic or self._tally.emptied)

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
            event = NodeEvent.TIMEOUT
            if node.state in UP and node.heard + silence <= now:
                event = NodeEvent.SILENT
            elif node.state is NodeState.FAILED and 0 < node.refusals < self.spec.start_attempts:
                event = NodeEvent.RESTED
            if self.observe(node.id, event, now):
                changed.append(node.id)
        return changed

    def next_due(self, now: float, silence: float) -> float:
        """Return when the next deadline, retry, idle node or end of a pause is due; infinity if nothing is."""
        due = min(self._tally.next_due(now, silence), self.breaker.until)
        if not self.spec.elastic:
            return due
        return min(due, self._tally.next_idle(now, self.spec.idle_timeout), self._staffing.next_change(self.spec))
