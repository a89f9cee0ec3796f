"""The ledger: nodes with their intents, settings of pools, and the record of sessions.

One thread writes. Whatever is recorded while it waits for the store goes into its next transaction, so that
thousands of session starts a second cost a few commits, and the event loop never waits.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence, Set
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.schema import nodes, overrides, sessions
from rtcbridge.drivers.ledger.statements import Statements
from rtcbridge.ports import LedgerError, NodeRow, OverrideRow, SessionRow

# Seconds that sessions are gathered before a commit that nobody waits for. No media comes up in so short a time: a
# session that a crash leaves unrecorded had hardly begun.
GATHER = 0.05
_LONGEST_PAUSE = 0.5  # seconds between two tries while the store fails: it is in use again soon after it is back
_TRIES = 8  # of a transaction that met a conflict or a dead connection
_LAST_TRIES = 3  # of the whole, when the ledger is closed
PENDING_LIMIT = 200_000  # starts and ends held in memory while the store fails

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_Item: TypeAlias = tuple[str, str]
"""What is written of one thing: `"node"`, `"override"` or `"session"`, and its id."""

logger = logging.getLogger(__name__)


class _Waiter(NamedTuple):
    """Who waits for a write: of some items, or of all if there are none."""

    future: Future[None]
    items: frozenset[_Item]


class _Batch:
    """What waits to be written, and who waits for it."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRow | None] = {}  # None: to be deleted
        self.overrides: dict[str, OverrideRow | None] = {}  # the same
        self.starts: dict[str, SessionRow] = {}
        self.ends: dict[str, tuple[float, str]] = {}
        self.waiters: list[_Waiter] = []

    @property
    def has_rows(self) -> bool:
        return bool(self.nodes or self.overrides or self.starts or self.ends)

    def is_empty(self) -> bool:
        return not (self.has_rows or self.waiters)

    def items(self) -> list[_Item]:
        """All that is to be written. Two bridges that write the same rows take them in this order: no deadlock."""
        named = (("node", self.nodes), ("override", self.overrides), ("session", self.starts | self.ends))
        return [(kind, name) for kind, rows in named for name in sorted(rows)]

    def take_back(self, older: "_Batch") -> None:
        """Put the sessions of a batch that could not be written before those of this one."""
        self.starts = older.starts | self.starts
        self.ends = self.ends | older.ends

    def part(self, items: Set[_Item]) -> "_Batch":
        """Some of its items, for which nobody waits."""
        part = _Batch()
        part.nodes = {name: row for name, row in self.nodes.items() if ("node", name) in items}
        part.overrides = {name: row for name, row in self.overrides.items() if ("override", name) in items}
        part.starts = {name: row for name, row in self.starts.items() if ("session", name) in items}
        part.ends = {name: end for name, end in self.ends.items() if ("session", name) in items}
        return part

    def write(self, connection: sa.Connection, statements: Statements) -> None:
        """Write all of it, in the order of `items`."""
        nodes = sorted(self.nodes.items())
        statements.save_node.run(connection, [msgspec.structs.astuple(row) for _, row in nodes if row])
        statements.delete_node.run(connection, [(name,) for name, row in nodes if not row])
        overrides = sorted(self.overrides.items())
        statements.save_override.run(connection, [msgspec.structs.astuple(row) for _, row in overrides if row])
        statements.delete_override.run(connection, [(name,) for name, row in overrides if not row])
        statements.start_session.run(connection, [self._start(name) for name in sorted(self.starts)])
        statements.end_session.run(connection, [self._end(name) for name in sorted(self.ends.keys() - self.starts)])

    def _start(self, session: str) -> tuple[Any, ...]:
        """The values of a start, with the end if it came in the same batch."""
        row = self.starts[session]
        return (row.id, row.pool, row.node, row.project, row.started, *self.ends.get(session, (None, "")), row.bounds)

    def _end(self, session: str) -> tuple[Any, ...]:
        ended, reason = self.ends[session]
        return (session, "", "", "", ended, ended, reason, "")


