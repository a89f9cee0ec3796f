"""A pool that this replica shares with others: its sessions' slots and places are in the engine."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

from msgspec import Struct

from rtcbridge.core.assignment import Verdict
from rtcbridge.core.errors import Error
from rtcbridge.core.events import Failed, Full, Granted, Lost, Pending
from rtcbridge.core.line import Line, Waiter
from rtcbridge.core.messages import Status
from rtcbridge.core.node import Node
from rtcbridge.core.pool import Pool
from rtcbridge.core.spec import PoolSpec
from rtcbridge.gateway.shared.calls import Calls
from rtcbridge.ports_engine import Grant, Place, PoolView, Standing, Store


class Waiting:
    """A session of this replica that waits: what it asked for, and what it was last told."""

    __slots__ = ("after", "exclude", "front", "patient", "place", "project", "status")

    def __init__(self, patient: bool, front: bool = False, exclude: str = "", project: str = "") -> None:
        self.patient, self.front, self.exclude, self.project = patient, front, exclude, project
        self.after = ""  # a session that was lost, whose place it takes
        self.place: int | None = None
        self.status: Status | None = None


class Carried(Struct, frozen=True, kw_only=True):
    """What a replica knows of a session's slot or place: another one goes on with that.

    `grant` is None while it waits or holds a reservation; `live`: its offer has gone to the node.
    """

    grant: Grant | None = None
    live: bool = False
    patient: bool = True
    front: bool = False
    exclude: str = ""


class SharedPool(Pool):
    """The sessions of this replica are in `grants` and `waiting`, and every change of them is a call of the engine.

    `nodes`, `holders` and `line` are the whole pool as the replica that leads it sees it; the plan is made from them.

    Args:
        spec: what it is told to be.
        stirred: see `Assignment`.
        store: the engine's part of this pool.
        ranks: the priorities of projects.
        clock: monotonic seconds.

    Attributes:
        replicas: how many there are.
    """

    def __init__(
        self,
        spec: PoolSpec,
        stirred: Callable[[str], object],
        store: Store,
        ranks: Mapping[str, int],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(spec, None, stirred)
        self.store = store
        self.calls = Calls()
        self.grants: dict[str, Grant] = {}
        self.waiting_here: dict[str, Waiting] = {}
        self.on_node: dict[str, set[str]] = {}  # the sessions of this replica, by node
        self.arrived: Callable[[Pool], object] = lambda pool: None  # called when there is something to settle
        self.nudge: Callable[[Pool, str], object] = lambda pool, session: None  # called when a session has to wait
        self.moved: Callable[[str, Grant], object] = lambda session, grant: None  # called when its node has
        self._live: set[str] = set()  # whose offer has gone to the node
        self._lost: set[str] = set()  # told so, and not given back yet
        self._heir_of = ""
        self._why: dict[str, str] = {}  # of sessions that are about to leave, for the journal
        self.replicas = 1
        self._projects_of: dict[str, str] = {}
        self._ranks, self._clock = ranks, clock

    # --- what sessions ask ---

    @property
    def settled(self) -> bool:
        """See `Assignment`; here others may wait all the same, which the engine sees to."""
        return not self._verdicts

    def take(self, session: str, now: float) -> str | None:
        """Nothing can be given at once."""
        return None

    def join(self, session: str, *, patient: bool, front: bool = False, exclude: str = "", project: str = "") -> None:
        """See `Assignment`."""
        if session in self.grants or session in self.waiting_here:
            return
        self.waiting_here[session] = waiting = Waiting(patient, front, exclude, project)
        if front and not exclude:
            waiting.after, self._heir_of = self._heir_of, ""
        self._projects_of[session] = project
        self.calls.add(session, partial(self._reserve, session))

    def stay(self, session: str) -> None:
        """See `Assignment`."""
        if (waiting := self.waiting_here.get(session)) is not None and not waiting.patient:
            waiting.patient = True
            self.calls.add(session, partial(self._reserve, session))  # it may have been left out by then

    def ending(self, session: str, reason: str) -> None:
        """Note why a session leaves, which it does at once."""
        self._why[session] = reason

    def leave(self, session: str, now: float) -> None:
        """See `Assignment`."""
        reason = self._why.pop(session, "")
        self._verdicts.pop(session, None)
        lost = session in self._lost
        self._lost.discard(session)
        waiting = self.waiting_here.get(session)
        if (self._forget(session) or lost) and session != self._heir_of:
            self.calls.add(session, partial(self.store.release, session, reason))
            if waiting is not None and waiting.after:  # it may not have succeeded that one yet
                self.calls.add(session, partial(self.store.release, waiting.after))

    def succeed(self, session: str) -> None:
        """Let the next session that joins at the front have what this one has, which was lost with its node."""
        if session in self._lost:
            self._heir_of = session

    def yield_slot(self, session: str, now: float) -> None:
        """See `Assignment`."""
        self.calls.add(session, partial(self._again, session, partial(self.store.yield_slot, session)))

    def suspend(self, session: str, now: float) -> None:
        """See `Assignment`."""
        self.calls.add(session, partial(self._suspend, session))

    def resume(self, session: str) -> None:
        """See `Assignment`."""
        if (waiting := self.waiting_here.get(session)) is not None:
            waiting.status = None
        self.calls.add(session, partial(self._again, session, partial(self.store.resume, session)))

    def begun(self, session: str) -> None:
        """The offer goes to the node: the slot outlives this replica."""
        if session not in self._live:
            self._live.add(session)
            self.calls.add(session, partial(self.store.begin, session))

    def hold(self, session: str, grant: Grant) -> None:
        """Note a slot that the engine says is held by a session of this replica."""
        self._granted(session, grant)

    # --- from one replica to another ---

    def part_with(self, session: str, *, served: bool) -> Carried | None:
        """Let another replica have a session's slot or place, if it has one. `served`: it is with its node."""
        self._verdicts.pop(session, None)
        grant, waiting = self.grants.pop(session, None), self.waiting_here.pop(session, None)
        carried = None
        if grant is not None:
            self._off_node(session, grant.node)
            carried = Carried(grant=grant if served else None, live=session in self._live)
        elif waiting is not None:
            carried = Carried(patient=waiting.patient, front=waiting.front, exclude=waiting.exclude)
        self._forget_rest(session)
        return carried

    def take_in(self, session: str, project: str, carried: Carried) -> None:
        """Go on with what another replica knew of a session."""
        self._projects_of[session] = project
        if carried.grant is not None:
            self._granted(session, carried.grant)
            if carried.live:
                self._live.add(session)
        else:
            self.waiting_here[session] = Waiting(carried.patient, carried.front, carried.exclude, project)
        rank, limit = -self._ranks.get(project, 0), self.spec.max_per_project
        call = partial(self.store.take_over, session, rank=rank, exclude=carried.exclude, project=project, limit=limit)
        again = self._again if carried.grant is None else self._go_on
        self.calls.add(session, partial(again, session, call))

    async def _go_on(self, session: str, call: Callable[[], Awaitable[Standing]]) -> None:
        """Own the slot of a session that is with its node, unless it has been lost since."""
        if (grant := self.grants.get(session)) is None:
            return
        try:
            standing = await call()
        except KeyError:
            standing = Place(0, 0)
        if session not in self.grants:
            return
        if not isinstance(standing, Grant) or standing.node != grant.node:
            self.lost(session)
            return
        if session in self._live:
            await self.store.begin(session)
        if standing != grant:
            self.moved(session, standing)

    def _forget(self, session: str) -> bool:
        """Take a session out of this replica's books; false if it was not in them."""
        grant, waiting = self.grants.pop(session, None), self.waiting_here.pop(session, None)
        if grant is not None:
            self._off_node(session, grant.node)
            self._estimator.sessions.append(self._clock() - self._estimator.held[session])
        self._forget_rest(session)
        return grant is not None or waiting is not None

    def _forget_rest(self, session: str) -> None:
        self._estimator.held.pop(session, None)
        self._projects_of.pop(session, None)
        self._live.discard(session)

    def _off_node(self, session: str, node: str) -> None:
        if (others := self.on_node.get(node)) is not None:
            others.discard(session)
            if not others:
                del self.on_node[node]

    # --- what the engine answers ---

    async def _reserve(self, session: str) -> None:
        if (waiting := self.waiting_here.get(session)) is None:
            return
        rank = -self._ranks.get(waiting.project, 0)
        project, limit = waiting.project, self.spec.max_per_project
        if waiting.after:
            standing = await self.store.succeed(session, waiting.after, rank=rank, project=project, limit=limit)
        else:
            standing = await self.store.reserve(
                session, rank=rank, front=waiting.front, exclude=waiting.exclude, patient=waiting.patient,
                project=project, limit=limit,
            )  # fmt: skip
        self._stands(session, standing)

    async def _again(self, session: str, call: Callable[[], Awaitable[Standing]]) -> None:
        """Ask what a session has after a change of it; one that has lost all begins anew, before the others."""
        if session not in self.grants and session not in self.waiting_here:
            return
        try:
            standing = await call()
        except KeyError:
            if session in self.grants or session in self.waiting_here:
                self._waits(session, front=True)
                await self._reserve(session)
        else:
            self._stands(session, standing)

    async def _suspend(self, session: str) -> None:
        if session not in self.grants and session not in self.waiting_here:
            return
        try:
            await self.store.suspend(session)
        except KeyError:
            return
        if session in self.grants or session in self.waiting_here:
            self._waits(session)

    def _waits(self, session: str, front: bool = False) -> Waiting:
        """Note that a session has a place in line, and no slot."""
        if (grant := self.grants.pop(session, None)) is not None:
            self._off_node(session, grant.node)
        waiting = self.waiting_here.get(session)
        if waiting is None:
            waiting = Waiting(True, front, project=self._projects_of.get(session, ""))
            self.waiting_here[session] = waiting
        return waiting

    def _stands(self, session: str, standing: Standing) -> None:
        if session not in self.grants and session not in self.waiting_here:
            return  # it has left meanwhile, and its release is the next call
        if isinstance(standing, Grant):
            self.granted(session, standing)
        else:
            if session in self.grants:
                self._waits(session)
            self.placed(session, standing)
            self.nudge(self, session)

    def granted(self, session: str, grant: Grant) -> None:
        """A session of this replica has got a slot, or still has it."""
        if session in self.grants or session in self.waiting_here:
            self._granted(session, grant)
            self._verdicts[session] = Granted(grant.node)
            self.arrived(self)

    def _granted(self, session: str, grant: Grant) -> None:
        self.waiting_here.pop(session, None)
        if (old := self.grants.get(session)) is not None and old.node != grant.node:
            self._off_node(session, old.node)
        self.grants[session] = grant
        self._estimator.held.setdefault(session, self._clock())
        self.on_node.setdefault(grant.node, set()).add(session)

    def placed(self, session: str, place: Place) -> None:
        """A session of this replica has this place in line; it is told if that means something else than before."""
        if (waiting := self.waiting_here.get(session)) is None or not place.place:
            return
        waiting.place = place.place
        if place.supply < 0:
            return  # nobody knows yet what that means
        status = Status.PENDING if place.place <= place.supply and not place.barred else Status.FULL
        if status is waiting.status:
            return
        before, waiting.status = waiting.status, status
        if status is Status.PENDING:
            self._verdicts[session] = Pending()
        else:
            if not waiting.patient and self._forget(session):
                self.calls.add(session, partial(self.store.release, session))
            failed = before is Status.PENDING and place.cause
            self._verdicts[session] = Failed(Error[place.cause]) if failed else Full()
        self.arrived(self)

    def lost(self, session: str) -> None:
        """A session of this replica has lost its slot."""
        if self.grants.get(session) is not None and self._forget(session):
            self._lost.add(session)
            self._verdicts[session] = Lost()
            self.arrived(self)

    def settle(self, now: float) -> list[Verdict]:
        """Return what is new for the sessions of this replica."""
        verdicts = list(self._verdicts.items())
        self._verdicts.clear()
        return verdicts

    def position(self, session: str) -> int | None:
        """See `Assignment`."""
        waiting = self.waiting_here.get(session)
        return None if waiting is None else waiting.place

    def eta(self, session: str, now: float) -> float | None:
        """See `Assignment`; from the sessions of this replica, as if those of the others went the same way."""
        waiting = self.waiting_here.get(session)
        if waiting is None or not waiting.place:
            return None
        return self._estimator.delay(-(-waiting.place // max(1, self.replicas)), now, self.spec.slots, 0, 0)

    # --- the whole pool, for the replica that leads it ---

    @property
    def restless(self) -> bool:
        """Whether the plan is to be made anew after every settling: no, the leader looks by itself."""
        return False

    @property
    def cause(self) -> str:
        """Why the supply has shrunk: the name of an error, or nothing."""
        return self._cause.name if self._cause is not None else ""

    def mirror(self, view: PoolView, waited: Iterable[str], now: float) -> None:
        """Take over who holds which slot and who waits, as the engine has it.

        Args:
            view: what the engine has.
            waited: sessions that began to wait since the last time; one that has left since is counted once.
            now: seconds.
        """
        self.holders = {}
        for id, node in self.nodes.items():
            there = view.nodes.get(id)
            sessions = set(there.sessions) if there is not None else set()
            self.holders.update(dict.fromkeys(sessions, node))
            if sessions != node.sessions:
                node.sessions = sessions
                if not sessions:
                    node.idle_since = now
                self._tally.count(node)
        line = dict.fromkeys([*view.line, *(session for session in waited if session not in view.sessions)])
        if list(self.line) != list(line):
            self.line = Line()
            for session in line:
                self.line.append(session, Waiter(patient=True, exclude=view.excluding.get(session, "")))

    def empty(self) -> None:
        """Forget every node: those that lead have another word on them."""
        for id, node in list(self.nodes.items()):
            node.watch = None
            del self.nodes[id]
            self._tally.forget(id)
        self._cause = None

    def _lose(self, node: Node) -> None:
        """The engine tells the sessions' owners."""
        for session in node.sessions:
            self.holders.pop(session, None)
        node.sessions.clear()
        node.linked = False
