"""A fake cloud that lies on command, and the programs on its machines."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gateway.proof.sockets import NodeWire
from rtcbridge.ports import Launch, ProviderError
from rtcbridge.ports import Machine as Word


class Outcome(Enum):
    """What becomes of a call."""

    DONE = "done, and said so"
    REFUSED = "not done, and said so"
    DENIED = "done, but reported as failed"
    PROMISED = "reported as done; it is done later, if ever"
    UNHEARD = "done, but the answer is lost"


@dataclass(eq=False)
class Agent:
    """A fake node program: what it believes to serve, and the socket that it has dialed.

    `up` is what the client has media on. It is a real node in this: it says which sessions it has when it dials
    in, refuses new ones while it drains, and then ends with its last session.
    """

    node: str
    token: str
    capacity: int
    pool: str = "p"
    sessions: dict[str, bool] = field(default_factory=dict)  # and whether media is up
    offered: set[str] = field(default_factory=set)  # all that this node was ever offered, in earlier lives too
    socket: NodeWire | None = None
    old: NodeWire | None = None  # one that it has given up, and that the bridge may not have noticed
    draining: bool = False
    ended: bool = False  # the program has ended

    @property
    def is_up(self) -> bool:
        return self.socket is not None and self.socket.is_up

    def register(self, socket: NodeWire, keep: int = -1) -> None:
        """Dial in with those of its sessions whose bit is set in `keep`; the others have ended meanwhile."""
        self._lose_unread()
        self.sessions = {id: up for n, (id, up) in enumerate(sorted(self.sessions.items())) if keep >> n & 1}
        payload = {"credential": self.token, "node": self.node, "pool": self.pool, "sessions": sorted(self.sessions)}
        self.old, self.socket = self.socket, socket
        socket.say({"type": "REGISTER", "payload": payload | {"capacity": self.capacity}})

    def beat(self) -> None:
        """Say that it lives, and whose media is up."""
        if self.socket is not None and self.is_up:
            self.socket.say({"type": "heartbeat", "connected": sorted(id for id, up in self.sessions.items() if up)})

    def speak(self, session: str, what: str) -> None:
        """Say something of a session."""
        message: dict[str, Any] = {"type": what, "session": session}
        match what:
            case "answer":
                message["sdp"] = "a"
            case "candidate":
                message["candidate"] = {"candidate": "nc"}
            case "error":
                message["message"] = "no"
            case _:
                message |= {"type": "session_state", "state": what}
        if what in ("error", "closed", "failed"):
            self.sessions.pop(session, None)
        elif what == "connected" and session in self.sessions:
            self.sessions[session] = True
        if self.socket is not None:
            self.socket.say(message)
        self._end_if_drained()

    def read(self) -> bool:
        """Do what it was told; return whether there was anything. Raises AssertionError if it may not be told so."""
        if self.socket is None or not self.socket.got:
            return False
        for message in self.socket.read():
            session = message.get("session", "")
            match message["type"]:
                case "offer":
                    self._take(session)
                case "candidate":
                    assert session in self.offered, "a candidate overtook its offer"
                case "session_end":
                    assert session in self.offered, "the end of a session that was never offered"
                    self.sessions.pop(session, None)
                case "drain":
                    self.draining = True
                case kind:
                    assert kind == "registered", message
        self._end_if_drained()
        return True

    def _take(self, session: str) -> None:
        self.offered.add(session)
        if session in self.sessions:
            return
        if self.draining:
            assert self.socket is not None
            self.socket.say({"type": "error", "session": session, "message": "the node is draining"})
            return
        self.sessions[session] = False
        assert len(self.sessions) <= self.capacity, "more live sessions than slots"

    def _end_if_drained(self) -> None:
        if self.draining and not self.sessions and not self.ended:
            self.ended = True
            if self.socket is not None:
                self.socket.quit(goodbye=True)

    def _lose_unread(self) -> None:
        """What it has not read is gone, but the bridge did send it."""
        if self.socket is not None:
            self.offered |= {message["session"] for message in self.socket.read() if message["type"] == "offer"}

    def die(self) -> None:
        """The machine is switched off."""
        self._lose_unread()
        self.ended = True
        self.sessions.clear()
        if self.socket is not None:
            self.socket.quit(goodbye=False)


@dataclass(eq=False)
class Machine:
    """A rented machine. One that does not run keeps its disk."""

    running: bool
    agent: Agent


@dataclass(eq=False)
class Call:
    """A request that is under way, as the bridge sees it."""

    operation: str
    node: str
    life: int  # of the bridge
    answer: asyncio.Future[Any]
    done: bool = False
    lost: bool = False  # its answer will never come
    view: Mapping[str, Word] | None = None  # what a list saw


class Cloud:
    """The machines, and what has been asked and not been answered.

    Attributes:
        prompt: Calls are done and answered at once; else each waits for a word.
        outage: Every call fails at once.
        slow_lists: A list waits for its answer as other calls do, and is out of date when it comes.
        offered: All sessions that a node was ever offered, on whatever machine.
        notices: Machines that it will take away soon, by its own word.
        lies: What a list says of a machine, whatever is true; None: it is not listed.
        strays: Requests that may still be done, though nobody waits for them.
        bent: Whether it has ever lied, or done something late.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.machines: dict[str, Machine] = {}
        self.calls: list[Call] = []
        self.strays: list[tuple[str, str]] = []
        self.offered: dict[str, set[str]] = {}
        self.notices: set[str] = set()
        self.lies: dict[str, Word | None] = {}
        self.prompt, self.outage, self.slow_lists, self.bent = True, False, False, False

    def do(self, operation: str, node: str) -> str:
        """Do it; return why it cannot be done, or nothing."""
        machine = self.machines.get(node)
        if operation == "create":
            if machine is None:
                self.machines[node] = self._machine(node)
        elif operation == "destroy":
            self.notices.discard(node)
            if machine is not None:
                self.off(machine)
                del self.machines[node]
        elif machine is None:
            return f"there is no machine {node}"
        elif operation == "stop":
            self.off(machine)
        elif not machine.running:
            self.machines[node] = self._machine(node)
        return ""

    def _machine(self, node: str) -> Machine:
        offered = self.offered.setdefault(node, set())
        return Machine(True, Agent(node, f"token-{node}", self.slots, offered=offered))

    def off(self, machine: Machine) -> None:
        """Switch a machine off."""
        if machine.running:
            machine.running = False
            machine.agent.die()

    def finish(self, call: Call, outcome: Outcome) -> None:
        """Let a call come to an end."""
        if call.answer.done() or call.lost:
            return
        call.lost = outcome is Outcome.UNHEARD
        if call.operation == "list":
            if outcome is not Outcome.UNHEARD:
                call.answer.set_result(call.view)
            return
        failure = ""
        if outcome is Outcome.PROMISED:
            self.strays.append((call.operation, call.node))
            call.done = self.bent = True
        elif outcome is not Outcome.REFUSED and not call.done:
            failure = self.do(call.operation, call.node)
            call.done = True
        if outcome in (Outcome.REFUSED, Outcome.DENIED) or failure:
            call.answer.set_exception(ProviderError(failure or "not today"))
        elif outcome is not Outcome.UNHEARD:
            call.answer.set_result(None)

    def land(self, index: int, *, keep: bool = False) -> None:
        """A request that nobody waits for is done after all; with `keep` it may be done once more."""
        self.bent = True
        operation, node = self.strays[index] if keep else self.strays.pop(index)
        self.do(operation, node)

    def view(self) -> Mapping[str, Word]:
        """What a list shows now."""
        truth = {id: Word.RUNNING if machine.running else Word.STOPPED for id, machine in self.machines.items()}
        truth |= {id: Word.LEAVING for id in self.notices if truth.get(id) is Word.RUNNING}
        for id, lie in self.lies.items():
            if lie is None:
                truth.pop(id, None)
            else:
                truth[id] = lie
        return truth

    def agents(self) -> list[Agent]:
        """The programs that run."""
        return [machine.agent for machine in self.machines.values() if machine.running and not machine.agent.ended]


