"""Every interleaving of a small cluster, breadth first, over the real script.

Replicas, nodes and sessions are modelled here as `redis_store.py` and the agent behave; the engine is `pool.lua`. A
session belongs to replica `number % 2`; a node's socket is with replica `number % 2`, after its death with the other,
and may move there before.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import model_rules as rules
from engine.lua_redis import Commands, Script
from engine.model_parts import FAULTS, GRACE, HALF, LEASE, Node, P, Replica, Session, Size
from rtcbridge.drivers.engine.redis_store import SCRIPT


@dataclass
class World:
    """One state."""

    size: Size
    script: Script
    gate: bool
    sessions: list[Session] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    zombie: tuple[str, ...] = ()
    strange: str = ""
    ran: frozenset[int] = frozenset()  # sessions that a node has ever served
    unsaid: frozenset[int] = frozenset()  # those of them whose replica died before it said so

    @property
    def commands(self) -> Commands:
        return self.script.commands

    # --- keeping and restoring ---

    def freeze(self) -> Any:
        data = tuple(
            (
                key,
                tuple(sorted(value.items()))
                if isinstance(value, dict)
                else tuple(value if isinstance(value, list) else sorted(value)),
            )
            for key, value in sorted(self.commands.data.items())
        )
        return (
            self.commands.now,
            data,
            tuple((each.state, each.node, each.epoch, each.at) for each in self.sessions),
            tuple((each.epoch, each.boot, each.running, each.socket) for each in self.nodes),
            tuple(
                (each.alive, each.epoch, each.me, each.generation, each.books, each.orphans, each.missing)
                for each in self.replicas
            ),
            tuple(self.faults.items()),
            self.zombie,
            self.ran,
            self.unsaid,
        )

    def thaw(self, state: Any) -> None:
        self.commands.now, data, sessions, nodes, replicas, faults, self.zombie, self.ran, self.unsaid = state
        self.strange = ""
        restored: dict[str, Any] = {}
        for key, value in data:
            name = key.removeprefix(P)
            if name.startswith(("node:", "owned:", "project:")):
                restored[key] = set(value)
            else:
                restored[key] = list(value) if name.startswith("wake:") else dict(value)
        self.commands.data = restored
        self.sessions = [Session(*each) for each in sessions]
        self.nodes = [Node(*each) for each in nodes]
        self.replicas = [Replica(*each) for each in replicas]
        self.faults = dict(faults)

    # --- what replicas do ---

    def ask(self, r: int, command: str, *arguments: Any) -> list[Any]:
        replica = self.replicas[r]
        return self.script.call(command, replica.epoch, replica.me, replica.generation, *arguments)

    def attach(self, r: int) -> None:
        replica = self.replicas[r]
        replica.generation += 1
        before = (replica.epoch, replica.me)
        replica.me = replica.me or f"r{r}|"
        fresh = f"E{self.commands.now}.{r}.{replica.generation}"
        answer = self.ask(r, "attach", "server", LEASE, GRACE, fresh)
        assert answer[0] == "OK", answer
        replica.epoch, replica.me = answer[1], answer[2]
        for number, session in enumerate(self.sessions):
            if self.owner(number) == r and session.state == "ending":
                self.release(number)
        if before[0] and before != (replica.epoch, replica.me):
            self.tell(r)

    def tell(self, r: int) -> None:
        for n, socket, epoch in self.replicas[r].books:
            opened = int(socket != "")
            answer = self.ask(r, "node", f"n{n}", self.size.capacity, socket, epoch, 0, opened, "", GRACE, "")
            if answer[0] != "OK" and epoch < int(answer[1]):
                self.replicas[r].note(n)
        for number, session in enumerate(self.sessions):
            if self.owner(number) != r:
                continue
            if session.state in ("held", "live"):
                self.tell_held(number)
            elif session.state == "waiting":
                self.reserved(number, self.ask(r, "reserve", f"s{number}", 0, 0, "", 1, "", *self.size.share))

    def tell_held(self, number: int) -> None:
        session, replica = self.sessions[number], self.replicas[self.owner(number)]
        replica.missing -= {number}
        if session.state not in ("held", "live"):
            return
        live = int(session.state == "live")
        answer = self.ask(
            self.owner(number), "hold", f"s{number}", f"n{session.node}", session.epoch, live, *self.size.share, 1
        )
        if answer[0] == "OK":
            session.epoch, session.at = int(answer[1]), answer[3]
        elif answer[0] == "NONODE":
            replica.missing |= {number}
        elif answer[0] in ("EPOCH-OF-NODE", "FULL", "ELSEWHERE", "ENDED"):
            self.lost(number)

    def lost(self, number: int) -> None:
        session = self.sessions[number]
        self.stop(session.node, number)
        session.state = "gone"

    def reserved(self, number: int, answer: list[Any]) -> None:
        session = self.sessions[number]
        if answer[0] == "grant":
            session.state, session.node, session.epoch = "held", int(answer[2][1:]), int(answer[3])
            session.at = answer[4]
        elif answer[0] == "place":
            session.state = "waiting"
        else:
            self.attach(self.owner(number))

    def release(self, number: int) -> None:
        if self.ask(self.owner(number), "release", f"s{number}")[0] == "OK":
            self.sessions[number].state = "gone"

    def owner(self, number: int) -> int:
        return number % 2

    def socket(self, n: int) -> str:
        node = self.nodes[n]
        return f"k{node.boot}.{node.socket}"

    def stop(self, n: int, number: int) -> None:
        if n >= 0:
            self.nodes[n].running -= {number}

    def register(self, n: int) -> None:
        """A node dials in, anew, at the replica that has its socket from now on."""
        node = self.nodes[n]
        self._served(n)
        sessions = [f"s{number}" for number in sorted(node.running)]
        arguments = ("node", f"n{n}", self.size.capacity, self.socket(n), node.epoch, 1, 1, "", GRACE, "", *sessions)
        answer = self.ask(node.socket, *arguments)
        if answer[0] != "OK":
            self.attach(node.socket)
            answer = self.ask(node.socket, *arguments)
        node.epoch = int(answer[1])
        self.replicas[node.socket].note(n, self.socket(n), node.epoch)

    def _served(self, n: int) -> None:
        """The node's word on what it runs; a session of which nobody has ever heard ends there."""
        node = self.nodes[n]
        if not (unsaid := node.running & self.unsaid):
            return
        names = [f"s{number}" for number in sorted(unsaid)]
        if self.ask(node.socket, "served", f"n{n}", *names)[0] != "OK":
            self.attach(node.socket)
            self.ask(node.socket, "served", f"n{n}", *names)
        for number in unsaid:
            claim = self.commands.data.get(f"{P}sessions", {}).get(f"s{number}", "|||")
            if claim.split("|")[2] != "1":
                self.stop(n, number)

    def pass_time(self, frozen: int = -1) -> None:
        """More than a lease goes by; everybody who is not frozen says so in time."""
        for _ in range(2):
            self.commands.now += HALF
            for r, replica in enumerate(self.replicas):
                if replica.alive and r != frozen:
                    self.beat(r)

    def beat(self, r: int) -> None:
        """Say that it lives, and of the slots that the engine does not know yet; in the end they are lost.

        These are said again much more often than a lease is renewed.
        """
        for number in sorted(self.replicas[r].missing):
            self.tell_held(number)
        if self.ask(r, "beat", LEASE, GRACE)[0] != "OK":
            self.attach(r)
        for number in sorted(self.replicas[r].missing):
            self.tell_held(number)
        if "recover" not in self.commands.data[f"{P}meta"]:
            for number in self.replicas[r].missing:
                self.lost(number)
            self.replicas[r].missing = frozenset()

    def wake(self, r: int) -> None:
        """Take the oldest of the news."""
        key = f"{P}wake:{self.replicas[r].me}"
        news, name, node, epoch, at, _ = self.commands.data[key].pop(0).split("|")
        self.commands._prune(key)
        if not name:
            self._wake_of_node(r, news, int(node[1:]), int(epoch))
            return
        number, n = int(name[1:]), int(node[1:])
        session = self.sessions[number]
        if news == "orphan":
            self._orphan(r, number)
        elif session.state == "waiting" and news == "granted":
            session.state, session.node, session.epoch, session.at = "held", n, int(epoch), at
        elif session.state in ("held", "live") and news == "moved":
            session.epoch, session.at = int(epoch), at
        elif session.state in ("held", "live") and news == "lost":
            self.lost(number)
            session.state = "ending"  # it has a place in line, which is to be given back

    def _orphan(self, r: int, number: int) -> None:
        """Take note; what has ended is given back."""
        self.replicas[r].orphans |= {number}
        if self.sessions[number].state == "gone":
            self.ask(r, "release", f"s{number}")
        alive = self.replicas[self.owner(number)].alive and self.faults["freeze"] == self.size.freeze
        if alive and self.sessions[number].state in ("held", "live"):
            self.strange = f"s{number} is called an orphan, but its owner is alive"

    def _wake_of_node(self, r: int, news: str, n: int, epoch: int) -> None:
        known = {book[0]: book[2] for book in self.replicas[r].books}
        if news in ("replaced", "forgotten") and known.get(n, epoch) < epoch:
            self.replicas[r].note(n)

    def offer(self, number: int) -> None:
        """The offer goes to the node whatever the engine says: a replica that was frozen does not know better."""
        session = self.sessions[number]
        node = self.nodes[session.node]
        self.ask(self.owner(number), "begin", f"s{number}")
        if not self.gate or (len(node.running) < self.size.capacity and node.epoch == session.epoch):
            node.running |= {number}
            self.ran |= {number}
            session.state = "live"
        else:
            session.state = "ending"

    # --- steps ---

    def steps(self) -> Iterator[tuple[str, Callable[[], object], str]]:
        """Label, what happens, and the fault that it uses up."""
        for number, session in enumerate(self.sessions):
            if self.replicas[self.owner(number)].alive:
                yield from self._session_steps(number, session)
            elif session.state == "live" and self._can_end(number, self.nodes[session.node]):
                yield f"orphan s{number} ends", lambda number=number: self._orphan_ends(number), ""
        yield from self._replica_steps()
        for n in range(len(self.nodes)):
            yield f"n{n} reboots", lambda n=n: self._reboot(n), "reboot"
            yield from self._socket_steps(n)
        yield "data lost", self.commands.data.clear, "wipe"
        if self._time_matters():
            yield "a lease passes", self.pass_time, ""
        if self.zombie:
            yield "a delayed call arrives", self._zombie_arrives, ""

    def _socket_steps(self, n: int) -> Iterator[tuple[str, Callable[[], object], str]]:
        node = self.nodes[n]
        if node.socket == -1:
            for r, replica in enumerate(self.replicas):
                if replica.alive:
                    yield f"n{n} dials in at r{r}", lambda r=r: self._dial(n, r), ""
            return
        yield f"the socket of n{n} drops", lambda: self._drop(n), "drop"
        if self.replicas[1 - node.socket].alive:
            yield f"n{n} dials in at r{1 - node.socket}, too", lambda: self._dial(n, 1 - node.socket), "move"

    def _replica_steps(self) -> Iterator[tuple[str, Callable[[], object], str]]:
        for r, replica in enumerate(self.replicas):
            if not replica.alive:
                continue
            if self.commands.data.get(f"{P}wake:{replica.me}"):
                yield f"r{r} hears", lambda r=r: self.wake(r), ""
            yield f"r{r} freezes beyond its lease", lambda r=r: self.pass_time(r), "freeze"
            if all(each.alive for each in self.replicas):
                yield f"r{r} crashes", lambda r=r: self._crash(r), "crash"

    def _time_matters(self) -> bool:
        recovering = "recover" in self.commands.data.get(f"{P}meta", {})
        return recovering or not self.all_attached() or any(self.unburied(each) for each in self.replicas)

    def unburied(self, replica: Replica) -> bool:
        return not replica.alive and replica.me in self.commands.data.get(f"{P}replicas", {})

    def all_attached(self) -> bool:
        meta = self.commands.data.get(f"{P}meta", {})
        return all(
            not each.alive or (each.epoch == meta.get("engine") and f"g:{each.me}" in meta) for each in self.replicas
        )

    def _session_steps(self, number: int, session: Session) -> Iterator[tuple[str, Callable[[], object], str]]:
        r = self.owner(number)
        call = ("reserve", f"s{number}", "0", "0", "", "1", "", *self.size.share)
        if session.state in ("new", "asking"):
            yield f"s{number} reserves", lambda: self.reserved(number, self.ask(r, *call)), ""
        if session.state == "new":
            yield f"s{number} reserves, answer lost", lambda: self._lost_reserve(number, call), "lose"
            yield f"s{number} reserves, delayed", lambda: self._delayed(number, call), "zombie"
        if session.state == "held":
            yield f"s{number} offers", lambda: self.offer(number), ""
            if all(each.alive for each in self.replicas) and session.at == f"r{r}":
                yield f"s{number} offers, and r{r} crashes", lambda: self._offer_and_crash(number), "crash"
            yield f"s{number} yields", lambda: self._yield(number), "lose"
        if session.state in ("held", "live", "waiting"):
            yield f"s{number} ends", lambda: self._end(number, lost=False), ""
            yield f"s{number} ends, answer lost", lambda: self._end(number, lost=True), "lose"
        if session.state == "ending":
            yield f"s{number} is released", lambda: self._release_or_attach(number), ""

    def _lost_reserve(self, number: int, call: tuple[str, ...]) -> None:
        self.ask(self.owner(number), *call)
        self.sessions[number].state = "asking"

    def _delayed(self, number: int, call: tuple[str, ...]) -> None:
        """The call stays on its way; the replica gives the connection up and calls again over another."""
        replica = self.replicas[self.owner(number)]
        self.zombie = (call[0], replica.epoch, replica.me, str(replica.generation), *call[1:])
        self.attach(self.owner(number))
        self.sessions[number].state = "asking"

    def _zombie_arrives(self) -> None:
        zombie, self.zombie = self.zombie, ()
        self.script.call(*zombie)

    def _yield(self, number: int) -> None:
        self.reserved(number, self.ask(self.owner(number), "yield", f"s{number}", 0, f"t{number}"))

    def _end(self, number: int, *, lost: bool) -> None:
        session = self.sessions[number]
        self.stop(session.node, number)
        if lost:
            self.ask(self.owner(number), "release", f"s{number}")
        session.state = "ending"
        if not lost:
            self._release_or_attach(number)

    def _release_or_attach(self, number: int) -> None:
        self.release(number)
        if self.sessions[number].state == "ending":
            self.attach(self.owner(number))

    def _offer_and_crash(self, number: int) -> None:
        """To a node whose socket it has itself; its call of the engine dies with it."""
        session = self.sessions[number]
        node = self.nodes[session.node]
        if node.socket == self.owner(number) and len(node.running) < self.size.capacity:
            node.running |= {number}
            self.ran, self.unsaid = self.ran | {number}, self.unsaid | {number}
            session.state = "live"
        self._crash(self.owner(number))

    def _crash(self, r: int) -> None:
        self.replicas[r].alive = False
        for number, session in enumerate(self.sessions):
            if self.owner(number) == r and session.state != "live":
                session.state = "gone"
        for node in self.nodes:
            if node.socket == r:
                node.socket = -1

    def _can_end(self, number: int, node: Node) -> bool:
        """Whether a node can tell of the end; of what only it knows it tells when it is back."""
        return number in node.running and (number not in self.unsaid or node.socket != -1)

    def _orphan_ends(self, number: int) -> None:
        node = self.sessions[number].node
        self.stop(node, number)
        self.sessions[number].state = "gone"
        r = self._living()
        if self.ask(r, "release", f"s{number}")[0] != "OK":
            self.attach(r)
            self.ask(r, "release", f"s{number}")

    def _living(self) -> int:
        return next(r for r, replica in enumerate(self.replicas) if replica.alive)

    def _reboot(self, n: int) -> None:
        node = self.nodes[n]
        node.running = frozenset()
        self._dial(n, node.socket if node.socket >= 0 else self._living())

    def _dial(self, n: int, r: int) -> None:
        self.nodes[n].boot += 1
        self.nodes[n].socket = r
        self.register(n)

    def _drop(self, n: int) -> None:
        node = self.nodes[n]
        replica = self.replicas[node.socket]
        replica.note(n, "", node.epoch)
        if self.ask(node.socket, "down", f"n{n}", node.epoch)[0] != "OK":
            self.attach(node.socket)
        node.socket = -1


