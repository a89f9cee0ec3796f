"""Sessions of this replica that may have ended without it: while it was taken for dead, another went on with them."""

import asyncio
import itertools
from functools import partial
from typing import TYPE_CHECKING

import structlog

from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.ports import LedgerError

if TYPE_CHECKING:
    from rtcbridge.gateway.shared.bridge import SharedBridge

log = structlog.get_logger(__name__)

_WRITTEN = 1.0  # seconds within which an end that another replica has recorded is in the store
_PAGE = 1_000  # sessions that are looked up at once


class Doubts:
    """Looks into the ledger for what the engine does not know any more.

    A replica that is back says again what it holds. Of a session that the engine does not know, it may be that its data
    are lost, and that the session has ended meanwhile, at a replica that had taken it over. The ledger can tell.

    Args:
        bridge: This replica.
    """

    def __init__(self, bridge: "SharedBridge") -> None:
        self._bridge = bridge
        self._doubted: dict[str, SharedPool] = {}

    def add(self, pool: SharedPool, session: str) -> None:
        """See to it that a session that has ended does not go on here."""
        if not self._doubted:
            self._bridge.do(self._look())
        self._doubted[session] = pool

    async def _look(self) -> None:
        await asyncio.sleep(_WRITTEN)
        doubted, self._doubted = self._doubted, {}
        sessions = iter([session for session in doubted if session in self._bridge.sessions])
        while page := list(itertools.islice(sessions, _PAGE)):
            for session in await self._ended(page):
                pool = doubted[session]
                if self._bridge.sessions.get(session) is None:
                    continue
                log.warning("a session had ended while this bridge was away", session=session)
                pool.calls.add(session, partial(pool.store.release, session))  # what was told again
                pool.lost(session)

    async def _ended(self, sessions: list[str]) -> list[str]:
        while True:
            try:
                return list(await asyncio.to_thread(self._bridge.ledger.whole_among, sessions))
            except LedgerError as error:
                log.warning("whether sessions have ended is not known", sessions=len(sessions), error=str(error))
                await asyncio.sleep(_WRITTEN)
