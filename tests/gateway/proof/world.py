"""The real bridge and reconciler in a simulated world: a fake cloud, fake nodes and clients, a clock moved by hand."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast
from unittest.mock import patch

import structlog
from structlog.testing import LogCapture

from gateway.proof.cloud import Agent, Cloud, CloudProvider, Outcome
from gateway.proof.keys import CLIENT_KEYS, NODE_KEY, TAG, FixedKeys
from gateway.proof.ledger import Disk, MemoryLedger
from gateway.proof.loop import ManualLoop
from gateway.proof.sockets import ClientWire, NodeWire
from rtcbridge.config import Config
from rtcbridge.core.breaker import BreakerState
from rtcbridge.core.node import OPERATIONS, Node, NodeEvent, NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import Session
from rtcbridge.core.spec import PoolSpec
from rtcbridge.gateway.actions import ActionError, Actions
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.reconciler import Reconciler
from rtcbridge.gateway.timers import TimerWheel
from rtcbridge.ports import NodeRow

BEAT = 1.0  # seconds between heartbeats
_EPOCH = 1_700_000_000.0  # Unix seconds at the beginning of time
_LIFE = 10_000.0  # the monotonic clocks of two lives have nothing in common
SEEN: Counter[tuple[NodeState, NodeEvent]] = Counter()  # what happened to nodes in all worlds of this process
_DELIBERATE = {NodeEvent.STOP, NodeEvent.DESTROY}  # an admin's


@dataclass(eq=False)
class Customer:
    """A client's end: what it was told. Status and answer are those of its present session."""

    socket: ClientWire
    session: str = ""
    told: str = ""  # the last node_status
    started: bool = False
    answered: bool = False
    errors: list[str] = field(default_factory=list)

    def say(self, message: dict[str, Any]) -> None:
        """Send a message, and notice which session is the present one."""
        before = self.session
        self.socket.say(message)
        self.session = self.socket.entry.session.id if self.socket.entry is not None else ""
        if self.session != before:
            self.started = self.answered = False
        self.started |= message["type"] == "session_start"

    def read(self) -> bool:
        """Take what it was told. Raises AssertionError if it may not be told so."""
        if not self.socket.got:
            return False
        for message in self.socket.read():
            match message["type"]:
                case "node_status":
                    self.told = message["status"]
                case "answer":
                    self.answered = True
                case "candidate":
                    assert self.answered, "a candidate overtook its answer"
                case "error":
                    self.errors.append(message["message"])
                    if message["message"] == "The node was lost.":
                        entry = self.socket.entry
                        self.session, self.told = entry.session.id if entry is not None else "", ""
                        self.started, self.answered = True, False
                case kind:
                    assert kind in ("auth_success", "server_provisioning"), message
        return True


