"""Sessions and slots: who waits, who gets which slot, and where the others stand. The caller brings the time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from math import inf
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import asdict, replace

from rtcbridge.core.errors import Error
from rtcbridge.core.eta import Estimator
from rtcbridge.core.events import Failed, Full, Granted, Pending, PoolEvent
from rtcbridge.core.fallback import Claim
from rtcbridge.core.line import FRONT, Line, Waiter
from rtcbridge.core.messages import Status
from rtcbridge.core.node import Node
from rtcbridge.core.projects import Projects, Share
from rtcbridge.core.ranked import RankedLine, make_line
from rtcbridge.core.spec import PoolSpec, Window
from rtcbridge.core.tally import Tally

Verdict: TypeAlias = tuple[str, PoolEvent]  # a session's id, and what the pool says to it


class Standing(Struct, frozen=True):
    """Where a waiting session stands.

    `position` 1 is the next to be served, `eta` is in seconds, None while nothing is known; `status` is None for one
    that has not been told yet.
    """

    session: str
    position: int
    eta: float | None
    status: Status | None


class Assignment(ABC):
    """The sessions of a pool: those that hold slots, and the line of those that wait.

    A call costs about the same however many nodes and sessions there are. `nodes`, `holders` and `line` are there to
    be read; they are changed by the methods only. Pools that know of each other are made by `Pools`.

    Args:
        spec: what it is told to be.
        projects: the accounts of all projects; None if neither priorities nor maxima nor fairness matter.
        stirred: called with the name of this pool when a call of another one has changed it, so that it is to be
            settled too.
    """

    def __init__(
        self,
        spec: PoolSpec,
        projects: Projects | None = None,
        stirred: Callable[[str], object] = lambda name: None,
    ) -> None:
        self.spec = spec
        self.nodes: dict[str, Node] = {}
        self.holders: dict[str, Node] = {}
        self.line = Line() if projects is None else make_line(spec)
        self.fallback: Assignment | None = None
        self._base = spec  # while no window is open
        self._window: Window | None = None
        self._pinned: frozenset[str] = frozenset()
        self._projects = projects
        self._shares: dict[str, Share] = {}  # by project
        self._held: dict[str, Share] = {}  # of the sessions that hold a slot
        self._claims: dict[str, Claim] = {}  # of this pool's own sessions that wait, or hold a slot, elsewhere
        self._guests: dict[str, Claim] = {}  # of other pools' sessions that hold a slot here
        self._stirred = stirred
        self._estimator = Estimator()
        self._tally = Tally()
        self._verdicts: dict[str, PoolEvent] = {}  # to be told at the next settling
        self._cause: Error | None = None  # why the supply has shrunk since the last one

    def reshape(self, spec: PoolSpec, pinned: Iterable[str] = ()) -> None:
        """Be told to be something else; the name, the fallback and what concerns projects cannot be changed so.

        Args:
            spec: for as long as no window is open.
            pinned: the names of sizes that no window changes.
        """
        self._base, self._pinned = spec, frozenset(pinned)
        self.show(self._window)

    def show(self, window: Window | None) -> None:
        """Let the sizes of a window take the place of the pool's own; None ends it."""
        self._window = window
        sizes = {} if window is None else asdict(window)
        changes = {name: size for name, size in sizes.items() if size is not None and name not in self._pinned}
        self.spec = replace(self._base, **changes)

    def stir(self) -> None:
        """Note that this pool is to be settled, since another one has changed it."""
        self._stirred(self.spec.name)

    # --- sessions ---

    def join(self, session: str, *, patient: bool, front: bool = False, exclude: str = "", project: str = "") -> None:
        """Put a session in line; `settle` then says what it gets. Nothing happens if it is here already."""
        if session in self.holders or session in self.line.waiters or session in self._claims:
            return
        waiter = Waiter(patient, exclude, None if self._projects is None else self._share(project))
        if front:
            self.line.push(session, waiter)
        else:
            self.line.append(session, waiter)

    @property
    def settled(self) -> bool:
        """Whether `settle` has nothing to do, since nobody waits and nothing is to be told."""
        return not (self._verdicts or self.line.waiters)

    def take(self, session: str, now: float) -> str | None:
        """Give a session a slot at once if nobody is before it; return the node. Else nothing happens: see `join`.

        The same as `join` and `settle`, in fewer steps, for the common case: projects do not matter here.
        """
        if self._projects is not None or not self._tally.open or not self.settled:
            return None
        if session in self.holders or session in self._claims:
            return None
        node = self.nodes[self._tally.open[0][1]]
        self._hold(session, node, None)
        self._estimator.held[session] = now
        return node.id

    def _share(self, project: str) -> Share:
        share = self._shares.get(project)
        if share is None:
            assert self._projects is not None
            assert isinstance(self.line, RankedLine)
            limit = self.spec.max_per_project or inf
            share = self._shares[project] = Share(self._projects.account(project), limit, self.line, self.stir)
        return share

    def stay(self, session: str) -> None:
        """Let a waiting session keep its place also when the pool is full."""
        places = self._places(session)
        for _, waiter in places:
            waiter.patient = True
        if (claim := self._claims.get(session)) is not None and places:
            for pool in claim.tried:
                if pool not in claim.places:
                    pool._admit(claim, places[0][1])

    def leave(self, session: str, now: float) -> None:
        """Free the slot or the place in line of a session."""
        self._verdicts.pop(session, None)
        if (node := self.holders.pop(session, None)) is not None:
            if (since := self._estimator.held.pop(session, None)) is not None:
                self._estimator.sessions.append(now - since)
            node.sessions.discard(session)
            if not node.sessions:
                node.idle_since = now
            self._tally.count(node)
            self._release(session)
        else:
            self.line.pop(session)
        if self._claims and (claim := self._claims.pop(session, None)) is not None:
            claim.drop_places()
            if claim.holder is not None:
                claim.holder.leave(session, now)
                claim.holder.stir()

    def _release(self, session: str) -> None:
        """Forget what a session with a slot counts for, beside the slot itself."""
        if self._held:
            self._held.pop(session).count(-1)
        if self._guests and (claim := self._guests.pop(session, None)) is not None:
            claim.home._claims.pop(session, None)

    def yield_slot(self, session: str, now: float) -> None:
        """A reservation ran out: renew it when nobody waits, else send it to the end of the line."""
        pool = self._where(session)
        if (node := pool.holders.get(session)) is None:
            return
        if pool.line.queue:
            project = pool._project(session)
            self.leave(session, now)
            self.join(session, patient=True, project=project)
        else:
            pool._verdicts[session] = Granted(node.id)
            pool.stir()

    def suspend(self, session: str, now: float) -> None:
        """Serve a session no more until it resumes, since its client is away: it keeps its place, but no slot."""
        pool = self._where(session)
        if session in pool.holders:
            project = pool._project(session)
            self.leave(session, now)
            self.join(session, patient=True, front=True, project=project)
        for each, _ in self._places(session):
            each.line.suspend(session)
            each.stir()

    def resume(self, session: str) -> None:
        """The client of a session is back: `settle` says anew what it has, and it is served when its turn comes."""
        pool = self._where(session)
        if (node := pool.holders.get(session)) is not None:
            pool._verdicts[session] = Granted(node.id)
            pool.stir()
        if (claim := self._claims.get(session)) is not None:
            claim.told = None
        for each, _ in self._places(session):
            each.line.resume(session)
            each.stir()

    def _where(self, session: str) -> "Assignment":
        """The pool whose slot a session holds; this one, if it holds none."""
        claim = self._claims.get(session)
        return claim.holder if claim is not None and claim.holder is not None else self

    def _project(self, session: str) -> str:
        share = self._held.get(session)
        return share.account.spec.id if share is not None else ""

    def _places(self, session: str) -> "list[tuple[Assignment, Waiter]]":
        """The lines in which a session of this pool waits."""
        if (claim := self._claims.get(session)) is not None:
            return list(claim.places.items())
        waiter = self.line.waiters.get(session)
        return [(self, waiter)] if waiter is not None else []

    def adopt(self, session: str, node: str, project: str = "", since: float | None = None) -> None:
        """Let a session of an earlier life of this bridge hold its slot, `since` then if that is known."""
        self._hold(session, self.nodes[node], None if self._projects is None else self._share(project))
        if since is not None:
            self._estimator.held[session] = since

    def _hold(self, session: str, node: Node, share: Share | None) -> None:
        node.sessions.add(session)
        self.holders[session] = node
        self._tally.count(node)
        if share is not None:
            self._held[session] = share
            share.count(1)

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
        line = self.line
        if line.waiters:
            if line.ranked:
                line.prepare(now)
            self._assign(verdicts, now)
            if line.waiters:
                if line.excluding:
                    self._refuse(verdicts)
                for session, waiter, status in line.divide(self.supply()):
                    if not waiter.exclude:
                        self._tell(session, waiter, status, verdicts)
        self._cause = None
        return verdicts

    def _assign(self, verdicts: list[Verdict], now: float) -> None:
        """Match waiting sessions, in the order of the line, to ready nodes."""
        passed: list[tuple[str, Waiter]] = []
        line, free = self.line, self._tally.open
        while free and (first := line.pop_first()) is not None:
            session, waiter = first
            node = self._choose(waiter.exclude)
            if node is None:
                passed.append(first)
                continue
            self._hold(session, node, waiter.share)
            self._estimator.held[session] = now
            if waiter.claim is not None:
                self._win(waiter.claim)
            verdicts.append((session, Granted(node.id)))
        for session, waiter in passed:
            line.put_back(session, waiter)

    def _choose(self, exclude: str) -> Node | None:
        """The fullest node with a free slot: whole nodes stay empty and can be stopped. Ties: the id."""
        for _, id in self._tally.open[:2]:
            if id != exclude:
                return self.nodes[id]
        return None

    def _win(self, claim: Claim) -> None:
        """A session that waited in several pools has got a slot of this one."""
        claim.drop_places(but=self)
        if claim.home is self:
            del self._claims[claim.session]
        else:
            claim.holder = self
            self._guests[claim.session] = claim

    def _refuse(self, verdicts: list[Verdict]) -> None:
        """Tell those that may not have every node where they stand."""
        for session, waiter in self.line.places():
            within = not waiter.barred and self.line.place(waiter) <= self.supply(waiter.exclude)
            self._tell(session, waiter, Status.PENDING if within else Status.FULL, verdicts)

    def _tell(self, session: str, waiter: Waiter, status: Status, verdicts: list[Verdict]) -> None:
        if status is waiter.status:
            return
        before, waiter.status = waiter.status, status
        cause = self._cause if before is Status.PENDING and status is Status.FULL else None
        if status is Status.FULL and not waiter.patient:
            self.line.pop(session)
        if waiter.claim is not None or (status is Status.FULL and self.fallback is not None):
            self._tell_of_all(session, waiter, before, cause, verdicts)
        elif status is Status.PENDING:
            verdicts.append((session, Pending()))
        else:
            verdicts.append((session, Full() if cause is None else Failed(cause)))

    def _tell_of_all(
        self, session: str, waiter: Waiter, before: Status | None, cause: Error | None, verdicts: list[Verdict]
    ) -> None:
        """Tell a session where it stands in all pools together, once there is none left to try it in."""
        claim = waiter.claim
        if claim is None:
            claim = self._claims[session] = Claim(session, self, waiter.key[0] == FRONT, before)
            claim.take(self, waiter)
        claim.cause = cause or claim.cause
        if session not in self.line.waiters:
            del claim.places[self]
            self.stir()  # those behind it have moved, whatever it is told
        following = self.fallback
        if waiter.status is Status.FULL and following is not None and following not in claim.tried:
            following._admit(claim, waiter)
            return
        if (verdict := claim.verdict()) is not None:
            verdicts.append((session, verdict))
        if not claim.places:
            del claim.home._claims[session]

    def _admit(self, claim: Claim, waiter: Waiter) -> None:
        """Let a session of another pool, which is told nothing but `full` there, wait in this one too."""
        share = None
        if self._projects is not None:
            share = self._share(waiter.share.account.spec.id if waiter.share is not None else "")
        mine = Waiter(waiter.patient, waiter.exclude, share)
        claim.take(self, mine)
        if claim.front:
            self.line.push(claim.session, mine)
        else:
            self.line.append(claim.session, mine)
        self.stir()

    @abstractmethod
    def supply(self, exclude: str = "") -> int:
        """Return how many slots are on their way, or could be: what a place in line is compared with."""

    # --- how long it takes ---

    def position(self, session: str) -> int | None:
        """Return the place in line of a session of this pool: 1 if it is next; None if it does not wait."""
        waiter = self.line.waiters.get(session)
        if waiter is None:
            places = [pool.line.place(waiter) for pool, waiter in self._places(session)]
            return min(places, default=None)
        return self.line.place(waiter)

    def eta(self, session: str, now: float) -> float | None:
        """Return within how many seconds a session is served, four times of five, as far as that can be known.

        None if it does not wait, nothing is known, its client is away, or its project has its maximum.
        """
        places = self._places(session)
        known = [delay for pool, waiter in places if (delay := pool._delay(waiter, now)) is not None]
        return min(known, default=None)

    def waiting(self, now: float) -> list[Standing]:
        """Return where everybody in line stands, in order."""
        return [
            Standing(session, place, self._delay(waiter, now, place), waiter.status)
            for place, session in enumerate(self.line, start=1)
            for waiter in (self.line.waiters[session],)
        ]

    def _delay(self, waiter: Waiter, now: float, place: int | None = None) -> float | None:
        if waiter.suspended or waiter.barred:
            return None
        slots, tally = self.spec.slots, self._tally
        wanted = max(0, min(len(self.line.queue) - self._estimator.coming * slots, self.supply()))
        nodes = -(-wanted // slots)
        starts = min(nodes, len(tally.stopped) + tally.stopping // slots)
        place = place or self.line.place(waiter)
        return self._estimator.delay(place, now, slots, starts, nodes - starts)
