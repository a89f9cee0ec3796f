"""Calls of the engine, in order: what is asked of one session is done one after the other."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from rtcbridge.ports_engine import EngineAwayError, EngineError

log = structlog.get_logger(__name__)

Call: TypeAlias = Callable[[], Awaitable[object]]
_PAUSE = 1.0  # seconds before a call is repeated that the engine could not make sense of


class Calls:
    """Makes calls until each is done, however long the engine is away. Another session's calls do not wait.

    Attributes:
        added: how many were asked for, ever.
        done: how many of them are done, or were given up.
    """

    def __init__(self) -> None:
        self.added = self.done = 0
        self._queues: dict[str, deque[Call]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, session: str, call: Call) -> None:
        """Make a call when those before it, of the same session, are done."""
        self.added += 1
        if (queue := self._queues.get(session)) is not None:
            queue.append(call)
            return
        self._queues[session] = deque()
        task = asyncio.create_task(self._work(session, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, session: str, call: Call) -> None:
        queue = self._queues[session]
        while True:
            await self._make(session, call)
            self.done += 1
            if not queue:
                del self._queues[session]
                return
            call = queue.popleft()

    async def _make(self, session: str, call: Call) -> None:
        while True:
            try:
                await call()
            except EngineAwayError as error:
                log.warning("the engine is away", session=session, error=str(error))
            except EngineError as error:
                log.error("the engine failed", session=session, error=str(error))
                await asyncio.sleep(_PAUSE)
            except Exception:
                log.exception("a call of the engine failed", session=session)
                return
            else:
                return

    async def close(self, patience: float) -> None:
        """Let what is under way end within so many seconds, then give it up."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
