"""Who leads which pool, and what is asked of those that do."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from rtcbridge.gateway.shared.wire import Ask, Control, Verdict
from rtcbridge.ports_engine import EngineError

_ASK = 1.0  # seconds that a leader has to answer before it is asked again
_LED = 10.0  # seconds that a replica waits at its start for somebody to lead the pools


class Leaders:
    """The leaders of the pools, as far as this replica knows.

    Args:
        tell: Says something to another replica, or to this one.
    """

    def __init__(self, tell: Callable[[str, Control], None]) -> None:
        self._tell = tell
        self._leaders: dict[str, str] = {}
        self._led = asyncio.Condition()
        self._asked: dict[int, asyncio.Future[Verdict | None]] = {}
        self._numbers = itertools.count(1)

    def get(self, pool: str) -> str:
        """Return who leads a pool, "" while that is not known."""
        return self._leaders.get(pool, "")

    async def note(self, pool: str, leader: str) -> None:
        """Note who leads a pool."""
        if self._leaders.get(pool) != leader:
            async with self._led:
                self._leaders[pool] = leader
                self._led.notify_all()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_result(None)  # ask the new one

    async def of(self, pool: str) -> str:
        """Return who leads a pool; wait until somebody does."""
        async with self._led:
            await self._led.wait_for(lambda: self._leaders.get(pool))
            return self._leaders[pool]

    async def all(self, pools: Sequence[str]) -> None:
        """Wait until every pool is led by somebody. Raises EngineError."""
        try:
            async with asyncio.timeout(_LED):
                for name in pools:
                    await self.of(name)
        except TimeoutError:
            raise EngineError("no bridge leads the pools: is every bridge started with the same pools?") from None

    async def ask(self, pool: str, node: str, *, managed: bool, capacity: int, labels: dict[str, Any]) -> Verdict:
        """Ask the leader of a pool whether a node may register, again and again until one answers."""
        while True:
            number = next(self._numbers)
            answer = self._asked[number] = asyncio.get_running_loop().create_future()
            ask = Ask(number=number, pool=pool, node=node, managed=managed, capacity=capacity, labels=labels)
            self._tell(await self.of(pool), ask)
            try:
                async with asyncio.timeout(_ASK):
                    verdict: Verdict | None = await answer
            except TimeoutError:
                verdict = None
            self._asked.pop(number, None)
            if verdict is not None:
                return verdict

    def answered(self, verdict: Verdict) -> None:
        """Take an answer."""
        if (asked := self._asked.pop(verdict.number, None)) is not None and not asked.done():
            asked.set_result(verdict)
