"""Who holds which slot, in Valkey or Redis: every step is one script. docs/engine.md has the data model."""

import asyncio
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError

from rtcbridge.drivers.engine.mirror import Mirror, NodeHere
from rtcbridge.drivers.engine.pipe import BACKOFF, PipeDownError
from rtcbridge.ports_engine import (
    EngineAwayError,
    EngineError,
    FencedError,
    Grant,
    News,
    NodeView,
    Place,
    PoolView,
    Registered,
    SessionView,
    Standing,
    Wake,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtcbridge.drivers.engine.redis_engine import RedisEngine

SCRIPT = files("rtcbridge.drivers.engine").joinpath("pool.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()
_REFUSED = (b"ENGINE", b"FENCED", b"STALE")
_OF_A_SLOT = frozenset({"reserve", "begin", "hold", "yield", "suspend", "resume"})


def prefix(pool: str) -> str:
    """What the keys of a pool begin with; the braces keep them together on one server of a cluster."""
    return f"rtcbridge:{{{pool}}}:"


def checked(*names: str) -> None:
    """Raise ValueError for a name that the engine's records cannot hold."""
    for name in names:
        if "|" in name or len(name) > 256:
            raise ValueError(f"not a name for the engine: {name[:40]!r}")


class RedisStore:
    """The store of one pool. `me` is this replica with its epoch, as `name|epoch`; "" before it has joined."""

    def __init__(self, engine: "RedisEngine", pool: str) -> None:
        checked(pool)
        self.pool, self.prefix = pool, prefix(pool)
        self.epoch = self.me = ""
        self.mirror = Mirror()
        self._engine = engine
        self._tokens = itertools.count(1)
        self._late: asyncio.Task[None] | None = None
        self._missing: set[str] = set()  # sessions whose slot the engine does not know yet: their calls wait
        self._untold = False  # nor has it been told of any since it lost its data
        self._told = asyncio.Event()

    # --- calls ---

    def script(self, command: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Send one command, once."""
        guard = (command, self.epoch, self.me, self._engine.generation)
        return self._engine.pipe.call("EVALSHA", SHA, 1, self.prefix, *guard, *arguments)

    async def call(self, command: str, *arguments: Any) -> list[Any]:
        """Send one command until it is answered. Raises EngineAwayError."""
        engine = self._engine
        try:
            async with asyncio.timeout(engine.patience):
                while True:
                    await engine.pipe.up.wait()
                    while command in _OF_A_SLOT and arguments[0] in self._missing:
                        self._told.clear()
                        await self._told.wait()
                    try:
                        answer = await self.script(command, *arguments)
                    except NoScriptError:
                        await engine.pipe.call("SCRIPT", "LOAD", SCRIPT)
                        continue
                    except PipeDownError:
                        await asyncio.sleep(BACKOFF)
                        continue
                    if answer[0] not in _REFUSED:
                        return list(answer)
                    engine.pipe.restart()
                    await asyncio.sleep(BACKOFF)
        except TimeoutError:
            raise EngineAwayError(f"engine {engine.url}: {engine.pipe.error or 'no answer'}") from None
        except PipeDownError:
            raise EngineAwayError(f"engine {engine.url}: {engine.pipe.error or 'not connected'}") from None
        except ResponseError as error:
            raise EngineError(f"engine {engine.url}: {error}") from None

    @contextmanager
    def _calling(self, session: str) -> "Iterator[None]":
        checked(session)
        self.mirror.begin(session)
        try:
            yield
        finally:
            for wake in self.mirror.end(session):
                self._engine.woken(self.pool, wake)

    def _standing(self, session: str, answer: list[Any], rank: int = 0, exclude: str = "") -> Standing:
        serial = int(answer[1])
        if answer[0] == b"grant":
            standing: Standing = Grant(answer[2].decode(), int(answer[3]))
            self.mirror.settle(session, standing, serial, rank, exclude, "")
            return standing
        if answer[0] == b"none":
            self.mirror.forget(session)
            raise KeyError(session)
        place = Place(int(answer[2]), int(answer[3]))
        if answer[0] == b"out":
            self.mirror.forget(session)
            return place
        old = self.mirror.waiting.get(session)
        if old is not None:
            rank, exclude = old.rank, old.exclude
        self.mirror.settle(session, place, serial, rank, exclude, answer[4].decode())
        return place

    # --- sessions ---

    async def reserve(
        self, session: str, *, rank: int = 0, front: bool = False, exclude: str = "", patient: bool = True
    ) -> Standing:
        """See `Store`."""
        checked(exclude)
        with self._calling(session):
            self.mirror.releasing.discard(session)
            answer = await self.call("reserve", session, rank, int(front), exclude, int(patient), "")
            return self._standing(session, answer, rank, exclude)

    async def release(self, session: str) -> bool:
        """See `Store`."""
        with self._calling(session):
            self.mirror.forget(session)
            self.mirror.releasing.add(session)
            known = bool((await self.call("release", session))[1] == b"1")
            self.mirror.releasing.discard(session)
            return known

    async def begin(self, session: str) -> bool:
        """See `Store`."""
        with self._calling(session):
            if (held := self.mirror.held.get(session)) is not None:
                held.live = True
            return bool((await self.call("begin", session))[1] == b"1")

    async def hold(self, session: str, node: str, epoch: int) -> bool:
        """See `Store`."""
        checked(node)
        with self._calling(session):
            answer = await self.call("hold", session, node, epoch, 1)
            if answer[0] != b"OK":
                return False
            self.mirror.settle(session, Grant(node, int(answer[1])), int(answer[2]), 0, "", "")
            self.mirror.held[session].live = True
            return True

    async def yield_slot(self, session: str, *, rank: int = 0) -> Standing:
        """See `Store`."""
        with self._calling(session):
            token = f"{self._engine.replica}.{next(self._tokens)}"
            return self._standing(session, await self.call("yield", session, rank, token), rank)

    async def suspend(self, session: str) -> Place:
        """See `Store`."""
        with self._calling(session):
            standing = self._standing(session, await self.call("suspend", session))
            if isinstance(standing, Grant):
                raise KeyError(session)
            return standing

    async def resume(self, session: str) -> Standing:
        """See `Store`."""
        with self._calling(session):
            return self._standing(session, await self.call("resume", session))

    # --- nodes ---

    async def node_up(
        self, node: str, capacity: int, socket: str, sessions: Sequence[str] = (), epoch: int = 0
    ) -> Registered:
        """See `Store`."""
        checked(node, socket, *sessions)
        grace = self._engine.grace_ms
        answer = await self.call("node", node, capacity, socket, epoch, 1, 1, grace, *sessions)
        registered = Registered(int(answer[1]), [each.decode() for each in answer[2:]])
        self.mirror.nodes[node] = NodeHere(capacity, socket, registered.epoch, True, list(sessions))
        return registered

    async def node_open(self, node: str, epoch: int, open: bool) -> bool:
        """See `Store`."""
        if (here := self.mirror.nodes.get(node)) is not None and here.epoch == epoch:
            here.open = open
        return bool((await self.call("open", node, epoch, int(open)))[1] == b"1")

    async def node_gone(self, node: str, epoch: int) -> bool:
        """See `Store`."""
        if (here := self.mirror.nodes.get(node)) is not None and here.epoch == epoch:
            del self.mirror.nodes[node]
        return bool((await self.call("gone", node, epoch))[1] == b"1")

    # --- the leader ---

    async def lead(self) -> int:
        """See `Store`."""
        return int((await self.call("lead", self._engine.lease_ms))[1])

    async def publish(self, token: int, supply: int) -> None:
        """See `Store`."""
        if (await self.call("publish", token, supply))[0] != b"OK":
            raise FencedError(f"another replica leads the pool {self.pool}")

    # --- read-outs ---

    async def places(self) -> Mapping[str, int]:
        """See `Store`."""
        _, *found = await self.call("places")
        return {session.decode(): int(place) for session, place in zip(found[::2], found[1::2], strict=True)}

    async def look(self) -> PoolView:
        """See `Store`."""
        return _view((await self.call("look"))[1:])

    # --- joining, and saying again what is held ---

    async def attach(self, server: str, fresh: str) -> None:
        """Join over a new connection. What this replica holds is said again if the engine has forgotten it."""
        engine, before = self._engine, (self.epoch, self.me)
        if not self.me:
            self.me = f"{engine.replica}|"
        answer = await self.script("attach", server, engine.lease_ms, engine.grace_ms, fresh)
        if answer[0] != b"OK":
            raise PipeDownError("an older connection of this replica")
        self.epoch, self.me, left = answer[1].decode(), answer[2].decode(), int(answer[3])
        for session in list(self.mirror.releasing):
            await self.script("release", session)
            self.mirror.releasing.discard(session)
        if before[0] and before != (self.epoch, self.me):
            self._untold = True
        if self._untold or self._missing:
            await self._tell(asyncio.get_running_loop().time() + left / 1000)
            self._untold = False

    async def _tell(self, until: float) -> None:
        mirror = self.mirror
        for id, node in list(mirror.nodes.items()):
            grace = self._engine.grace_ms
            answer = await self.script(
                "node", id, node.capacity, node.socket, node.epoch, 0, int(node.open), grace, *node.sessions
            )
            if answer[0] != b"OK":
                mirror.nodes.pop(id, None)
        self._missing = {session for session in list(mirror.held) if not await self._tell_held(session)}
        for session, waiting in sorted(mirror.waiting.items(), key=lambda each: float(each[1].score)):
            answer = await self.script("reserve", session, waiting.rank, 0, waiting.exclude, 1, waiting.score)
            if waiting.suspended:
                answer = await self.script("suspend", session)
            waiting.serial = 0
            if answer[0] == b"grant":
                self._pass(Wake(News.GRANTED, session, answer[2].decode(), int(answer[3])), int(answer[1]) + 1)
        self.close()
        self._told.set()
        if self._missing:
            self._late = asyncio.create_task(self._tell_late(until))

    async def _tell_held(self, session: str) -> bool:
        """Say that a session has its slot; false if its node is not known yet."""
        held = self.mirror.held.get(session)
        if held is None:
            return True
        answer = await self.script("hold", session, held.node, held.epoch, int(held.live))
        if answer[0] == b"NONODE":
            return False
        if answer[0] != b"OK":
            held.serial = 0
            self._pass(Wake(News.LOST, session, held.node), 1)
            return True
        held.epoch, held.serial = int(answer[1]), int(answer[2])
        return True

    async def _tell_late(self, until: float) -> None:
        """Go on saying it, since a node may be known to another replica that comes later."""
        loop = asyncio.get_running_loop()
        while self._missing and loop.time() < until:
            await asyncio.sleep(BACKOFF)
            try:
                for session in list(self._missing):
                    if await self._tell_held(session):
                        self._missing.discard(session)
            except (PipeDownError, ResponseError):
                return  # the next connection begins with all of it
            self._told.set()
        for session in self._missing:
            if (held := self.mirror.held.get(session)) is not None:
                held.serial = 0
                self._pass(Wake(News.LOST, session, held.node), 1)
        self._missing.clear()
        self._told.set()

    def close(self) -> None:
        """Say no more."""
        if self._late is not None:
            self._late.cancel()

    def hear(self, data: bytes) -> None:
        """Take news from this replica's stream."""
        news, session, node, epoch, serial = data.decode().split("|")
        moved = news == "moved"
        wake = Wake(News.GRANTED if moved else News(news), session, node, int(epoch))
        self._pass(wake, int(serial), moved)

    def _pass(self, wake: Wake, serial: int, moved: bool = False) -> None:
        for each in self.mirror.take(wake, moved, serial):
            self._engine.woken(self.pool, each)


def _pairs(flat: list[bytes]) -> list[tuple[str, str]]:
    return [(key.decode(), value.decode()) for key, value in zip(flat[::2], flat[1::2], strict=True)]


def _view(parts: list[Any]) -> PoolView:
    """The pool as the script `look` tells it."""
    sessions = {}
    by_node: dict[str, list[str]] = {}
    for session, text in _pairs(parts[1]):
        node, _, live, _, owner, _ = text.split("|")
        sessions[session] = SessionView(id=session, node=node, owner=owner, live=live == "1")
        by_node.setdefault(node, []).append(session)
    nodes = {}
    for node, text in _pairs(parts[0]):
        capacity, epoch, is_open, replica, _, _ = text.split("|")
        nodes[node] = NodeView(
            id=node,
            capacity=int(capacity),
            epoch=int(epoch),
            open=is_open == "1",
            replica=replica,
            sessions=sorted(by_node.get(node, ())),
        )
    return PoolView(
        nodes=nodes,
        sessions=sessions,
        line=[each.decode() for each in parts[2]],
        away=sorted(each.decode() for each in parts[3]),
        replicas=sorted(each.decode().partition("|")[0] for each in parts[4]),
        leader=parts[5].decode().partition("|")[0],
        supply=int(parts[6]),
        recovering=int(parts[7]) / 1000,
    )
