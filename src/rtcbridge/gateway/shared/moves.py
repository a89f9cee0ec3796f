"""Clients of the extension that come back at another replica: their visits, with session and place, go there.

The replica that gets a token it does not know asks all others. The one that has the visit hands it over as plain data,
and keeps a note of where it went, so that whatever still comes for it is sent on. The new owner takes over the slot or
the place in the engine, and says when it has; until then, the old one takes the visit back if the new one dies.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from rtcbridge.core.carried import CarriedSession, carry, set_down
from rtcbridge.core.errors import CloseCode
from rtcbridge.core.events import Away
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import State
from rtcbridge.gateway.bridge import Entry
from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.gateway.shared.wire import CONTROL, Claim, Handed, OfVisit, Owned, Taken, Unknown, encode_control
from rtcbridge.gateway.visits import Visit, Visits, began, family
from rtcbridge.ports_engine import EngineError, PoolView

log = structlog.get_logger(__name__)

_PATIENCE = 15.0  # seconds that a client waits whose replica died, for its node to be at another one
_ANSWER = 1.0  # seconds that replicas have to say whether they have a visit, before they are asked again
_PACE = 0.02  # seconds: those that come back within share a look at the pool
_AGAIN = 0.1  # seconds before all are asked again
_NOTED = 60.0  # seconds for which it is known where a visit went
_CHECK = 5.0  # seconds after which a replica that has not said that it has a visit may be dead
_LOOK = 0.02  # seconds between looks whether all visits have gone when a replica leaves
_AT_ONCE = 256  # visits that are on their way when a replica leaves
_SERVED = frozenset({State.OFFERED, State.REOFFERED, State.ANSWERED, State.LIVE, State.DETACHED})


class _Search:
    """A visit is looked for. `silent`: the replicas that have not said no."""

    def __init__(self, replicas: set[str]) -> None:
        self.silent = replicas
        self.answered = asyncio.Event()


class Moves:
    """Brings visits here that another replica has, and hands over what another one asks for.

    Args:
        bridge: This replica.
        visits: Its clients of the extension.
    """

    def __init__(self, bridge: SharedBridge, visits: Visits) -> None:
        self._bridge, self._visits = bridge, visits
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._searches: dict[str, _Search] = {}
        self._looks: dict[str, asyncio.Task[PoolView]] = {}
        self._went: dict[str, tuple[str, Handed]] = {}  # where each visit was handed over to, for a while
        self._untaken: dict[str, tuple[str, Handed]] = {}  # the same, until that one has said that it has it
        bridge.of_visit = self._received
        visits.fetch = self.fetch

    def _received(self, origin: str, message: OfVisit) -> None:
        match message:
            case Claim():
                self._claimed(message)
            case Handed(visit=visit):
                self._take_in(message)
                self._confirm(origin, message)
                if (search := self._searches.get(visit)) is not None:
                    search.answered.set()
            case Taken(visit=visit):
                self._untaken.pop(visit, None)
            case Unknown(visit=visit):
                if (search := self._searches.get(visit)) is not None:
                    search.silent.discard(origin)
                    if not search.silent:
                        search.answered.set()

    # --- whoever gets the token ---

    def fetch(self, id: str, project: str, pool: Pool, done: Callable[[], object]) -> None:
        """See `Visits.fetch`."""
        assert isinstance(pool, SharedPool)
        self._bridge.do(self._fetch(id, project, pool, done))

    async def _fetch(self, id: str, project: str, pool: SharedPool, done: Callable[[], object]) -> None:
        task = self._fetching.get(id)
        if task is None:
            task = self._fetching[id] = asyncio.create_task(self._find(id, project, pool))
            task.add_done_callback(lambda _: self._fetching.pop(id, None))
        try:
            await asyncio.shield(task)
        except EngineError as error:
            log.warning("a client's session cannot be looked for", visit=id, error=str(error))
        except Exception:
            log.exception("a client's session cannot be looked for", visit=id)
        done()

    async def _find(self, id: str, project: str, pool: SharedPool) -> None:
        """Ask who has a visit until one hands it over, or until it is clear that nobody will. Raises EngineError."""
        bridge, until = self._bridge, self._bridge.clock() + _PATIENCE
        while bridge.clock() < until:
            if self._here(id, project) is not None:
                return
            view = await self._look(pool)
            search = self._searches[id] = _Search(set(view.replicas) - {bridge.me})
            for replica in list(search.silent):
                bridge.tell(replica, Claim(id, project, bridge.me))
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER):
                    if search.silent:
                        await search.answered.wait()
            del self._searches[id]
            if search.answered.is_set() and search.silent:
                return  # one has handed it over
            known = (*view.sessions, *view.line, *view.away)
            if not search.silent and not any(family(session) == family(id) for session in known):
                return
            await asyncio.sleep(_AGAIN)

    def _here(self, id: str, project: str) -> Visit | None:
        """Return a visit of this project that is here; that of a session that was taken over begins to count anew."""
        visit = self._visits.get(id)
        if visit is None and (entry := self._bridge.orphans.of_visit(id)) is not None and entry.project == project:
            visit = Visit(self._visits, self._bridge, project, entry.pool, id)
            visit.anew, visit.entry, entry.client = True, entry, visit
            visit.last = began(entry.session.id)
            self._visits.set_away(visit)
        return visit if visit is not None and visit.project == project else None

    async def _look(self, pool: SharedPool) -> PoolView:
        """See who is there, and what, no earlier than now."""
        name = pool.spec.name
        if (task := self._looks.get(name)) is None:
            task = self._looks[name] = asyncio.create_task(self._look_soon(pool))
        return await asyncio.shield(task)

    async def _look_soon(self, pool: SharedPool) -> PoolView:
        await asyncio.sleep(_PACE)
        del self._looks[pool.spec.name]
        return await pool.store.look()

    # --- whoever has the visit ---

    def _claimed(self, claim: Claim) -> None:
        bridge = self._bridge
        if claim.by == bridge.me:
            return  # it has come round: the visit has arrived meanwhile, or will
        if (visit := self._here(claim.visit, claim.project)) is not None:
            self._hand_over(visit, claim.by)
        elif (note := self._went.get(claim.visit)) is not None and note[0] != claim.by:
            bridge.tell(note[0], claim)
        else:
            bridge.tell(claim.by, Unknown(claim.visit))

    def _hand_over(self, visit: Visit, to: str) -> None:
        """Let another replica have a visit: when all that its session has asked of the engine is done."""
        if (entry := visit.session) is None:
            self._hand(visit, None, to)
        else:
            assert isinstance(entry.pool, SharedPool)
            entry.pool.calls.add(entry.session.id, lambda: self._hand_in_turn(visit, entry, to))

    async def _hand_in_turn(self, visit: Visit, entry: Entry, to: str) -> None:
        if self._visits.get(visit.id) is not visit:  # another one was faster, or it has ended
            self._claimed(Claim(visit.id, visit.project, to))
        elif visit.session is not entry:
            self._hand_over(visit, to)
        else:
            self._hand(visit, entry, to)

    def _hand(self, visit: Visit, entry: Entry | None, to: str) -> None:
        bridge = self._bridge
        if (socket := visit.socket) is not None:
            self._visits.set_away(visit)
            socket.close(CloseCode.POLICY, "resumed on another socket")
            if entry is not None:
                bridge.client_gone(entry, Away())
        handed = self._packed(visit, entry)
        self._visits.drop(visit)
        if entry is not None:
            bridge.leave(entry, to)
        note = self._went[visit.id] = to, handed
        if not bridge.engine.bus.send(to, f"{CONTROL}{bridge.me}", CONTROL, encode_control(handed)):
            self._take_in(handed)
            return
        self._untaken[visit.id] = note
        bridge.wheel.call_later(_CHECK, self._check, visit.id)
        bridge.wheel.call_later(_NOTED, self._forget, visit.id, note)
        log.info("session handed over", visit=visit.id, to=to)

    def _packed(self, visit: Visit, entry: Entry | None) -> Handed:
        """Put all of a visit together; the pool's part of it is not this replica's any more."""
        now = self._bridge.clock()
        handed = Handed(
            visit=visit.id, project=visit.project, pool=visit.pool.spec.name, mailbox=visit.mailbox, anew=visit.anew,
            last=visit.last, left=visit.until - now,
        )  # fmt: skip
        if entry is None:
            return handed
        assert isinstance(entry.pool, SharedPool)
        return msgspec.structs.replace(
            handed,
            session=carry(entry.session, now),
            begun=entry.begun,
            carried=entry.pool.part_with(entry.session.id, served=entry.session.state in _SERVED),
            held=[] if entry.route is None else entry.route.take_held(),
            bounds=entry.bounds,
        )

    def _forget(self, visit: str, note: tuple[str, Handed]) -> None:
        """It is long enough that a visit has gone."""
        bridge, (to, handed) = self._bridge, note
        if self._went.get(visit) is note:
            del self._went[visit]
        session = "" if handed.session is None else handed.session.id
        if bridge.gone.get(session) == to:
            del bridge.gone[session]
            bridge.engine.bus.forget(session)

    def _check(self, visit: str) -> None:
        if visit in self._untaken:
            self._bridge.do(self._take_back(visit))

    async def _take_back(self, visit: str) -> None:
        """Go on with a visit if the replica died that was to have it, unless the one with its node has the session."""
        to, handed = self._untaken[visit]
        try:
            view = await self._look(self._bridge.shared_pool(handed.pool))
        except EngineError:
            view = None
        if view is None or to in view.replicas:
            self._bridge.wheel.call_later(_CHECK, self._check, visit)
        elif self._untaken.pop(visit, None) is not None:
            there = None if handed.session is None else view.sessions.get(handed.session.id)
            if there is None or there.owner in ("", self._bridge.me):
                self._take_in(handed)

    # --- whoever gets the visit ---

    def _confirm(self, origin: str, handed: Handed) -> None:
        """Say that a visit is here, behind all that its session has asked of the engine."""
        if handed.session is None:
            self._bridge.tell(origin, Taken(handed.visit))
            return

        async def confirm() -> None:
            self._bridge.tell(origin, Taken(handed.visit))

        self._bridge.shared_pool(handed.pool).calls.add(handed.session.id, confirm)

    def _take_in(self, handed: Handed) -> None:
        """Go on with a visit, whose client is away."""
        if self._visits.get(handed.visit) is not None:
            return
        pool = self._bridge.shared_pool(handed.pool)
        visit = Visit(self._visits, self._bridge, handed.project, pool, handed.visit)
        visit.mailbox, visit.anew, visit.last = handed.mailbox, handed.anew, handed.last
        self._went.pop(handed.visit, None)
        if handed.session is not None:
            self._enter(visit, pool, handed.session, handed)
        self._visits.set_away(visit, handed.left)

    def _enter(self, visit: Visit, pool: SharedPool, session: CarriedSession, handed: Handed) -> None:
        bridge = self._bridge
        set_up = set_down(session, bridge.admission.spec(handed.bounds), bridge.clock())
        entry = Entry(set_up, pool, handed.project, visit, handed.bounds)
        visit.entry = entry
        entry.begun = entry.delivered = handed.begun
        bridge.enter(entry)
        if (carried := handed.carried) is None:
            return
        pool.take_in(session.id, handed.project, carried)
        if (grant := carried.grant) is not None:
            bridge.way(entry, grant.node)
            assert entry.route is not None
            for data in handed.held:
                entry.route.send(data)
            bridge.tell(grant.replica, Owned(session.id, grant.node))

    # --- a replica that stops ---

    async def leave(self, patience: float) -> None:
        """Let others have all visits, so that nobody loses anything who comes back later: within so many seconds."""
        targets = await self._others()
        asked: set[Visit] = set()
        for _ in range(round(patience / _LOOK) if targets else 0):
            left = [visit for visit in self._visits if visit not in asked]
            if not left and not self._untaken and not any(visit.entry for visit in self._visits):
                return
            for visit in left[: max(0, _AT_ONCE - len(self._untaken))]:
                asked.add(visit)
                self._hand_over(visit, targets[len(asked) % len(targets)])
            await asyncio.sleep(_LOOK)

    async def _others(self) -> list[str]:
        """All other replicas; none if the engine does not say."""
        found: set[str] = set()
        for pool in self._bridge.shared_pools():
            try:
                found.update((await self._look(pool)).replicas)
            except EngineError:
                return []
        return sorted(found - {self._bridge.me})
