"""Sets of sessions with a maximum, in Valkey or Redis: sorted sets, whose members lapse unless they are said again."""

import asyncio
import logging
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from rtcbridge.drivers.engine.pipe import BACKOFF, PipeDownError
from rtcbridge.ports_engine import EngineAwayError

if TYPE_CHECKING:
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

SCRIPT = files("rtcbridge.drivers.engine").joinpath("quotas.lua").read_bytes()
LASTS = 10.0
"""Seconds that a session counts on whose replica has died."""

_AT_ONCE = 500  # sessions that are said again in one go

logger = logging.getLogger(__name__)


class RedisQuotas:
    """`Quotas` of one replica.

    Args:
        engine: this replica's.
        lasts: seconds that a membership lasts unless it is said again.
    """

    def __init__(self, engine: "RedisEngine", lasts: float = LASTS) -> None:
        self._engine = engine
        self._lasts_ms = int(lasts * 1000)
        self._again = lasts / 4
        self._held: dict[str, Mapping[str, int]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to say again what this replica has."""
        self._task = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Stop that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def take(self, session: str, groups: Mapping[str, int]) -> bool:
        """See `Quotas`."""
        if not await self._call(lambda: self._script("take", session, groups)):
            return False
        self._held[session] = groups
        return True

    async def hold(self, session: str, groups: Mapping[str, int]) -> None:
        """See `Quotas`."""
        self._held[session] = groups
        await self._call(lambda: self._script("hold", session, groups))

    async def release(self, session: str) -> None:
        """See `Quotas`."""
        groups = self._held.pop(session, {})
        for group in groups:
            await self._call(lambda group=group: self._engine.pipe.call("ZREM", _key(group), session))

    def drop(self, session: str) -> None:
        """See `Quotas`."""
        self._held.pop(session, None)

    def _script(self, command: str, session: str, groups: Mapping[str, int]) -> "asyncio.Future[Any]":
        keys = [_key(group) for group in groups]
        return self._engine.pipe.call(
            "EVAL", SCRIPT, len(keys), *keys, command, self._lasts_ms, session, *groups.values()
        )

    async def _call(self, call: Any) -> Any:
        """Make a call until it is answered, for as long as the engine's patience lasts."""
        engine = self._engine
        try:
            async with asyncio.timeout(engine.patience):
                while True:
                    try:
                        await engine.pipe.up.wait()
                        return await call()
                    except PipeDownError:
                        await asyncio.sleep(BACKOFF)
        except TimeoutError:
            raise EngineAwayError(f"engine {engine.url}: {engine.pipe.error or 'no answer'}") from None

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._again)
            held = list(self._held.items())
            for start in range(0, len(held), _AT_ONCE):
                part = held[start : start + _AT_ONCE]
                calls = [self._script("hold", *each) for each in part if each[0] in self._held]
                answers = await asyncio.gather(*calls, return_exceptions=True)
                if failed := [each for each in answers if isinstance(each, ResponseError)]:
                    logger.warning("engine: %s", failed[0])


def _key(group: str) -> str:
    """Where a set is; the braces keep all of them together on one server of a cluster."""
    return f"rtcbridge:{{quotas}}:{group}"