class LedgerReader:
    """The reading half of the ledger, all that a command beside the bridge needs."""

    def __init__(self, database: Database) -> None:
        """Keep the database; nothing is read yet."""
        self._database = database

    def nodes(self) -> Sequence[NodeRow]:
        """Return every stored node. Raises LedgerError."""
        return [NodeRow(**row) for row in self._database.read(sa.select(nodes).order_by(nodes.c.id))]

    def overrides(self) -> Sequence[OverrideRow]:
        """Return what was changed of the settings of every pool. Raises LedgerError."""
        return [OverrideRow(**row) for row in self._database.read(sa.select(overrides).order_by(overrides.c.pool))]

    def open_sessions(self) -> Sequence[SessionRow]:
        """Return the sessions that started and did not end, oldest first. Raises LedgerError."""
        query = sa.select(sessions).where(sessions.c.ended.is_(None)).order_by(sessions.c.started)
        return [SessionRow(**row) for row in self._database.read(query)]

    def ended_sessions(self, pool: str | None = None) -> Sequence[SessionRow]:
        """Return the sessions that have ended, of one pool or of all, oldest first. Raises LedgerError."""
        ended = sa.and_(sessions.c.ended.is_not(None), sessions.c.project != "")
        query = sa.select(sessions).where(ended).order_by(sessions.c.started)
        if pool is not None:
            query = query.where(sessions.c.pool == pool)
        return [SessionRow(**row) for row in self._database.read(query)]

    def open_among(self, names: Collection[str]) -> Mapping[str, SessionRow]:
        """Return those of these sessions that started and did not end, by id. Raises LedgerError."""
        query = sa.select(sessions).where(sessions.c.id.in_(list(names)), sessions.c.ended.is_(None))
        return {row["id"]: SessionRow(**row) for row in self._database.read(query)} if names else {}

    def recorded_among(self, names: Collection[str]) -> Collection[str]:
        """Return those of these sessions that are in the ledger, ended or not. Raises LedgerError."""
        query = sa.select(sessions.c.id).where(sessions.c.id.in_(list(names)))
        return {str(row["id"]) for row in self._database.read(query)} if names else set()

    def whole_among(self, names: Collection[str]) -> Collection[str]:
        """Return those of these sessions that started and ended. Raises LedgerError."""
        whole = sa.and_(sessions.c.id.in_(list(names)), sessions.c.ended.is_not(None), sessions.c.project != "")
        return (
            {str(row["id"]) for row in self._database.read(sa.select(sessions.c.id).where(whole))} if names else set()
        )

    def sessions(self, limit: int = 100) -> Sequence[SessionRow]:
        """Return the latest sessions, newest first. Raises LedgerError."""
        query = sa.select(sessions).where(sessions.c.project != "").order_by(sessions.c.started.desc()).limit(limit)
        return [SessionRow(**row) for row in self._database.read(query)]


