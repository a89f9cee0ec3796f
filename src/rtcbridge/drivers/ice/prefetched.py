"""Credentials of a service that makes them over its API, at hand before anybody asks for them.

Why sessions share a credential: these services count and bill what an account relays, not who used which credential,
and a call takes some tenths of a second, fails at times, and is limited in number. So a client is never made to wait
for one: a credential is given to all that ask within half of its life, then the next one is fetched. Whoever gets one
can use it for half of its life at the least, or, while the API fails, for what is left of it.
"""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from rtcbridge.ports import IceError, IceGrant, IceSource

log = structlog.get_logger(__name__)

TIMEOUT = 10.0  # seconds that one call may take
_START = 2.0  # seconds for which the start waits for the first credential
_FIRST_PAUSE, _LONGEST_PAUSE = (
    1.0,
    60.0,
)  # seconds before a call that failed is made again; each pause is twice the last


class PrefetchedServers:
    """Asks a service now and then, one call at a time, and keeps what it said last until that expires.

    Args:
        source: The service.
        clock: Unix seconds.
    """

    def __init__(self, source: IceSource, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._held = IceGrant(expires=0.0)
        self._fetched = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def grant(self, user: str) -> IceGrant:
        """See `IceServers`: the same for all. Nothing, while nothing is at hand, and a time to ask again."""
        now = self._clock()
        return self._held if self._held.expires > now else IceGrant(expires=now + _LONGEST_PAUSE)

    async def start(self) -> None:
        """See `IceServers`."""
        self._task = asyncio.create_task(self._run(), name=f"ice-{self._source.name}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START):
                await self._fetched.wait()

    async def close(self) -> None:
        """See `IceServers`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(TIMEOUT):
                    grant = await self._source.fetch()
            except (IceError, TimeoutError) as error:
                left = max(0.0, self._held.expires - self._clock())
                reason = str(error) or f"no answer within {TIMEOUT:g} seconds"
                log.warning("no new TURN credentials", service=self._source.name, reason=reason, good_for=round(left))
                wait, pause = pause, min(_LONGEST_PAUSE, 2 * pause)
            else:
                self._held, pause = grant, _FIRST_PAUSE
                self._fetched.set()
                left = grant.expires - self._clock()
                log.info("new TURN credentials", service=self._source.name, good_for=round(left))
                wait = max(_FIRST_PAUSE, left / 2)
            await asyncio.sleep(wait)
