"""Who holds which slot, in Valkey or Redis: every step is one script. docs/engine.md has the data model."""

import asyncio
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError

from rtcbridge.drivers.engine.mirror import Mirror, NodeHere, Rumour, Wish, about_node, parse_rumour
from rtcbridge.drivers.engine.names import checked, checked_info, printable
from rtcbridge.drivers.engine.pipe import BACKOFF, PipeDownError
from rtcbridge.drivers.engine.redis_telling import Telling, node_arguments
from rtcbridge.drivers.engine.redis_views import journaled, pairs, places, pool_view, session_view
from rtcbridge.ports_engine import (
    EngineAwayError,
    EngineError,
    FencedError,
    Grant,
    Lead,
    News,
    Place,
    PoolView,
    Registered,
    SessionView,
    Standing,
    Wake,
)
from rtcbridge.ports_journal import Journaled

if TYPE_CHECKING:
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

SCRIPT = files("rtcbridge.drivers.engine").joinpath("pool.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()
_REFUSED = (b"ENGINE", b"FENCED", b"STALE")
_NO_WISH = Wish()
_OF_A_SLOT = frozenset({"reserve", "begin", "hold", "take", "yield", "suspend", "resume"})


def prefix(pool: str) -> str:
    """What the keys of a pool begin with; the braces keep them together on one server of a cluster."""
    return f"rtcbridge:{{{pool}}}:"


class _Calling:
    """A call of a session, or of a node by `about_node`, is under way."""

    __slots__ = ("_store", "_subject")

    def __init__(self, store: "RedisStore", subject: str) -> None:
        self._store, self._subject = store, subject

    def __enter__(self) -> None:
        self._store.mirror.begin(self._subject)

    def __exit__(self, *_: object) -> None:
        if wakes := self._store.mirror.end(self._subject):
            self._store.pass_on(wakes)


class RedisStore:
    """The store of one pool. `me` is this replica with its epoch, as `name|epoch`; "" before it has joined."""

    def __init__(self, engine: "RedisEngine", pool: str) -> None:
        checked(pool)
        self.pool, self.prefix = pool, prefix(pool)
        self.epoch = self.me = ""
        self.mirror = Mirror()
        self.telling = Telling(self, engine)
        self._engine = engine
        self._tokens = itertools.count(1)

    # --- calls ---

    def script(self, command: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Send one command, once."""
        guard = (command, self.epoch, self.me, self._engine.generation)
        return self._engine.pipe.call("EVALSHA", SHA, 1, self.prefix, *guard, *arguments)

    async def call(self, command: str, *arguments: Any) -> list[Any]:
        """Send one command until it is answered. Raises EngineAwayError."""
        engine = self._engine
        began = asyncio.get_running_loop().time()
        if engine.pipe.up.is_set() and not self.telling.missing:  # nearly always; what follows costs more than this
            try:
                answer: list[Any] = await self.script(command, *arguments)
            except (PipeDownError, ResponseError):
                pass
            else:
                if answer[0] not in _REFUSED:
                    return answer
                engine.pipe.restart()
        return await self._insist(began + engine.patience, command, *arguments)

    async def _insist(self, until: float, command: str, *arguments: Any) -> list[Any]:
        engine = self._engine
        try:
            async with asyncio.timeout_at(until):
                while True:
                    await engine.pipe.up.wait()
                    if command in _OF_A_SLOT:
                        await self.telling.of(arguments[0])
                    try:
                        answer: list[Any] = await self.script(command, *arguments)
                    except NoScriptError:
                        await engine.pipe.call("SCRIPT", "LOAD", SCRIPT)
                        continue
                    except PipeDownError:
                        await asyncio.sleep(BACKOFF)
                        continue
                    if answer[0] not in _REFUSED:
                        return answer
                    engine.pipe.restart()
                    await asyncio.sleep(BACKOFF)
        except TimeoutError:
            raise EngineAwayError(f"engine {engine.url}: {engine.pipe.error or 'no answer'}") from None
        except PipeDownError:
            raise EngineAwayError(f"engine {engine.url}: {engine.pipe.error or 'not connected'}") from None
        except ResponseError as error:
            raise EngineError(f"engine {engine.url}: {error}") from None

    def _calling(self, subject: str) -> "_Calling":
        return _Calling(self, subject)

    def _standing(self, session: str, answer: list[Any], wish: Wish) -> Standing:
        serial = int(answer[1])
        if answer[0] == b"grant":
            standing: Standing = Grant(answer[2].decode(), int(answer[3]), answer[4].decode())
            self.mirror.settle(session, standing, serial, wish)
            return standing
        if answer[0] == b"none":
            self.mirror.forget(session)
            raise KeyError(session)
        place = Place(int(answer[2]), int(answer[3]), answer[5].decode(), answer[6] == b"1")
        if answer[0] == b"out":
            self.mirror.forget(session)
        else:
            self.mirror.settle(session, place, serial, wish, answer[4].decode())
        return place

    def _wish(self, session: str) -> Wish:
        return self.mirror.wish(session) or _NO_WISH

    # --- sessions ---

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
        with self._calling(session):
            self.mirror.releasing.pop(session, None)
            how = (rank, int(front), exclude, int(patient), "", project, limit)
            answer = await self.call("reserve", session, *how)
            if (old := self.mirror.wish(session)) is not None:
                rank, exclude = old.rank, old.exclude
            return self._standing(session, answer, Wish(rank, exclude, project, limit))

    async def succeed(self, session: str, old: str, *, rank: int = 0, project: str = "", limit: int = 0) -> Standing:
        """See `Store`."""
        checked(session, old, project)
        with self._calling(session):
            self.mirror.releasing.pop(session, None)
            answer = await self.call("succeed", session, old, rank, project, limit)
            return self._standing(session, answer, Wish(rank, "", project, limit))

    async def release(self, session: str, reason: str = "") -> bool:
        """See `Store`."""
        checked(session)
        with self._calling(session):
            self.mirror.forget(session)
            reason = self.mirror.releasing[session] = printable(reason)
            known = bool((await self.call("release", session, reason))[1] == b"1")
            self.mirror.releasing.pop(session, None)
            return known

    async def begin(self, session: str) -> bool:
        """See `Store`."""
        checked(session)
        with self._calling(session):
            if (held := self.mirror.held.get(session)) is not None:
                held.live = True
            return bool((await self.call("begin", session))[1] == b"1")

    async def served(self, node: str, sessions: Sequence[str]) -> None:
        """See `Store`."""
        checked(node, *sessions)
        await self.call("served", node, *sessions)

    async def hold(self, session: str, node: str, epoch: int, *, project: str = "", limit: int = 0) -> bool:
        """See `Store`."""
        checked(session, node, project)
        with self._calling(session):
            answer = await self.call("hold", session, node, epoch, 1, project, limit, 0)
            if answer[0] != b"OK":
                return False
            grant, serial = Grant(node, int(answer[1]), answer[3].decode()), int(answer[2])
            self.mirror.settle(session, grant, serial, Wish(0, "", answer[4].decode(), int(answer[5])))
            self.mirror.held[session].live = True
            if grant.epoch != epoch:
                self.pass_on([Wake(News.MOVED, session, node, grant.epoch, grant.replica)])
            return True

    async def take_over(
        self, session: str, *, rank: int = 0, exclude: str = "", project: str = "", limit: int = 0
    ) -> Standing:
        """See `Store`."""
        checked(session, exclude, project)
        with self._calling(session):
            self.mirror.releasing.pop(session, None)
            answer = await self.call("take", session)
            return self._standing(session, answer, Wish(rank, exclude, project, limit))

    async def yield_slot(self, session: str, *, rank: int = 0) -> Standing:
        """See `Store`."""
        checked(session)
        with self._calling(session):
            token = f"{self._engine.replica}.{next(self._tokens)}"
            answer = await self.call("yield", session, rank, token)
            old = self._wish(session)
            wish = old if session in self.mirror.waiting else Wish(rank, "", old.project, old.limit)
            return self._standing(session, answer, wish)

    async def suspend(self, session: str) -> Place:
        """See `Store`."""
        checked(session)
        with self._calling(session):
            answer = await self.call("suspend", session)
            standing = self._standing(session, answer, self._wish(session))
            if isinstance(standing, Grant):
                raise KeyError(session)
            return standing

    async def resume(self, session: str) -> Standing:
        """See `Store`."""
        checked(session)
        with self._calling(session):
            answer = await self.call("resume", session)
            return self._standing(session, answer, self._wish(session))

    # --- nodes ---

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
        here = NodeHere(capacity, socket, epoch, open, checked_info(info), list(sessions))
        with self._calling(about_node(node)):
            answer = await self.call(
                "node", node, *node_arguments(here, 1, self._engine.grace_ms, "" if supply is None else supply)
            )
            here.epoch = int(answer[1])
            self.mirror.nodes[node] = here
        return Registered(here.epoch, dict(pairs(answer[2:])))

    def over(self, node: str, session: str) -> None:
        """See `Store`."""
        here = self.mirror.nodes.get(node)
        if here is not None and session in here.sessions:
            here.sessions.remove(session)

    async def node_down(self, node: str, epoch: int) -> bool:
        """See `Store`."""
        if (here := self.mirror.nodes.get(node)) is not None and here.epoch == epoch:
            here.open, here.socket = False, ""
        with self._calling(about_node(node)):
            return bool((await self.call("down", node, epoch))[1] == b"1")

    async def node_open(self, node: str, epoch: int, open: bool) -> bool:
        """See `Store`."""
        if (here := self.mirror.nodes.get(node)) is not None and here.epoch == epoch and here.socket:
            here.open = open
        with self._calling(about_node(node)):
            return bool((await self.call("open", node, epoch, int(open)))[1] == b"1")

    async def node_gone(self, node: str, epoch: int) -> bool:
        """See `Store`."""
        if (here := self.mirror.nodes.get(node)) is not None and here.epoch == epoch:
            del self.mirror.nodes[node]
        with self._calling(about_node(node)):
            return bool((await self.call("gone", node, epoch))[1] == b"1")

    # --- the leader ---

    async def lead(self) -> Lead:
        """See `Store`."""
        _, token, leader, replicas = await self.call("lead", self._engine.lease_ms)
        return Lead(int(token), leader.decode(), int(replicas))

    async def publish(self, token: int, supply: int, cause: str = "", version: str = "") -> bool:
        """See `Store`."""
        answer = await self.call("publish", token, supply, cause, version)
        if answer[0] != b"OK":
            raise FencedError(f"another replica leads the pool {self.pool}")
        return bool(answer[1] == b"1")

    # --- the ledger ---

    async def journal(self, age: float = 1.0, limit: int = 1_000) -> Sequence[Journaled]:
        """See `Store`."""
        return journaled((await self.call("journal", int(1000 * age), limit))[1:])

    async def confirm(self, sessions: Sequence[str]) -> None:
        """See `Store`."""
        await self.call("confirm", *sessions)

    # --- read-outs ---

    async def places(self) -> Mapping[str, Place]:
        """See `Store`."""
        _, supply, cause, *found = await self.call("places")
        return places(int(supply), cause.decode(), found)

    async def find(self, session: str) -> SessionView | None:
        """See `Store`."""
        checked(session)
        found = await self.call("find", session)
        return session_view(session, found[1].decode(), found[2].decode()) if len(found) > 1 and found[1] else None

    async def look(self) -> PoolView:
        """See `Store`."""
        return pool_view((await self.call("look"))[1:])

    def hear(self, data: bytes) -> None:
        """Take news from this replica's stream."""
        self.take(parse_rumour(data.decode()))

    def take(self, rumour: Rumour) -> None:
        """Take news, and pass on what is new to this replica."""
        self.pass_on(self.mirror.take(rumour))

    def pass_on(self, wakes: Sequence[Wake]) -> None:
        """Tell news in a turn of their own, so that whoever waits for an answer has it before news that are newer."""
        for wake in wakes:
            asyncio.get_running_loop().call_soon(self._engine.woken, self.pool, wake)
