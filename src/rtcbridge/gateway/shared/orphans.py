"""Live sessions whose owner has died: the replica with their node goes on with them."""

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from rtcbridge.core.events import Cancelled, MediaDown, Source
from rtcbridge.gateway.bridge import Entry
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.gateway.shared.records import LEFT, open_rows
from rtcbridge.gateway.shared.slots import SlotLink
from rtcbridge.gateway.visits import family
from rtcbridge.ports import LedgerError, SessionRow
from rtcbridge.ports_engine import EngineError, Grant, Wake

if TYPE_CHECKING:
    from rtcbridge.gateway.shared.bridge import SharedBridge

log = structlog.get_logger(__name__)

_RECHECK = 1.0  # seconds after which the end that the last owner may just have recorded is in the store


class Orphans:
    """Takes over what the engine says that nobody owns.

    Args:
        bridge: This replica.
    """

    def __init__(self, bridge: "SharedBridge") -> None:
        self._bridge = bridge
        self._adopted: dict[str, str] = {}  # session by the family of its id

    def of_visit(self, visit: str) -> Entry | None:
        """Return the session of a visit that was taken over here, and whose client has not come back yet."""
        session = self._adopted.get(family(visit), "")
        entry = self._bridge.sessions.get(session)
        if entry is None or entry.client is not None:
            self._adopted.pop(family(visit), None)
            return None
        return entry

    async def adopt(self, pool: SharedPool, wake: Wake) -> None:
        """Go on with a live session on a node whose socket is here, as if its client's socket had dropped.

        Raises EngineError; it may be called again.
        """
        bridge, session, node = self._bridge, wake.session, wake.node
        if session in bridge.sessions:
            return
        row = await self._open_row(pool, session)
        if row is None:
            await pool.store.release(session, LEFT)
            bridge.end_guest(session, node, "unknown")
            return
        if not await pool.store.hold(session, node, wake.epoch):
            return
        entry = self._enter(pool, wake, row)
        log.info("session taken over", session=session, node=node)
        link = bridge.links.get(node)
        if isinstance(link, SlotLink) and link.epoch == wake.epoch and session not in link.serving:
            bridge.deliver(entry, Source.NODE, MediaDown("media closed"))  # the node said so while nobody owned it
        else:
            bridge.do(self._look_again(pool, entry))

    async def _look_again(self, pool: SharedPool, entry: Entry) -> None:
        """See whether the last owner had just recorded the end."""
        bridge, session = self._bridge, entry.session.id
        await asyncio.sleep(_RECHECK)
        if bridge.sessions.get(session) is not entry:
            return
        try:
            ended = await self._open_row(pool, session) is None
        except EngineError as error:
            log.warning("whether a session had ended is not known", session=session, error=str(error))
            return
        if ended and bridge.sessions.get(session) is entry:
            bridge.deliver(entry, Source.OPERATOR, Cancelled("it had ended"))

    def _enter(self, pool: SharedPool, wake: Wake, row: SessionRow) -> Entry:
        bridge, session, node, now = self._bridge, wake.session, wake.node, self._bridge.clock()
        entry = bridge.adopted(msgspec.structs.replace(row, node=node), pool, now)
        entry.begun = entry.delivered = True
        bridge.enter(entry)
        self._adopted = {key: id for key, id in self._adopted.items() if id in bridge.sessions}
        self._adopted[family(session)] = session
        pool.hold(session, Grant(node, wake.epoch, bridge.me))
        bridge.way(entry, node)
        return entry

    async def _open_row(self, pool: SharedPool, session: str) -> SessionRow | None:
        """What the ledger has of a session that has not ended; the store is waited for."""
        while True:
            try:
                return (await open_rows(self._bridge.ledger, pool, [session], self._bridge.wall())).get(session)
            except LedgerError as error:
                log.warning("a session without an owner waits for the store", session=session, error=str(error))
                await asyncio.sleep(_RECHECK)