@dataclass
class Outcome:
    """How many states there are, and the shortest way to a wrong one."""

    states: int
    wrong: str
    path: list[str]


def explore(size: Size, *, gate: bool = True, changes: Sequence[tuple[str, str]] = (), limit: int = 400_000) -> Outcome:
    """Visit every state of a cluster of this size.

    Args:
        size: of the cluster, with its faults.
        gate: whether nodes refuse what is over their capacity or of another epoch.
        changes: texts of the script, and what to put in their place: a mutation that is to be found.
        limit: of states; reaching it is an error.
    """
    source = SCRIPT.decode()
    for old, new in changes:
        assert old in source, f"the script has no {old!r}"
        source = source.replace(old, new)
    world = World(size, Script(Commands(), source), gate)
    world.commands.now = 1000
    world.sessions = [Session() for _ in range(size.sessions)]
    world.nodes = [Node(socket=n % 2) for n in range(size.nodes)]
    world.replicas = [Replica(), Replica()]
    world.faults = {name: getattr(size, name) for name in FAULTS}
    for r in range(2):
        world.attach(r)
    for n in range(size.nodes):
        world.register(n)
    world.pass_time()
    return _search(world, limit)


def _search(world: World, limit: int) -> Outcome:
    first = world.freeze()
    before: dict[Any, tuple[Any, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        world.thaw(state)
        for index, (label, _, fault) in enumerate(list(world.steps())):
            if fault and not world.faults[fault]:
                continue
            world.thaw(state)
            list(world.steps())[index][1]()
            if fault:
                world.faults[fault] -= 1
            after = world.freeze()
            if after not in before:
                before[after] = (state, label)
                assert len(before) < limit, "too many states: a smaller size, please"
                if wrong := rules.wrong(world):
                    return Outcome(len(before), wrong, _path(before, after))
                queue.append(after)
            world.thaw(state)
    return Outcome(len(before), "", [])


def _path(before: dict[Any, Any], state: Any) -> list[str]:
    path = []
    while (step := before[state]) is not None:
        state = step[0]
        path.append(step[1])
    return path[::-1]