class CloudProvider:
    """The `Provider` of one life of the bridge, over the fake cloud.

    Args:
        cloud: The cloud.
        life: Which life of the bridge this is.
        inspect: Is told each operation as it is asked for.
    """

    list_interval = 2.0

    def __init__(self, cloud: Cloud, life: int, inspect: Callable[[str, str], None]) -> None:
        self._cloud, self._life, self._inspect = cloud, life, inspect

    async def create(self, launch: Launch) -> None:
        await self._ask("create", launch.node)

    async def start(self, launch: Launch) -> None:
        await self._ask("start", launch.node)

    async def stop(self, launch: Launch) -> None:
        await self._ask("stop", launch.node)

    async def destroy(self, launch: Launch) -> None:
        await self._ask("destroy", launch.node)

    async def list(self) -> Mapping[str, Word] | None:
        if self._cloud.outage:
            raise ProviderError("no route to the cloud")
        if not self._cloud.slow_lists:
            return self._cloud.view()
        view: Mapping[str, Word] = await self._wait("list", "", self._cloud.view())
        return view

    async def close(self) -> None:
        pass

    async def _ask(self, operation: str, node: str) -> None:
        self._inspect(operation, node)
        if self._cloud.outage:
            raise ProviderError("no route to the cloud")
        await self._wait(operation, node, None)

    async def _wait(self, operation: str, node: str, view: Mapping[str, Word] | None) -> Any:
        cloud = self._cloud
        call = Call(operation, node, self._life, asyncio.get_running_loop().create_future(), view=view)
        cloud.calls.append(call)
        if cloud.prompt and operation != "list":
            cloud.finish(call, Outcome.DONE)
        try:
            return await call.answer
        finally:
            cloud.calls.remove(call)
            if not call.done and operation != "list" and (call.answer.cancelled() or not call.answer.done()):
                cloud.strays.append((operation, node))  # on its way, with nobody left to hear of it
                cloud.strays.sort()  # tasks that are cancelled together end in no order that is always the same
