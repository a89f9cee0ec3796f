"""The bridge as a finite machine: the real objects, one event at a time.

Time is no number here. The clock stands still, and whatever a deadline would bring may happen at any moment: that
is more than can happen with any real choice of deadlines. Everything is synchronous: `Reconciler`'s coroutines
are driven to their end, each provider operation waits as data until an event says how it ends, and the ledger
writes at once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from gateway.proof import stand_ins
from gateway.proof.cloud import Agent, Cloud
from gateway.proof.keys import CLIENT_KEYS, NODE_KEYS, TAG, FixedKeys
from gateway.proof.ledger import Disk
from gateway.proof.sockets import ClientWire, NodeWire
from gateway.proof.stand_ins import Clock, NoWheel, Operation, PromptLedger, PromptProvider, drive
from gateway.proof.world import Customer
from rtcbridge import config
from rtcbridge.core.events import Away, Back, Source, Timeout
from rtcbridge.core.node import DEADLINES, UP, Node, NodeEvent, NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import DEADLINES as SESSION_DEADLINES
from rtcbridge.core.session import State
from rtcbridge.gateway.actions import ActionError, Actions
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.reconciler import Reconciler
from rtcbridge.ports import NodeRow

_LONG_AGO = -1.0  # when every node came into its state: before the last list, and after its deadline was set
_STOPPED = f"p-{TAG}-00000000"  # an id as the reconciler makes them
_MOMENT = 1.0  # seconds: an empty node is idle for long enough, a refused operation is tried again

_AWAY = frozenset({State.AWAY, State.SUSPENDED, State.DETACHED})
_STALE = (
    b'{"type":"answer","session":"%s","sdp":"old"}',
    b'{"type":"candidate","session":"%s","candidate":{"candidate":"old"}}',
    b'{"type":"heartbeat","connected":["%s"]}',
    b'{"type":"error","session":"%s","message":"old"}',
    b'{"type":"session_state","session":"%s","state":"closed"}',
)

Event = tuple[str, ...]


class Model:
    """A pool `p`, some clients, nodes that dial in by themselves, and those that a provider makes.

    Args:
        pools: The pool, and the one that it falls back to, if there is one.
        clients: How many there may be at a time.
        own: How many nodes of each pool no provider makes.
        crashes: Whether the bridge may be killed and started again.
        candidates: Whether clients and nodes send candidates.
        admin: Whether somebody drains, stops, starts and destroys nodes by hand.
        projects: How many there are: each client is one of the next one.
        stopped: Whether there is a stopped node at the beginning.
        away: Whether clients go away for a while and come back.
    """

    current: "Model"

    def __init__(
        self,
        pools: Sequence[config.Pool],
        clients: int,
        own: Sequence[int],
        crashes: bool = False,
        candidates: bool = False,
        admin: bool = False,
        projects: int = 1,
        stopped: bool = False,
        away: bool = False,
    ) -> None:
        self.config = config.Config(
            sessions=config.Sessions(max_candidates=1), nodes=config.Nodes(heartbeat=5.0, missed=3), pools=tuple(pools)
        )
        assert not any(pool.demand_window for pool in pools)  # else times steer: `canonical` leaves them out
        self.crashes, self.candidates, self.admin, self.away = crashes, candidates, admin, away
        self.projects = projects
        self.clock = Clock()
        self.disk = Disk()
        self.cloud = Cloud(pools[0].slots)
        self.provider = PromptProvider(self.cloud)
        self.own = [
            Agent(
                f"n{number}" if pool.name == "p" else f"{pool.name}{number}",
                NODE_KEYS[pool.name],
                pool.slots,
                pool.name,
            )
            for pool, count in zip(pools, own, strict=True)
            for number in range(1, count + 1)
        ]
        self.places: list[Customer | None] = [None] * clients
        self.operations: list[Operation] = []
        self.posted: list[Callable[[], None]] = []
        self.serial = 0
        Model.current = self
        if stopped:
            self._leave_a_stopped_node(pools[0].slots)
        self._boot()
        self.rest()

    def _leave_a_stopped_node(self, slots: int) -> None:
        self.cloud.do("create", _STOPPED)
        self.cloud.do("stop", _STOPPED)
        self.disk.nodes[_STOPPED] = NodeRow(
            id=_STOPPED, pool="p", managed=True, state=NodeState.STOPPED.value, capacity=slots, since=0.0
        )

    def _boot(self) -> None:
        self.bridge = Bridge(self.config, FixedKeys(), PromptLedger(self.disk), NoWheel(), self.clock.read)  # type: ignore[arg-type]
        self.bridge.wall = self.clock.read
        self.pool: Pool = self.bridge.pools["p"]
        self.bridge.restore()
        self.reconciler = Reconciler(self.bridge, dict.fromkeys(self.bridge.pools, self.provider), "ws://bridge/node")
        for pool in self.bridge.pools.values():
            self.reconciler.wake(pool)

    @property
    def customers(self) -> list[Customer]:
        """The clients that are there."""
        return [customer for customer in self.places if customer is not None]

    def agents(self) -> list[Agent]:
        """The node programs that run."""
        return sorted([*self.own, *self.cloud.agents()], key=lambda agent: agent.node)

    def number(self) -> int:
        """For ids: they grow, as real ones do."""
        self.serial += 1
        return self.serial

    # --- what can happen ---

    def events(self) -> Iterator[Event]:
        """All that can happen now."""
        yield from self._client_events()
        for id, entry in self.bridge.sessions.items():
            if entry.session.state in SESSION_DEADLINES:
                yield "timeout", id
        for agent in self.agents():
            yield from self._agent_events(agent)
        for operation in self.operations:
            node = operation.arguments["node"].id
            yield from (("operation", node, outcome) for outcome in ("done", "refused", "denied", "unheard"))
        for _, node in self.bridge.nodes.values():
            yield from self._node_events(node)
        if self.pool.spec.elastic:
            yield from (("machine off", agent.node) for agent in self.cloud.agents())
            yield from (("machine gone", id) for id in self.cloud.machines)
            yield from (("list",), ("moment",))
        if self.crashes:
            yield ("crash",)

    def _node_events(self, node: Node) -> Iterator[Event]:
        if node.state in DEADLINES:
            yield "node times out", node.id
        if node.state in UP:
            yield "node silent", node.id
        if self.admin:
            yield from (("admin", action, node.id) for action in ("drain", "stop", "start", "destroy"))
        elif node.state is NodeState.READY:
            yield "drain", node.id

    def _client_events(self) -> Iterator[Event]:
        free = set(range(self.projects))
        for index, customer in enumerate(self.places):
            if customer is not None:
                if self.away and (entry := customer.socket.entry) and entry.session.id in self.bridge.sessions:
                    yield "client", str(index), "goes away"
                yield from (("client", str(index), what) for what in ("start", "close", "drop"))
                if not self._much_is_held(customer):
                    yield "client", str(index), "offer"
                    if self.candidates:
                        yield "client", str(index), "candidate"
            elif index % self.projects in free:  # which place of its project a new client takes makes no difference
                free.remove(index % self.projects)
                yield from (("client", str(index), f"comes, {what}") for what in ("start", "offer"))
                if self.away:
                    alone = [id for id, entry in self.bridge.sessions.items() if entry.session.state in _AWAY]
                    yield from (("back", str(index), id) for id in alone)

    def _much_is_held(self, customer: Customer) -> bool:
        """Whether so much is held for the node of a client already that more would be more of the same."""
        entry = customer.socket.entry
        link = self.bridge.links.get(entry.session.node) if entry is not None else None
        return link is not None and len(link._held) > 1

    def _agent_events(self, agent: Agent) -> Iterator[Event]:
        id = agent.node
        if agent.is_up:
            yield "agent", id, "drops"
            for session in self._served_by(agent):
                yield from (("agent", id, what, session) for what in ("answer", "connected", "error", "closed"))
                if self.candidates:
                    yield "agent", id, "candidate", session
        if id in self.bridge.links and agent.offered:
            yield "stale", id
        yield "agent", id, "registers"
        if agent.sessions:
            yield "agent", id, "registers anew"

    def _served_by(self, agent: Agent) -> list[str]:
        """The sessions that the bridge and this node agree on."""
        entries = self.bridge.sessions
        return [id for id in sorted(agent.sessions) if id in entries and entries[id].session.node == agent.node]

    # --- it happens ---

    def happen(self, event: Event) -> None:
        """Let one of `events` happen, with all that follows from it at once. Raises whatever the bridge raises."""
        Model.current = self
        what, *rest = event
        getattr(self, "_on_" + what.replace(" ", "_"))(*rest)
        self.rest()

    def rest(self) -> None:
        """Let everything follow that follows at once, and age what is there."""
        for _ in range(50):
            while self.posted:
                self.posted.pop(0)()
            self.operations += Operation.begun
            Operation.begun.clear()
            while Operation.given_up:
                self._finish(Operation.given_up.pop(0), "cancelled")
            moved = [customer.read() for customer in self.customers] + [agent.read() for agent in self.agents()]
            woken = [pool for name, pool in self.bridge.pools.items() if self.reconciler._wakes[name].is_set()]
            for pool in woken:
                drive(self.reconciler._round(pool))
            if not woken and not any(moved) and not self.posted:
                break
        else:
            raise AssertionError("it does not come to rest")
        self._age()

    def _age(self) -> None:
        """Forget what only makes a difference in time, and what nobody will ever look at again."""
        for _, node in self.bridge.nodes.values():
            node.since = node.heard = node.idle_since = _LONG_AGO
            node.retry_at, node._retries = min(node.retry_at, _MOMENT), 0
        for running in self.reconciler._operations.values():
            running.began = _LONG_AGO
        for agent in self.agents():
            self._forget(agent)
        for id in self.cloud.offered.keys() - self.bridge.nodes.keys() - self.cloud.machines.keys():
            del self.cloud.offered[id]
        for customer in self.customers:
            if not customer.started:
                customer.told = ""
            customer.answered &= self.candidates
            if not customer.socket.is_up:
                self.places[self.places.index(customer)] = None

    def _forget(self, agent: Agent) -> None:
        """Of the sessions that a node was offered and that are over, only the last may still be spoken of."""
        link = self.bridge.links.get(agent.node)
        held = b"".join(link._held).decode() if link is not None else ""
        gone = [id for id in sorted(agent.offered) if id not in agent.sessions and id not in self.bridge.sessions]
        agent.offered -= {id for id in gone[:-1] if id not in held}
        agent.old = None
        if not agent.is_up:
            agent.socket = None
        if agent in self.own and agent.ended:  # it may be started again at any time
            agent.ended = agent.draining = False

    # --- clients ---

    def _on_client(self, index: str, what: str) -> None:
        customer = self.places[int(index)]
        if customer is None:
            socket = ClientWire(self.bridge, self.posted.append)
            socket.say({"type": "CREDENTIAL", "payload": {"credential": CLIENT_KEYS[int(index) % self.projects]}})
            customer = self.places[int(index)] = Customer(socket)
        match what.removeprefix("comes, "):
            case "start":
                customer.say({"type": "session_start"})
            case "offer":
                customer.say({"type": "offer", "sdp": "o"})
            case "candidate":
                customer.say({"type": "candidate", "candidate": {"candidate": "c"}})
            case "close" | "drop":
                customer.socket.quit(goodbye=what == "close")
            case "goes away":
                socket = customer.socket
                entry, socket.entry, socket.is_up = socket.entry, None, False
                assert entry is not None
                entry.client = None
                self.bridge.deliver(entry, Source.CLIENT, Away())

    def _on_back(self, index: str, session: str) -> None:
        """A client is back, on another socket. What it was told before, it has not forgotten."""
        entry = self.bridge.sessions[session]
        live = entry.session.state is State.DETACHED
        socket = ClientWire(self.bridge, self.posted.append)
        socket.say({"type": "CREDENTIAL", "payload": {"credential": CLIENT_KEYS[int(index) % self.projects]}})
        socket.entry, entry.client = entry, socket
        customer = self.places[int(index)] = Customer(socket, session, answered=live)
        if live:
            customer.told = "waiting"
        customer.started = not live
        self.bridge.deliver(entry, Source.CLIENT, Back())

    def _on_timeout(self, session: str) -> None:
        self.bridge.deliver(self.bridge.sessions[session], Source.CLOCK, Timeout())

    # --- nodes ---

    def _on_agent(self, node: str, what: str, session: str = "") -> None:
        agent = next(agent for agent in self.agents() if agent.node == node)
        if what == "drops":
            assert agent.socket is not None
            agent.socket.quit(goodbye=False)
        elif what.startswith("registers"):
            keep = 0 if what == "registers anew" else -1
            agent.register(NodeWire(self.bridge, self.reconciler, self.posted.append), keep)
        else:
            agent.speak(session, what)

    def _on_stale(self, node: str) -> None:
        """What a node has said too late comes in: on a socket that it has given up, or of a session that is over.

        All that it might have said, and the end of the old socket: nothing of it may change anything.
        """
        agent = next(agent for agent in self.agents() if agent.node == node)
        pool, here = self.bridge.nodes[node]
        old = NodeWire(self.bridge, self.reconciler, self.posted.append)
        old._pool, old._node, old._link = pool, here, self.bridge.links[node]
        for session in sorted(agent.offered):
            over = session not in self._served_by(agent)
            for frame in _STALE:
                message = frame.replace(b"%s", session.encode())
                old.received(message)
                if over and agent.socket is not None:
                    agent.socket.received(message)
        old.quit(goodbye=False)

    def _on_node_times_out(self, id: str) -> None:
        pool, node = self.bridge.nodes[id]
        node.deadline = 0.0
        node._changed()
        self.reconciler.wake(pool)

    def _on_node_silent(self, id: str) -> None:
        self._tell(id, NodeEvent.SILENT)

    def _on_drain(self, id: str) -> None:
        self._tell(id, NodeEvent.DRAIN)

    def _tell(self, id: str, event: NodeEvent) -> None:
        pool, node = self.bridge.nodes[id]
        self.reconciler.tell(pool, node, event)
        self.bridge.settle(pool)

    def _on_admin(self, action: str, node: str) -> None:
        with suppress(ActionError):
            drive(getattr(Actions(self.bridge, self.reconciler), f"{action}_node")(node))

    # --- the provider ---

    def _on_operation(self, node: str, outcome: str) -> None:
        operation = next(each for each in self.operations if each.arguments["node"].id == node)
        if outcome == "unheard":
            self.cloud.do(operation.arguments["operation"], node)
        else:
            self._finish(operation, outcome)

    def _finish(self, operation: Operation, outcome: str) -> None:
        self.operations.remove(operation)
        self.provider.outcome = outcome
        Operation.running = operation
        drive(getattr(self.reconciler, operation.method)(**operation.arguments))
        self.provider.outcome = "done"
        for callback in operation.callbacks:
            callback(operation)
        Operation.running = None

    def _on_machine_off(self, node: str) -> None:
        self.cloud.do("stop", node)

    def _on_machine_gone(self, node: str) -> None:
        self.cloud.do("destroy", node)

    def _on_list(self) -> None:
        drive(self.reconciler._look(self.pool))

    def _on_moment(self) -> None:
        """A little time passes: enough for what is idle and what was refused, and for no deadline."""
        self.clock.now = _MOMENT
        drive(self.reconciler._round(self.pool))
        self.clock.now = 0.0

    def _on_crash(self) -> None:
        """The bridge is killed and started again; what was under way at the provider is done, or is not."""
        for agent in self.agents():
            agent.socket = agent.old = None
            # Whether an offer had gone out when it died, the bridge cannot know.
            agent.offered |= {id for id, row in self.disk.sessions.items() if row.node == agent.node}
        self.places = [None] * len(self.places)
        self.operations.clear()
        self._boot()


@contextmanager
def no_event_loop() -> Iterator[None]:
    """To be entered while models run."""
    with stand_ins.no_event_loop(lambda: Model.current.number()):
        yield
