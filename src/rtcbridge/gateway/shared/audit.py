"""Writes what bridges that died could not: starts and ends of sessions, by what the engine knows of them."""

import asyncio
import itertools
from collections.abc import Sequence

import structlog

from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.gateway.shared.records import LEFT
from rtcbridge.ports import LedgerError, SessionRow
from rtcbridge.ports_engine import EngineError
from rtcbridge.ports_journal import Journaled

log = structlog.get_logger(__name__)

_PERIOD = 1.0  # seconds between two looks at the journal: a loss of the engine's data takes along what is in it
_LOOKS = 5  # of these to one at all that is open; a session that is missing at two such looks had ended by the first
_PAGE = 1_000  # sessions of the journal that are looked up at once


class Audit:
    """Compares the ledger with the engine, for the pools that this replica leads.

    A session that began is in the engine's journal until the ledger has its start and its end: what lacks there is
    written from here, and then the journal forgets it. An open session that the engine does not know is ended.

    Args:
        bridge: The replica.
    """

    def __init__(self, bridge: SharedBridge) -> None:
        self._bridge = bridge
        self._missing: dict[str, dict[str, float]] = {}  # by pool: sessions that were missing, and since when

    async def run(self) -> None:
        """Look again and again."""
        for turn in itertools.count(1):
            await asyncio.sleep(_PERIOD)
            led = [pool for pool in self._bridge.shared_pools() if pool.spec.name in self._bridge.tokens]
            for pool in led:
                try:
                    await self.read_journal(pool)
                    if turn % _LOOKS == 0:
                        await self.look(pool)
                except (EngineError, LedgerError) as error:
                    log.warning("the ledger cannot be compared with the engine", pool=pool.spec.name, error=str(error))

    async def look(self, pool: SharedPool) -> None:
        """End what is missing for the second time. Raises EngineError and LedgerError."""
        name, ledger = pool.spec.name, self._bridge.ledger
        rows = await asyncio.to_thread(ledger.open_sessions)
        view = await pool.store.look()
        if view.recovering:
            return  # not all have said again what they have
        known = {*view.sessions, *view.line, *view.away}
        missing = {row.id for row in rows if row.pool == name and row.id not in known}
        before, now = self._missing.get(name, {}), self._bridge.wall()
        for session in missing & before.keys():
            log.warning("a session ended with its bridge", session=session)
            ledger.session_ended(session, before[session], LEFT)
        self._missing[name] = {session: before.get(session, now) for session in missing}

    async def read_journal(self, pool: SharedPool) -> None:
        """Let the ledger have what the journal has; then that may forget it. Raises EngineError and LedgerError."""
        while entries := await pool.store.journal(limit=_PAGE):
            await self._write(pool.spec.name, entries)
            await pool.store.confirm([entry.id for entry in entries])
            if len(entries) < _PAGE:
                return

    async def _write(self, pool: str, entries: Sequence[Journaled]) -> None:
        """Write what the ledger lacks; durable when it returns. Of what is there already, the first counts."""
        ledger, names = self._bridge.ledger, [entry.id for entry in entries]
        whole = await asyncio.to_thread(ledger.whole_among, names)
        rows = await asyncio.to_thread(ledger.open_among, [name for name in names if name not in whole])
        late = [entry for entry in entries if entry.id not in whole]
        for entry in late:
            row = rows.get(entry.id)
            if row is None and not entry.project:
                log.warning("of a session only the end is known", session=entry.id, node=entry.node)
                continue
            if row is None:
                row = SessionRow(id=entry.id, pool=pool, node=entry.node, project=entry.project, started=entry.began)
                ledger.session_started(row)
            log.warning("a session was not whole in the ledger", session=entry.id, node=entry.node)
            ledger.session_ended(entry.id, max(row.started, entry.ended), entry.reason)
        if late:
            await ledger.flush()
