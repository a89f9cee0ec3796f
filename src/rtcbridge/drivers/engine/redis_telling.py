"""Joining an engine, and saying again what this replica holds: after a loss of the engine's data, or after a freeze."""

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from rtcbridge.drivers.engine.mirror import NodeHere, Rumour, Waiting
from rtcbridge.drivers.engine.pipe import BACKOFF, PipeDownError

if TYPE_CHECKING:
    from rtcbridge.drivers.engine.redis_engine import RedisEngine
    from rtcbridge.drivers.engine.redis_store import RedisStore


def node_arguments(node: NodeHere, fresh: int, grace_ms: int, supply: int | str = "") -> tuple[Any, ...]:
    """What the script `node` takes behind the node's id; `fresh`: it has just dialled in; `supply`: see `node_up`."""
    what = (node.capacity, node.socket, node.epoch, fresh, int(node.open), node.info, grace_ms, supply)
    return (*what, *node.sessions)


class Telling:
    """What a store does with each new connection. `missing`: sessions whose slot the engine does not know yet."""

    def __init__(self, store: "RedisStore", engine: "RedisEngine") -> None:
        self.missing: set[str] = set()
        self._store, self._engine, self._mirror = store, engine, store.mirror
        self._late: asyncio.Task[None] | None = None
        self._untold = False  # nothing has been told since the engine lost its data
        self._told = asyncio.Event()

    async def of(self, session: str) -> None:
        """Wait until the engine knows of a session's slot, or the slot is given up: its calls come behind that."""
        while session in self.missing:
            self._told.clear()
            await self._told.wait()

    async def attach(self, server: str, fresh: str) -> None:
        """Join over a new connection. What this replica holds is said again if the engine has forgotten it."""
        store, engine = self._store, self._engine
        before = (store.epoch, store.me)
        if not store.me:
            store.me = f"{engine.replica}|"
        answer = await store.script("attach", server, engine.lease_ms, engine.grace_ms, fresh)
        if answer[0] != b"OK":
            raise PipeDownError("an older connection of this replica")
        store.epoch, store.me, left = answer[1].decode(), answer[2].decode(), int(answer[3])
        for session, reason in list(self._mirror.releasing.items()):
            await store.script("release", session, reason)
            self._mirror.releasing.pop(session, None)
        if before[0] and before != (store.epoch, store.me):
            self._untold = True
        if self._untold or self.missing:
            await self._tell(asyncio.get_running_loop().time() + left / 1000)
            self._untold = False

    async def _tell(self, until: float) -> None:
        for id, node in list(self._mirror.nodes.items()):
            await self._tell_node(id, node)
        self.missing = {session for session in list(self._mirror.held) if not await self._tell_held(session)}
        for session, waiting in sorted(self._mirror.waiting.items(), key=lambda each: float(each[1].score)):
            await self._tell_waiting(session, waiting)
        self.close()
        self._told.set()
        if self.missing:
            self._late = asyncio.create_task(self._tell_late(until))

    async def _tell_node(self, id: str, node: NodeHere) -> None:
        answer = await self._store.script("node", id, *node_arguments(node, 0, self._engine.grace_ms))
        if answer[0] == b"OK" or self._mirror.nodes.get(id) is not node:
            return
        epoch, replica = int(answer[1]), answer[2].decode()
        self._store.take(Rumour("replaced" if node.socket else "forgotten", "", id, epoch, replica, 0))

    async def _tell_waiting(self, session: str, waiting: Waiting) -> None:
        script, wish = self._store.script, waiting.wish
        how = (wish.rank, 0, wish.exclude, 1, waiting.score, wish.project, wish.limit)
        answer = await script("reserve", session, *how)
        if waiting.suspended:
            answer = await script("suspend", session)
        waiting.serial = 0
        if answer[0] == b"grant":
            node, epoch, replica = answer[2].decode(), int(answer[3]), answer[4].decode()
            self._store.take(Rumour("granted", session, node, epoch, replica, int(answer[1]) + 1))

    async def _tell_held(self, session: str) -> bool:
        """Say that a session has its slot; false if its node is not known yet."""
        held = self._mirror.held.get(session)
        if held is None:
            return True
        what = (held.node, held.epoch, int(held.live), held.wish.project, held.wish.limit, 1)
        answer = await self._store.script("hold", session, *what)
        if answer[0] == b"NONODE":
            return False
        if answer[0] != b"OK":
            self._lose(session)
            return True
        epoch, serial, replica = int(answer[1]), int(answer[2]), answer[3].decode()
        if held.live and answer[6] == b"0":
            self._store.take(Rumour("doubted", session, held.node, epoch, replica, serial))
        if (epoch, replica) == (held.epoch, held.replica):
            held.serial = serial
        else:
            held.serial = -1
            self._store.take(Rumour("moved", session, held.node, epoch, replica, serial))
        return True

    def _lose(self, session: str) -> None:
        if (held := self._mirror.held.get(session)) is not None:
            held.serial = 0
            self._store.take(Rumour("lost", session, held.node, held.epoch, "", 1))

    async def _tell_late(self, until: float) -> None:
        """Go on saying it, since a node may be known to another replica that comes later."""
        loop, over = asyncio.get_running_loop(), False
        while self.missing and not over:
            await asyncio.sleep(BACKOFF)
            over = loop.time() >= until
            try:
                for session in list(self.missing):
                    if await self._tell_held(session):
                        self.missing.discard(session)
            except (PipeDownError, ResponseError):
                return  # the next connection begins with all of it
            self._told.set()
        for session in self.missing:
            self._lose(session)
        self.missing.clear()
        self._told.set()

    def close(self) -> None:
        """Say no more."""
        if self._late is not None:
            self._late.cancel()
