"""The engine of a bridge that is alone: the same steps as in `pool.lua`, in this process. It needs no server."""

import asyncio
import itertools
import time
from bisect import insort
from collections.abc import Callable, Mapping, Sequence

from rtcbridge.drivers.engine.memory_pool import Pool, Share, Waiter
from rtcbridge.drivers.engine.memory_quotas import Members, MemoryQuotas
from rtcbridge.drivers.engine.names import checked, checked_info, printable
from rtcbridge.ports_engine import (
    FencedError,
    Lead,
    News,
    Packet,
    Place,
    PoolView,
    Registered,
    SessionView,
    Standing,
    Wake,
)
from rtcbridge.ports_journal import Journaled


class MemoryHub:
    """What the engines of one process share; a bridge has one of each.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.engines: dict[str, MemoryEngine] = {}
        self._pools: dict[str, Pool] = {}
        self.members = Members()

    def pool(self, name: str) -> Pool:
        """The state of a pool."""
        if name not in self._pools:
            self._pools[name] = Pool(lambda owner, wake: self._wake(name, owner, wake), self.clock)
        return self._pools[name]

    def pools(self) -> Sequence[Pool]:
        """The state of every pool."""
        return list(self._pools.values())

    def _wake(self, pool: str, owner: str, wake: Wake) -> None:
        if (engine := self.engines.get(owner)) is not None:
            asyncio.get_running_loop().call_soon(engine.hear, pool, wake)


class MemoryStore:
    """One replica's view of a pool in this process. No call ever waits."""

    def __init__(self, engine: "MemoryEngine", pool: Pool) -> None:
        self._engine, self._pool, self._me = engine, pool, engine.replica

    async def reserve(
        self,
        session: str,
        *,
        rank: int = 0,
        front: bool = False,
        exclude: str = "",
        patient: bool = True,
        project: str = "",
        limit: int = 0,
    ) -> Standing:
        """See `Store`."""
        checked(session, exclude, project)
        pool, share = self._pool, Share(project, limit)
        new = session not in pool.claims and session not in pool.waiters
        if new:
            if exclude:
                pool.journal.again(session)
            pool.enter(session, Waiter(self._me, exclude, pool.key(session, rank, front), share))
        elif session in pool.waiters:
            pool.waiters[session].share = share
        pool.serve(session)
        standing = pool.standing(session)
        if new and isinstance(standing, Place) and not patient and 0 <= standing.supply < standing.place:
            pool.leave(session)
            pool.journal.end(session, "full")
        return standing

    async def succeed(self, session: str, old: str, *, rank: int = 0, project: str = "", limit: int = 0) -> Standing:
        """See `Store`."""
        checked(session, old, project)
        pool = self._pool
        if session in pool.claims or session in pool.waiters:
            return pool.standing(session)
        claim, waiter = pool.claims.get(old), pool.waiters.get(old)
        pool.lost.discard(old)
        if claim is not None and not claim.live and claim.owner == self._me:
            pool.leave(old)
            pool.give(session, claim.node, self._me, claim.share)
        elif waiter is not None and waiter.owner == self._me:
            pool.leave(old)
            pool.enter(session, Waiter(self._me, "", (*waiter.key[:2], session), waiter.share))
            pool.serve(session)
        else:
            return await self.reserve(session, rank=rank, front=True, project=project, limit=limit)
        return pool.standing(session)

    async def release(self, session: str, reason: str = "") -> bool:
        """See `Store`."""
        pool = self._pool
        has = pool.claims.get(session) or pool.waiters.get(session)
        if has is not None and has.owner not in (self._me, ""):
            return False  # another's by now
        pool.lost.discard(session)
        known = pool.leave(session)
        pool.journal.end(session, printable(reason))
        self._pool.serve()
        return known

    async def begin(self, session: str) -> bool:
        """See `Store`."""
        return self._pool.begin(session)

    async def served(self, node: str, sessions: Sequence[str]) -> None:
        """See `Store`."""
        for session in sessions:
            self._pool.served(session, node)

    async def journal(self, age: float = 1.0, limit: int = 1_000) -> Sequence[Journaled]:
        """See `Store`."""
        return list(itertools.islice(self._pool.journal.over(age), limit))

    async def confirm(self, sessions: Sequence[str]) -> None:
        """See `Store`."""
        self._pool.journal.confirm(sessions)

    async def hold(self, session: str, node: str, epoch: int, *, project: str = "", limit: int = 0) -> bool:
        """See `Store`."""
        checked(session, node, project)
        pool = self._pool
        if (claim := pool.claims.get(session)) is not None:
            if claim.node.id != node or claim.owner not in ("", self._me):
                return False
            pool.take(session, self._me)
            if not claim.share.project:
                pool.charge(session, claim, Share(project, limit))
            pool.begin(session)
            if claim.node.epoch != epoch:
                pool.wake(self._me, News.MOVED, session, claim.node)
            return True
        there = pool.nodes.get(node)
        if there is None or there.epoch != epoch or len(there.sessions) >= there.capacity:
            return False
        if pool.journal.has_ended(session):
            return False
        pool.leave(session)
        pool.give(session, there, self._me, Share(project, limit), live=True)
        return True

    async def take_over(
        self, session: str, *, rank: int = 0, exclude: str = "", project: str = "", limit: int = 0
    ) -> Standing:
        """See `Store`."""
        checked(session, exclude, project)
        self._pool.take(session, self._me)
        return self._pool.standing(session)

    async def yield_slot(self, session: str, *, rank: int = 0) -> Standing:
        """See `Store`."""
        pool = self._pool
        if (claim := pool.claims.get(session)) is not None and not claim.live and pool.line:
            pool.leave(session)
            pool.enter(session, Waiter(claim.owner, "", pool.key(session, rank, False), claim.share))
            pool.serve(session)
        return pool.standing(session)

    async def suspend(self, session: str) -> Place:
        """See `Store`."""
        pool = self._pool
        if (claim := pool.claims.get(session)) is not None and not claim.live:
            pool.leave(session)
            pool.enter(session, Waiter(claim.owner, "", pool.key(session, 0, True), claim.share))
        waiter = pool.waiters[session]
        if not waiter.away:
            waiter.away = True
            pool.line.remove(waiter.key)
        pool.serve()
        return pool.place(session)

    async def resume(self, session: str) -> Standing:
        """See `Store`."""
        pool = self._pool
        if (waiter := pool.waiters.get(session)) is not None and waiter.away:
            waiter.away = False
            insort(pool.line, waiter.key)
            pool.serve(session)
        return pool.standing(session)

    async def node_up(
        self,
        node: str,
        capacity: int,
        socket: str,
        sessions: Sequence[str] = (),
        epoch: int = 0,
        *,
        open: bool = True,
        info: str = "",
        supply: int | None = None,
    ) -> Registered:
        """See `Store`."""
        checked(node, socket, *sessions)
        pool, info = self._pool, checked_info(info)
        there = pool.nodes.get(node)
        if there is None or there.socket != socket:
            there = pool.connect(node, socket, epoch, self._me, sessions)
            there.capacity = capacity
            pool.adopt(there, sessions, self._engine.grace)
        there.capacity, there.open, there.info = capacity, open, info
        pool.supply = pool.supply if supply is None else supply
        pool.serve()
        return Registered(there.epoch, {session: pool.claims[session].owner for session in there.sessions})

    def over(self, node: str, session: str) -> None:
        """See `Store`; this engine loses no data."""

    async def node_down(self, node: str, epoch: int) -> bool:
        """See `Store`."""
        there = self._pool.nodes.get(node)
        if there is None or there.epoch != epoch:
            return False
        self._pool.disconnect(there)
        return True

    async def node_open(self, node: str, epoch: int, open: bool) -> bool:
        """See `Store`."""
        there = self._pool.nodes.get(node)
        if there is None or there.epoch != epoch or (open and not there.replica):
            return False
        there.open = open
        self._pool.serve()
        return True

    async def node_gone(self, node: str, epoch: int) -> bool:
        """See `Store`."""
        pool = self._pool
        there = pool.nodes.get(node)
        if there is None or there.epoch != epoch:
            return False
        pool.remove(there)
        for session in sorted(there.sessions):
            pool.lose(session, there)
        pool.serve()
        return True

    async def lead(self) -> Lead:
        """See `Store`."""
        pool, now = self._pool, self._engine.hub.clock()
        valid = bool(pool.leader) and pool.until > now
        if valid and pool.leader != self._me:
            return Lead(0, pool.leader, len(self._engine.hub.engines))
        if not valid:
            pool.token, pool.supply = pool.token + 1, -1
        pool.leader, pool.until = self._me, now + self._engine.lease
        return Lead(pool.token, self._me, len(self._engine.hub.engines))

    async def publish(self, token: int, supply: int, cause: str = "", version: str = "") -> bool:
        """See `Store`."""
        if token != self._pool.token:
            raise FencedError("another replica leads the pool")
        if version not in ("", self._pool.version):
            return False
        self._pool.supply, self._pool.cause = supply, cause
        return True

    async def places(self) -> Mapping[str, Place]:
        """See `Store`."""
        pool = self._pool
        numbers = {key[2]: number for number, key in enumerate(pool.line, start=1)}
        mine = [session for session, waiter in pool.waiters.items() if waiter.owner == self._me]
        return {session: pool.place(session, numbers.get(session, 0)) for session in mine}

    async def find(self, session: str) -> SessionView | None:
        """See `Store`."""
        claim = self._pool.claims.get(session)
        return None if claim is None else claim.view(session)

    async def look(self) -> PoolView:
        """See `Store`."""
        pool = self._pool
        return PoolView(
            nodes={node.id: node.view() for node in pool.nodes.values()},
            sessions={session: claim.view(session) for session, claim in pool.claims.items()},
            line=[key[2] for key in pool.line],
            away=sorted(session for session, waiter in pool.waiters.items() if waiter.away),
            replicas=sorted(self._engine.hub.engines),
            leader=pool.leader if pool.until > self._engine.hub.clock() else "",
            supply=pool.supply,
            recovering=0.0,
            version=pool.version,
            excluding={session: waiter.exclude for session, waiter in pool.waiters.items() if waiter.exclude},
        )


