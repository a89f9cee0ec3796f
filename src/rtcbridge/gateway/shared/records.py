"""What the ledger has of sessions whose bridge may have died before it could write it."""

import asyncio
from collections.abc import Collection

import structlog

from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.ports import Ledger, SessionRow

log = structlog.get_logger(__name__)

LEFT = "bridge lost"


async def open_rows(ledger: Ledger, pool: SharedPool, sessions: Collection[str], now: float) -> dict[str, SessionRow]:
    """Return those of these sessions that have not ended, by id. Raises LedgerError and EngineError.

    A bridge writes a start within milliseconds after the offer. If it died before, or cannot reach the store, the
    engine knows of the session, and the start is written now.

    Args:
        ledger: where they are written.
        pool: theirs.
        sessions: their ids.
        now: Unix seconds.
    """
    rows = dict(await asyncio.to_thread(ledger.open_among, sessions))
    missing = [session for session in sessions if session not in rows]
    recorded = await asyncio.to_thread(ledger.recorded_among, missing) if missing else ()
    if recorded:  # they have ended, unless they were written in between
        rows |= await asyncio.to_thread(ledger.open_among, list(recorded))
    for session in missing:
        if session in recorded or (there := await pool.store.find(session)) is None or not there.live:
            continue
        if there.project:
            log.warning("a session had no start in the ledger", session=session, node=there.node)
            row = SessionRow(id=session, pool=pool.spec.name, node=there.node, project=there.project, started=now)
            ledger.session_started(row)
            rows[session] = row
    return rows
