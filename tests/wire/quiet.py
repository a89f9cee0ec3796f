"""Waits until several bridges have nothing under way among each other, by what they tell Prometheus and by the streams.

A consequence goes from bridge to bridge by calls of the engine, its news, and messages. Two looks in a row that find
none of them under way, and between which none was begun, have seen that there is none (Mattern 1987, "Algorithms for
distributed termination detection").
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from rtcbridge.conformance.sockets import PATIENCE
from wire.live import Program

_PAUSE = 0.01  # seconds between two looks
_OURS = ("rtcbridge_engine_", "rtcbridge_bus_")
_STREAMS = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'rtcbridge:*:meta')) do
  found[#found + 1] = { key, tonumber(redis.call('HGET', key, 'serial') or '0') }
end
for _, key in ipairs(redis.call('KEYS', 'rtcbridge:*:wake:*')) do
  found[#found + 1] = { key, redis.call('XLEN', key) }
end
return found
"""


@dataclass
class Look:
    """What one look has found."""

    begun: dict[str, tuple[float, ...]]  # by pool: calls by bridge, and news
    pending: dict[str, float]  # by pool: calls, and news that nobody has taken
    sent: list[float]  # by bridge: messages to others
    received: list[float]  # of these


class Quiet:
    """Looks at bridges with an engine.

    Args:
        replicas: the bridges; those that do not run are left out.
        engine: the engine's address.
    """

    def __init__(self, replicas: Sequence[Program], engine: str) -> None:
        self._replicas = replicas
        self._engine = Redis.from_url(engine)
        self._http: httpx.AsyncClient | None = None
        self._next: asyncio.Task[Look] | None = None  # a look that has not begun
        self._looking = asyncio.Lock()

    async def wait(self, pool: str) -> None:
        """Wait until nothing of a pool is under way. Raises AssertionError if that is never so."""
        before: Look | None = None
        until = time.monotonic() + 2 * PATIENCE
        while any(replica.port for replica in self._replicas):
            look = await self._look()
            if before is not None and not before.pending[pool] and not look.pending[pool]:
                there = all(had >= sent for had, sent in zip(look.received, before.sent, strict=True))
                if there and look.begun[pool] == before.begun[pool]:
                    return
            assert time.monotonic() < until, f"never calm: {before}, {look}"
            before = look
            await asyncio.sleep(_PAUSE)

    async def _look(self) -> Look:
        """A look that begins after this call; those who ask meanwhile share the next."""
        if self._next is None:
            self._next = asyncio.create_task(self._look_now())
        return await asyncio.shield(self._next)

    async def _look_now(self) -> Look:
        async with self._looking:
            self._next = None
            look = Look({}, {}, [], [])
            for replica in self._replicas:
                if replica.port:
                    await self._ask(replica, look)
            for key, number in await self._engine.eval(_STREAMS, 0):  # type: ignore[misc]
                pool = key.decode().partition("{")[2].partition("}")[0]
                if key.endswith(b":meta"):
                    look.begun[pool] += (number,)
                else:
                    look.pending[pool] += number
            return look

    async def _ask(self, replica: Program, look: Look) -> None:
        if self._http is None:
            self._http = httpx.AsyncClient(trust_env=False, timeout=20.0)
        answer = await self._http.get(f"http://127.0.0.1:{replica.metrics}/metrics")
        sent = unacknowledged = 0.0
        ours = [line for line in answer.text.splitlines() if line.partition("{")[0].startswith(_OURS)]
        for family in text_string_to_metric_families("\n".join(ours)):
            for sample in family.samples:
                pool = sample.labels.get("pool", "")
                match sample.name:
                    case "rtcbridge_engine_calls_total":
                        look.begun[pool] = (*look.begun.get(pool, ()), sample.value)
                    case "rtcbridge_engine_calls_pending":
                        look.pending[pool] = look.pending.get(pool, 0.0) + sample.value
                    case "rtcbridge_bus_messages_total":
                        sent = sample.value
                    case "rtcbridge_bus_messages_unacknowledged":
                        unacknowledged = sample.value
        look.sent.append(sent)
        look.received.append(sent - unacknowledged)

    async def close(self) -> None:
        """Ask no more, until somebody waits again."""
        await self._engine.aclose()
        if self._http is not None:
            await self._http.aclose()
            self._http = None