class MemoryBus:
    """Messages between replicas of one process."""

    def __init__(self, hub: MemoryHub, address: str) -> None:
        self.address = address
        self.sent = self.unacknowledged = 0
        self._hub = hub
        self._numbers: dict[tuple[str, str], tuple[int, int]] = {}

    def send(self, to: str, session: str, direction: str, data: bytes, *, term: int = 0) -> bool:
        """See `Bus`."""
        before, number = self._numbers.get((session, direction), (term, 0))
        number = number + 1 if term == before else 1
        self._numbers[session, direction] = (term, number)
        packet = Packet(session, direction, term, number, data)
        self.sent += 1
        self.unacknowledged += 1
        asyncio.get_running_loop().call_soon(self._deliver, to, packet)
        return True

    def _deliver(self, to: str, packet: Packet) -> None:
        self.unacknowledged -= 1
        if (engine := self._hub.engines.get(to)) is not None:
            engine.received(self.address, packet)

    def forget(self, session: str) -> None:
        """See `Bus`."""
        for key in [key for key in self._numbers if key[0] == session]:
            del self._numbers[key]

    def drop(self, to: str) -> None:
        """See `Bus`."""


class MemoryEngine:
    """One replica's part in an engine within this process.

    Args:
        hub: what it shares with others, of tests; its own if it is left out.
        name: of this replica.
        lease: seconds for which a leader leads.
        grace: seconds for which a live session of a dead replica keeps its slot.
    """

    def __init__(
        self, hub: MemoryHub | None = None, name: str = "bridge", *, lease: float = 1.5, grace: float = 60.0
    ) -> None:
        self.hub = hub or MemoryHub()
        self.replica = f"{name}.{next(_numbers)}"
        self.lease, self.grace = lease, grace
        self.bus = MemoryBus(self.hub, self.replica)
        self.quotas = MemoryQuotas(self.hub.members, self.replica)
        self._stores: dict[str, MemoryStore] = {}
        self._woken: Callable[[str, Wake], None] = lambda pool, wake: None
        self.received: Callable[[str, Packet], None] = lambda origin, packet: None

    def store(self, pool: str) -> MemoryStore:
        """See `Engine`."""
        if pool not in self._stores:
            self._stores[pool] = MemoryStore(self, self.hub.pool(pool))
        return self._stores[pool]

    def wall(self) -> float:
        """See `Engine`."""
        return time.time()

    async def start(
        self, pools: Sequence[str], woken: Callable[[str, Wake], None], received: Callable[[str, Packet], None]
    ) -> None:
        """See `Engine`."""
        self._woken, self.received = woken, received
        self.hub.engines[self.replica] = self
        for pool in pools:
            self.store(pool)

    def hear(self, pool: str, wake: Wake) -> None:
        """Pass news on, unless the session has moved on since."""
        if self.replica in self.hub.engines and self.hub.pool(pool).current(wake):
            self._woken(pool, wake)

    async def close(self) -> None:
        """See `Engine`."""
        if self.hub.engines.pop(self.replica, None) is not None:
            for pool in self.hub.pools():
                pool.bury(self.replica, self.grace)
            self.hub.members.bury(self.replica)

    async def kill(self) -> None:
        """The same: there is no lease to wait for in one process."""
        await self.close()


_numbers = itertools.count(1)
