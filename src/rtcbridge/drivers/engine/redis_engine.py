"""What replicas share through a Valkey or Redis server: connections, leases, and the reading of streams."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from rtcbridge.drivers.engine.names import checked
from rtcbridge.drivers.engine.pipe import BACKOFF, Connector, Pipe, PipeDownError
from rtcbridge.drivers.engine.redis_bus import INBOX_LIFE, RedisBus, inbox
from rtcbridge.drivers.engine.redis_quotas import RedisQuotas
from rtcbridge.drivers.engine.redis_store import SCRIPT, RedisStore
from rtcbridge.drivers.engine.url import EngineUrl
from rtcbridge.ports_engine import EngineError, Packet, Wake

_READ = 1_000  # entries of a stream that are taken at once
_TRIM = 0.05  # seconds within which an inbox is trimmed: a call for each message would cost as much as the message
_BLOCK = 500  # milliseconds that a read waits

logger = logging.getLogger(__name__)


class RedisEngine:
    """One replica's part in an engine that others share.

    Args:
        url: where the server is.
        name: of this replica, for people; each object has an id of its own behind it.
        lease: seconds without a word after which a replica counts as dead.
        grace: seconds for which a live session of a dead replica keeps its slot.
        patience: seconds for which a call is tried before EngineAwayError.
        silence: seconds without an answer after which a connection is given up.
    """

    def __init__(
        self,
        url: EngineUrl,
        name: str = "bridge",
        *,
        lease: float = 1.5,
        grace: float = 60.0,
        patience: float = 5.0,
        silence: float = 1.0,
    ) -> None:
        checked(name)
        self.url, self.patience = url, patience
        self.replica = f"{name}.{secrets.token_hex(6)}"
        self.lease_ms, self.grace_ms = int(lease * 1000), int(grace * 1000)
        self.generation = 0
        self._connector = Connector(url)
        self.pipe = Pipe(self._connector, self._hello, silence)
        self._reader = Pipe(self._connector, self._reader_hello, silence + _BLOCK / 1000)
        self._stores: dict[str, RedisStore] = {}
        self._positions: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._trimming: asyncio.TimerHandle | None = None
        self._woken: Callable[[str, Wake], None] = lambda pool, wake: None
        self._received: Callable[[str, Packet], None] = lambda origin, packet: None
        self._lease = lease
        self._epoch = time.time() - time.monotonic()  # of this process's monotonic clock, by the server's time of day
        self.quotas = RedisQuotas(self)
        self.bus = RedisBus(self.replica, self.pipe, lambda origin, packet: self._received(origin, packet))

    def store(self, pool: str) -> RedisStore:
        """See `Engine`; a pool that was not named to `start` is joined with the next connection."""
        if pool not in self._stores:
            self._stores[pool] = RedisStore(self, pool)
            self.pipe.restart()
        return self._stores[pool]

    def wall(self) -> float:
        """See `Engine`: by the server's clock."""
        return time.monotonic() + self._epoch

    async def start(
        self, pools: Sequence[str], woken: Callable[[str, Wake], None], received: Callable[[str, Packet], None]
    ) -> None:
        """See `Engine`."""
        self._woken, self._received = woken, received
        for pool in pools:
            self.store(pool)
        self.pipe.start()
        try:
            async with asyncio.timeout(self.patience):
                await self.pipe.tried.wait()
        except TimeoutError:
            pass
        if not self.pipe.up.is_set():
            await self.pipe.close()
            raise EngineError(f"engine {self.url}: {self.pipe.error or 'no answer'}")
        self._reader.start()
        self.quotas.start()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._beat())]

    async def close(self) -> None:
        """See `Engine`."""
        await self.quotas.close()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        with suppress(PipeDownError, ResponseError, TimeoutError):
            async with asyncio.timeout(1.0):
                for store in self._stores.values():
                    await store.script("leave", self.grace_ms)
                await self.pipe.call("DEL", inbox(self.replica))
        self._stop()
        await self._reader.close()
        await self.pipe.close()
        await self._connector.close()

    async def kill(self) -> None:
        """End without a word, as if the process had been killed. For tests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self.quotas.close(), return_exceptions=True)
        self._stop()
        await self._reader.close()
        await self.pipe.close()

    def _stop(self) -> None:
        for store in self._stores.values():
            store.telling.close()
        self.bus.close()
        if self._trimming is not None:
            self._trimming.cancel()

    def woken(self, pool: str, wake: Wake) -> None:
        """Pass news on."""
        self._woken(pool, wake)

    # --- connections ---

    async def _hello(self) -> None:
        self.generation += 1
        server = await self._run_id()
        await self._set_clock()
        await self.pipe.call("SCRIPT", "LOAD", SCRIPT)
        before = [(store.epoch, store.me) for store in self._stores.values()]
        key = inbox(self.replica)
        if not await self.pipe.call("EXISTS", key):
            await self.pipe.call("XADD", key, "*", "hello", "")
            self._positions.pop(key, None)
        await self.pipe.call("PEXPIRE", key, INBOX_LIFE)
        for store in list(self._stores.values()):
            await store.telling.attach(server, f"{server}.{self.replica}.{self.generation}")
        if before != [(store.epoch, store.me) for store in self._stores.values()]:
            self._reader.restart()
        asyncio.get_running_loop().call_soon(self.bus.connected)

    async def _set_clock(self) -> None:
        before = time.monotonic()
        seconds, micros = await self.pipe.call("TIME")
        self._epoch = int(seconds) + int(micros) / 1e6 - (before + time.monotonic()) / 2

    async def _run_id(self) -> str:
        text = (await self.pipe.call("INFO", "server")).decode()
        for line in text.splitlines():
            if line.startswith("run_id:"):
                return str(line.partition(":")[2])
        raise EngineError("the server does not say its run_id")

    async def _reader_hello(self) -> None:
        """Nothing has to be said before reading."""

    async def _beat(self) -> None:
        """Keep the leases alive; the engine is asked for nothing else that has to come in time."""
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self.pipe.up.wait()
                for store in list(self._stores.values()):
                    answer = await store.script("beat", self.lease_ms, self.grace_ms)
                    if answer[0] != b"OK":
                        self.pipe.restart()
                        break
                await self._set_clock()
                if not await self.pipe.call("PEXPIRE", inbox(self.replica), INBOX_LIFE):
                    self.pipe.restart()
            except PipeDownError:
                continue
            except ResponseError as error:
                logger.warning("engine: %s", error)

    # --- streams ---

    def _streams(self) -> dict[str, RedisStore | None]:
        keys: dict[str, RedisStore | None] = {inbox(self.replica): None}
        for store in self._stores.values():
            keys[f"{store.prefix}wake:{store.me}"] = store
        return keys

    async def _read(self) -> None:
        while True:
            await self._reader.up.wait()
            streams = self._streams()
            self._positions = {key: self._positions.get(key, "0") for key in streams}
            ids = self._positions.values()
            try:
                found = await self._reader.call("XREAD", "COUNT", _READ, "BLOCK", _BLOCK, "STREAMS", *streams, *ids)
            except PipeDownError:
                await asyncio.sleep(BACKOFF)
                continue
            except ResponseError as error:
                logger.warning("engine: %s", error)
                await asyncio.sleep(BACKOFF)
                continue
            for key, entries in found or ():
                self._take(key.decode(), entries, streams)

    def _take(self, key: str, entries: list[Any], streams: dict[str, RedisStore | None]) -> None:
        if key not in self._streams():
            return  # of an earlier life of this replica
        store = streams[key]
        self._positions[key] = entries[-1][0].decode()
        for _, fields in entries:
            try:
                if store is not None:
                    store.hear(fields[1])
                elif fields[0] == b"b":
                    self.bus.hear(fields[1])
            except Exception:
                logger.exception("what the engine brought could not be dealt with")
        if store is not None:
            self._trim(key)
        elif self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(_TRIM, self._trim_inbox, key)

    def _trim_inbox(self, key: str) -> None:
        self._trimming = None
        self._trim(key)

    def _trim(self, key: str) -> None:
        """Throw away what was read."""
        if self.pipe.up.is_set() and key in self._positions:
            milliseconds, _, number = self._positions[key].partition("-")
            done = self.pipe.call("XTRIM", key, "MINID", f"{milliseconds}-{int(number or 0) + 1}")
            done.add_done_callback(lambda call: call.cancelled() or call.exception())