class SessionLedger(LedgerReader):
    """`Ledger` over a store. Call it from the thread of one event loop.

    A store that fails is logged and tried again. Sessions are kept meanwhile, up to `PENDING_LIMIT` of them;
    a node's row is not: its `save_node` raises, so that nothing is done on an intent that is not stored.
    """

    def __init__(self, database: Database) -> None:
        """Start the writing thread."""
        super().__init__(database)
        self._statements = Statements(database)
        self._lock = threading.Lock()
        self._batch = _Batch()
        self._any = threading.Event()
        self._urgent = threading.Event()
        self._closing = False
        self._full = False
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    async def save_node(self, row: NodeRow) -> None:
        """Write one node; durable when it returns. Raises LedgerError."""
        await self._written(nodes={row.id: row})

    def take_nodes(self, pool: str, fence: int) -> Sequence[NodeRow]:
        """Return the nodes of a pool; a lower fence writes none of them from now on. Raises LedgerError."""
        mine = sa.and_(nodes.c.pool == pool, nodes.c.fence < fence)
        try:
            with self._database.engine.begin() as connection:
                connection.execute(nodes.update().where(mine).values(fence=fence))
        except sa.exc.DBAPIError as error:
            raise self._database.error(error) from None
        return [row for row in self.nodes() if row.pool == pool]

    async def delete_node(self, node: str) -> None:
        """Forget one node; durable when it returns. Raises LedgerError."""
        await self._written(nodes={node: None})

    async def save_override(self, row: OverrideRow) -> None:
        """Write what is changed of one pool's settings; durable when it returns. Raises LedgerError."""
        await self._written(overrides={row.pool: row})

    async def delete_override(self, pool: str) -> None:
        """Forget what was changed of one pool's settings; durable when it returns. Raises LedgerError."""
        await self._written(overrides={pool: None})

    def session_started(self, row: SessionRow) -> None:
        """Record a start; written within a tenth of a second. A second one of an id only moves it."""
        with self._lock:
            batch = self._batch
            if len(batch.starts) + len(batch.ends) < PENDING_LIMIT or not self._is_full():
                batch.starts[row.id] = row
        self._wake()

    def session_ended(self, session: str, ended: float, reason: str) -> None:
        """Record an end; written within a tenth of a second. Only the first end of an id counts."""
        with self._lock:
            batch = self._batch
            if len(batch.starts) + len(batch.ends) < PENDING_LIMIT or not self._is_full():
                batch.ends.setdefault(session, (ended, reason))
        self._wake()

    async def flush(self) -> None:
        """Return when all that was recorded before is durable. Raises LedgerError if the store fails now."""
        await self._written()

    async def close(self) -> None:
        """Flush and close; nothing may be called afterwards."""
        self._closing = True
        self._hurry()
        await asyncio.to_thread(self._thread.join)

    async def _written(
        self, *, nodes: Mapping[str, NodeRow | None] = _NONE, overrides: Mapping[str, OverrideRow | None] = _NONE
    ) -> None:
        if (nodes or overrides) and self._database.is_lost:
            raise LedgerError(f"store {self._database.name}: another bridge may have taken it over")
        future: Future[None] = Future()
        items = frozenset({*(("node", name) for name in nodes), *(("override", name) for name in overrides)})
        with self._lock:
            self._batch.nodes |= nodes
            self._batch.overrides |= overrides
            self._batch.waiters.append(_Waiter(future, items))
        self._hurry()
        await asyncio.wrap_future(future)

    def _wake(self) -> None:
        if not self._any.is_set():  # to set what is set costs as much as all else; it is cleared under the lock
            self._any.set()

    def _hurry(self) -> None:
        self._urgent.set()
        self._any.set()

    def _is_full(self) -> bool:
        """Say, once until the store works again, that there is no room."""
        if not self._full:
            logger.error("store %s: too much is waiting to be written, sessions go unrecorded", self._database.name)
        self._full = True
        return True

    def _run(self) -> None:
        failures = 0
        while not (self._closing and (self._is_empty() or failures >= _LAST_TRIES)):
            self._any.wait()
            self._urgent.wait(min(_LONGEST_PAUSE, 0.05 * 2**failures) if failures else GATHER)
            failures = 0 if self._write_batch() else failures + 1
        if not self._is_empty():
            logger.error("store %s: closed with sessions unrecorded", self._database.name)

    def _is_empty(self) -> bool:
        with self._lock:
            return self._batch.is_empty()

    def _write_batch(self) -> bool:
        """Write what waits; false if the store failed."""
        with self._lock:
            batch, self._batch = self._batch, _Batch()
            self._any.clear()
            self._urgent.clear()
        if batch.is_empty():
            return True
        # From here on no waiter can be cancelled; one that is cancelled already gets no answer.
        waiters = [waiter for waiter in batch.waiters if waiter.future.set_running_or_notify_cancel()]
        failed = self._write(batch)
        works = self._settle(batch, failed)
        if works:
            self._full = False
        for waiter in waiters:
            errors = [error for item, error in failed.items() if not waiter.items or item in waiter.items]
            if errors:
                waiter.future.set_exception(LedgerError(self._told(errors[0])))
            else:
                waiter.future.set_result(None)
        return works

    def _write(self, batch: _Batch) -> dict[_Item, Exception]:
        """Write a batch, and return what could not be: a row at fault does not take the others along."""
        error = self._attempt(batch)
        if error is None:
            return {}
        items = batch.items()
        if len(items) < 2 or not self._database.is_rows_fault(error):
            return dict.fromkeys(items or [("", "")], error)
        half = len(items) // 2
        return self._write(batch.part({*items[:half]})) | self._write(batch.part({*items[half:]}))

    def _attempt(self, batch: _Batch) -> Exception | None:
        for tries in range(1, _TRIES + 1):
            try:
                with self._database.engine.begin() as connection:
                    batch.write(connection, self._statements)
                return None
            except Exception as error:
                if tries == _TRIES or not self._database.is_passing(error):
                    return error
        raise AssertionError("the last try returned")

    def _settle(self, batch: _Batch, failed: Mapping[_Item, Exception]) -> bool:
        """Log what failed, and keep its sessions for the next try; true if the store itself did not fail."""
        at_fault = {item: error for item, error in failed.items() if self._database.is_rows_fault(error)}
        for (kind, name), error in at_fault.items():
            logger.error("%s", self._told(error))
            if kind == "session":
                logger.error("session goes unrecorded: %s", name)
        kept = failed.keys() - at_fault.keys()
        self._note(failed[next(iter(kept))] if kept else None, tried=batch.has_rows)
        with self._lock:
            if kept:
                self._batch.take_back(batch.part(kept))
            if not self._batch.is_empty():
                self._any.set()
        return not kept

    def _note(self, error: Exception | None, *, tried: bool) -> None:
        """Log that the store fails, and that it works again; not each of the tries between."""
        if error is not None and self._failing_since is None:
            self._failing_since = time.monotonic()
            logger.error("%s", self._told(error))
        if error is not None:
            self._database.engine.dispose()  # after a failover the connections may be those of a standby
        elif tried and self._failing_since is not None:
            seconds = time.monotonic() - self._failing_since
            logger.warning("store %s: written again, after %.1f s", self._database.name, seconds)
            self._failing_since = None

    def _told(self, error: Exception) -> str:
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        return f"store {self._database.name}: cannot be written: {text}"