class World:
    """One pool `p` under a bridge that can be killed and started again.

    Args:
        config: The bridge's; its only pool is `p`.
        stopped: How many stopped nodes there are at the beginning.

    Attributes:
        wrong: What was found to be wrong while the loop ran.
        beating: Whether nodes send heartbeats as time passes.
        listening: Whether nodes read at once what they are sent.
    """

    def __init__(self, config: Config, stopped: int = 0) -> None:
        self.config = config
        self.spec: PoolSpec = config.pool_specs()[0]
        self.disk = Disk()
        self.cloud = Cloud(self.spec.slots)
        self.customers: list[Customer] = []
        self.own: dict[str, Agent] = {}  # nodes that no provider made
        self.wrong: list[str] = []
        self.beating = self.listening = True
        self.skew = 0.0  # of the wall clock, in seconds
        self._passed = 0.0
        self.life = 0
        self._orders: list[asyncio.Task[None]] = []
        self._logs = LogCapture()
        self._stack = ExitStack()
        self._enter()
        for number in range(stopped):
            self._leave_a_stopped_node(f"p-{TAG}-{number:08x}")
        self._boot()
        assert self.reconciler._tag == TAG, "the machines that are there at the beginning are nobody's"

    def _enter(self) -> None:
        """Let ids be the same in each run, and read the log instead of printing it."""
        numbers = count(16)  # behind those that are there at the beginning
        hexes: Iterator[str] = (f"{number:020x}" for number in count(1))
        self._stack.enter_context(patch("secrets.token_hex", lambda size: f"{next(numbers):0{2 * size}x}"))
        self._stack.enter_context(patch("rtcbridge.gateway.bridge._random", hexes))
        self._stack.enter_context(patch("rtcbridge.gateway.bridge._POLL_KEYS", 1e6))  # keys have tests of their own
        before = structlog.get_config()
        self._stack.callback(structlog.configure, **before)
        structlog.configure(
            processors=[self._logs],
            wrapper_class=structlog.make_filtering_bound_logger(30),  # warnings and above
            cache_logger_on_first_use=False,
        )

    def _leave_a_stopped_node(self, id: str) -> None:
        self.cloud.do("create", id)
        self.cloud.do("stop", id)
        self.disk.nodes[id] = NodeRow(
            id=id, pool="p", managed=True, state=NodeState.STOPPED.value, capacity=self.spec.slots, since=_EPOCH
        )

    def close(self) -> None:
        """Undo what it did to the process."""
        self._die()
        self._stack.close()

    # --- the bridge lives and dies ---

    def _boot(self) -> None:
        self.life += 1
        self.loop = ManualLoop(self.life * _LIFE)
        self.loop.set_exception_handler(lambda _, context: self.wrong.append(f"{context}"))
        self.ledger = MemoryLedger(self.disk, self.loop)
        self.bridge = Bridge(
            self.config, FixedKeys(), self.ledger, TimerWheel(self.loop, self.loop.time), self.loop.time
        )
        self.bridge.wall = self.wall
        provider = CloudProvider(self.cloud, self.life, self._inspect)
        self.pool = self.bridge.pools["p"]
        self._watch(self.pool)
        self.bridge.restore()
        self.reconciler = Reconciler(self.bridge, {"p": provider}, "ws://bridge/node")
        self.actions = Actions(self.bridge, self.reconciler)
        starting = self._start()
        self.loop.run_until_complete(starting)

    async def _start(self) -> None:
        self.reconciler.start()

    def _die(self) -> None:
        """The process ends between two instructions: nothing of it acts any more."""
        self._passed += self.loop.time() - self.life * _LIFE
        for agent in [*self.own.values(), *(machine.agent for machine in self.cloud.machines.values())]:
            if agent.socket is not None:
                agent.socket.is_up = False
            agent.socket = agent.old = None
            # Whether an offer had gone out when it died, the bridge cannot know.
            agent.offered |= {id for id, nodes in self.disk.starts.items() if agent.node in nodes}
        for customer in self.customers:
            customer.socket.is_up = False
        self.customers.clear()
        wrong = list(self.wrong)
        for task in sorted(asyncio.all_tasks(self.loop), key=asyncio.Task.get_name):
            task.cancel()
        self.loop.advance()
        self.loop.close()
        self.wrong[:] = wrong

    def crash(self, *, written: bool) -> None:
        """Kill the bridge and start it again; what it was about to write is on the disk, or not at all."""
        if written:
            self.ledger.write(answer=False)
        self._die()
        self._boot()
        self.turn()

    def restart(self) -> None:
        """End the bridge in good order, as the server does, and start it again."""
        self.bridge.close()
        stopping = self.loop.create_task(self.reconciler.stop())
        for _ in range(200):
            if stopping.done():
                break
            self.loop.advance(0.01)
        assert stopping.done(), "the reconciler does not stop"
        sockets = [customer.socket for customer in self.customers]
        nodes = [agent.socket for agent in self.everyone() if agent.socket is not None]
        for socket in [*sockets, *nodes]:
            socket.close(1012)
        self.loop.advance()
        self.ledger.write()
        self._die()
        self._boot()
        self.turn()

    # --- time ---

    def wall(self) -> float:
        """Unix seconds, as this machine believes."""
        return _EPOCH + self.skew + self._passed + self.loop.time() - self.life * _LIFE

    def turn(self) -> None:
        """Let everything happen that happens at once."""
        for _ in range(100):
            self.loop.advance()
            moved = [customer.read() for customer in self.customers]
            if self.listening:
                moved += [agent.read() for agent in self.everyone()]
            if not any(moved):
                return
        raise AssertionError("it does not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass, with heartbeats."""
        while seconds > 0:
            step = min(seconds, BEAT)
            if self.beating:
                for agent in self.everyone():
                    agent.beat()
            self.loop.advance(step)
            self.turn()
            seconds -= step

    # --- who is there ---

    def everyone(self) -> list[Agent]:
        """All node programs that run."""
        return [*self.cloud.agents(), *(agent for agent in self.own.values() if not agent.ended)]

    def customer_comes(self, project: int = 0) -> Customer:
        """A client of one of the projects dials and shows its key."""
        socket = ClientWire(self.bridge, self.loop.call_soon)
        customer = Customer(socket)
        socket.say({"type": "CREDENTIAL", "payload": {"credential": CLIENT_KEYS[project]}})
        assert socket.read() == [{"type": "auth_success"}]
        self.customers.append(customer)
        return customer

    def register(self, agent: Agent, keep: int = -1) -> None:
        """A node dials in."""
        agent.register(NodeWire(self.bridge, self.reconciler, self.loop.call_soon), keep)
        self.turn()

    def own_node(self, id: str) -> Agent:
        """A node that no provider made."""
        agent = self.own.get(id)
        if agent is None or agent.ended:
            offered = agent.offered if agent is not None else set()
            agent = self.own[id] = Agent(id, NODE_KEY, self.spec.slots, offered=offered)
        return agent

    def agent(self, node: str) -> Agent | None:
        """The program that runs as this node."""
        return next((agent for agent in self.everyone() if agent.node == node), None)

    def begun(self) -> dict[str, Session]:
        """The sessions whose offer a node was sent."""
        return {id: entry.session for id, entry in self.bridge.sessions.items() if entry.begun}

    # --- what is looked at as it happens ---

    def _inspect(self, operation: str, node: str) -> None:
        """Before each operation: its intent is stored, it is the only one of its node, and nobody uses the node."""
        row = self.disk.nodes.get(node)
        here = self.pool.nodes.get(node)
        if row is None or OPERATIONS.get(NodeState(row.state)) != operation:
            self.wrong.append(f"{operation} {node} before its intent was stored: {row}")
        if here is None or OPERATIONS.get(here.state) != operation:
            self.wrong.append(f"{operation} {node} while it is {here.state if here else 'unknown'}")
        if any(call.node == node and call.life == self.life for call in self.cloud.calls):
            self.wrong.append(f"{operation} {node} beside another operation")
        used = [id for id, entry in self.bridge.sessions.items() if entry.session.node == node]
        if used and operation in ("stop", "destroy"):
            self.wrong.append(f"{operation} {node} under {used}")

    def _watch(self, pool: Pool) -> None:
        """Have a look whenever a node loses its sessions."""
        real = pool.observe

        def observe(id: str, event: NodeEvent, now: float) -> bool:
            node = pool.nodes[id]
            before, held = node.state, len(node.sessions)
            if event is NodeEvent.START and pool.breaker.state is BreakerState.OPEN:
                self.wrong.append(f"{id} is started while the breaker is open")
            changed = real(id, event, now)
            SEEN[before, event] += 1
            if held and not node.sessions:
                self._judge(node, before, event, now)
            return changed

        cast(Any, pool).observe = observe
        really = pool.add

        def add(node: Node) -> None:
            if node.state is NodeState.PROVISIONING and pool.breaker.state is BreakerState.OPEN:
                self.wrong.append(f"{node.id} is created while the breaker is open")
            really(node)

        cast(Any, pool).add = add

    def _judge(self, node: Node, before: NodeState, event: NodeEvent, now: float) -> None:
        agent = self.agent(node.id)
        fresh = agent is not None and agent.is_up and now - node.heard < self.bridge.silence
        deadline = before is NodeState.DRAINING and event is NodeEvent.TIMEOUT
        if fresh and not deadline and event not in _DELIBERATE:
            self.wrong.append(f"{node.id} was used and well, and was given up: {before.value}, {event.value}")

    def complaints(self) -> list[str]:
        """What was wrong, with what the bridge logged with a traceback."""
        failed = [f"{entry}" for entry in self._logs.entries if entry.get("exc_info")]
        return self.wrong + failed

    def order(self, action: str, node: str) -> None:
        """An admin wants something of a node, and may be refused."""

        async def carry_out() -> None:
            with suppress(ActionError):
                await getattr(self.actions, action)(node)

        self._orders.append(self.loop.create_task(carry_out()))
        self.turn()

    # --- faults end ---

    def honest(self, land: Callable[[str, str], bool]) -> None:
        """From now on cloud, disk and nodes do what they should, but a lost answer never comes.

        Requests that nobody waits for are done or not, as `land` says.
        """
        self.beating = self.listening = True
        self.disk.slow = self.disk.failing = False
        cloud = self.cloud
        cloud.lies.clear()
        cloud.notices.clear()
        cloud.prompt, cloud.outage, cloud.slow_lists = True, False, False
        self.ledger.write()
        for call in list(cloud.calls):
            cloud.finish(call, Outcome.DONE)
        self.loop.advance()
        for operation, node in cloud.strays:
            if land(operation, node):
                cloud.do(operation, node)
        cloud.strays.clear()
        self.turn()

    def hang_up(self) -> None:
        """All clients go, and with them their media."""
        for customer in self.customers:
            customer.socket.quit(goodbye=True)
        self.customers.clear()
        for agent in self.everyone():
            for session in list(agent.sessions):
                agent.speak(session, "closed")

    def serve(self) -> None:
        """Nodes dial in, clients claim what they are given, and nodes answer and have media."""
        for agent in self.everyone():
            if not agent.is_up and not agent.ended:
                self.register(agent)
        for customer in self.customers:
            if customer.told == "waiting" and not customer.answered:
                customer.say({"type": "offer", "sdp": "o"})
        self.turn()
        for agent in self.everyone():
            for session, up in list(agent.sessions.items()):
                if not up:
                    agent.speak(session, "answer")
                    agent.speak(session, "connected")
        self.turn()

    def live(self, seconds: float) -> None:
        """All do what they should, for so long."""
        for _ in range(int(seconds / BEAT)):
            self.serve()
            self.advance(BEAT)
