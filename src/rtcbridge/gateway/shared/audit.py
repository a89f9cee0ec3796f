"""Ends sessions in the ledger that nobody has any more: their bridge died before it could."""

import asyncio

import structlog

from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.ports import LedgerError
from rtcbridge.ports_engine import EngineError

log = structlog.get_logger(__name__)

_PERIOD = 5.0  # seconds between two looks; a session that is missing at both had ended by the first
LEFT = "bridge lost"


class Audit:
    """Compares the open sessions of the ledger with those of the engine, for the pools that this replica leads.

    Args:
        bridge: The replica.
    """

    def __init__(self, bridge: SharedBridge) -> None:
        self._bridge = bridge
        self._missing: dict[str, dict[str, float]] = {}  # by pool: sessions that were missing, and since when

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(_PERIOD)
            led = [pool for pool in self._bridge.shared_pools() if pool.spec.name in self._bridge.tokens]
            for pool in led:
                try:
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
