"""The ledger in SQLite: nodes with their intents, and the record of sessions.

One thread writes. Whatever is recorded while it waits for the disk goes into its next transaction, so that
thousands of session starts a second cost a few commits, and the event loop never waits.
"""

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.schema import nodes, sessions
from rtcbridge.ports import LedgerError, NodeRow, SessionRow

GATHER = 0.01  # seconds that sessions are gathered before a commit that nobody waits for
_LONGEST_PAUSE = 5.0  # seconds between two tries while the disk fails
_LAST_TRIES = 3
PENDING_LIMIT = 200_000  # starts and ends held in memory while the disk fails

# No fault of the disk: the same rows would fail for ever, and hold up all that come after them.
_HOPELESS = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.InterfaceError)

logger = logging.getLogger(__name__)


class _Statement:
    """A statement of SQLAlchemy's, compiled once and run with plain tuples: half the cost of a row."""

    def __init__(self, statement: sa.Insert | sa.Update | sa.Delete) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
        self._sql = str(compiled)
        self.names = tuple(compiled.positiontup or ())

    def run(self, connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
        """Run it for all rows, each with its values in the order of `names`."""
        if rows:
            connection.exec_driver_sql(self._sql, rows)


def _upsert(table: sa.Table, columns: Iterable[str], first: Iterable[str] = ()) -> _Statement:
    """Insert rows of a table; let those that are there have these new columns, and `first` where they had none."""
    new = sqlite.insert(table)
    moved: dict[str, Any] = {name: new.excluded[name] for name in columns}
    empty: sa.ColumnElement[str] = sa.literal_column("''")
    kept = {name: sa.func.coalesce(sa.func.nullif(table.c[name], empty), new.excluded[name]) for name in first}
    return _Statement(new.on_conflict_do_update(index_elements=["id"], set_=moved | kept))


SAVE_NODE = _upsert(nodes, [column.name for column in nodes.c if column.name != "id"])
DELETE_NODE = _Statement(nodes.delete().where(nodes.c.id == sa.bindparam("node")))
START_SESSION = _upsert(sessions, ["pool", "node"], first=["ended", "reason"])
END_SESSION = _Statement(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("session"), sessions.c.ended.is_(None))
    .values(ended=sa.bindparam("at"), reason=sa.bindparam("why"))
)


def _row(row: SessionRow, end: tuple[float | None, str]) -> tuple[Any, ...]:
    """The values of a start, with the end if it came in the same batch."""
    return (row.id, row.pool, row.node, row.project, row.started, *end)


class _Batch:
    """What waits to be written, and who waits for it."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRow | None] = {}  # None: to be deleted
        self.starts: dict[str, SessionRow] = {}
        self.ends: dict[str, tuple[float, str]] = {}
        self.waiters: list[Future[None]] = []

    def is_empty(self) -> bool:
        return not (self.nodes or self.starts or self.ends or self.waiters)

    def take_back(self, older: "_Batch") -> None:
        """Put the sessions of a batch that could not be written before those of this one."""
        self.starts = older.starts | self.starts
        self.ends = self.ends | older.ends

    def write(self, connection: sa.Connection) -> None:
        SAVE_NODE.run(connection, [msgspec.structs.astuple(row) for row in self.nodes.values() if row])
        DELETE_NODE.run(connection, [(node,) for node, row in self.nodes.items() if not row])
        ends = dict(self.ends)
        starts = [_row(row, ends.pop(row.id, (None, ""))) for row in self.starts.values()]
        START_SESSION.run(connection, starts)
        END_SESSION.run(connection, [(at, why, session) for session, (at, why) in ends.items()])


class LedgerReader:
    """The reading half of the ledger, all that a command beside the bridge needs."""

    def __init__(self, database: Database) -> None:
        """Keep the database; nothing is read yet."""
        self._database = database

    def nodes(self) -> Sequence[NodeRow]:
        """Return every stored node. Raises LedgerError."""
        return [NodeRow(**row) for row in self._database.read(sa.select(nodes).order_by(nodes.c.id))]

    def open_sessions(self) -> Sequence[SessionRow]:
        """Return the sessions that started and did not end, oldest first. Raises LedgerError."""
        query = sa.select(sessions).where(sessions.c.ended.is_(None)).order_by(sessions.c.started)
        return [SessionRow(**row) for row in self._database.read(query)]

    def ended_sessions(self, pool: str | None = None) -> Sequence[SessionRow]:
        """Return the sessions that have ended, of one pool or of all, oldest first. Raises LedgerError."""
        query = sa.select(sessions).where(sessions.c.ended.is_not(None)).order_by(sessions.c.started)
        if pool is not None:
            query = query.where(sessions.c.pool == pool)
        return [SessionRow(**row) for row in self._database.read(query)]

    def sessions(self, limit: int = 100) -> Sequence[SessionRow]:
        """Return the latest sessions, newest first. Raises LedgerError."""
        query = sa.select(sessions).order_by(sessions.c.started.desc()).limit(limit)
        return [SessionRow(**row) for row in self._database.read(query)]


class SqliteLedger(LedgerReader):
    """`Ledger` over one SQLite file. Call it from the thread of one event loop.

    A disk that fails is logged and tried again. Sessions are kept meanwhile, up to `PENDING_LIMIT` of them;
    a node's row is not: its `save_node` raises, so that nothing is done on an intent that is not stored.
    """

    def __init__(self, database: Database) -> None:
        """Start the writing thread."""
        super().__init__(database)
        self._lock = threading.Lock()
        self._batch = _Batch()
        self._any = threading.Event()
        self._urgent = threading.Event()
        self._closing = False
        self._full = False
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    async def save_node(self, row: NodeRow) -> None:
        """Write one node; durable when it returns. Raises LedgerError."""
        await self._written({row.id: row})

    async def delete_node(self, node: str) -> None:
        """Forget one node; durable when it returns. Raises LedgerError."""
        await self._written({node: None})

    def session_started(self, row: SessionRow) -> None:
        """Record a start; written within milliseconds. A second one of an id only moves it."""
        with self._lock:
            if self._has_room():
                self._batch.starts[row.id] = row
        self._wake()

    def session_ended(self, session: str, ended: float, reason: str) -> None:
        """Record an end; written within milliseconds. Only the first end of an id counts."""
        with self._lock:
            if self._has_room():
                self._batch.ends.setdefault(session, (ended, reason))
        self._wake()

    async def flush(self) -> None:
        """Return when all that was recorded before is durable. Raises LedgerError if the disk fails now."""
        await self._written({})

    async def close(self) -> None:
        """Flush and close; nothing may be called afterwards."""
        self._closing = True
        self._hurry()
        await asyncio.to_thread(self._thread.join)

    async def _written(self, changes: dict[str, NodeRow | None]) -> None:
        waiter: Future[None] = Future()
        with self._lock:
            self._batch.nodes |= changes
            self._batch.waiters.append(waiter)
        self._hurry()
        await asyncio.wrap_future(waiter)

    def _wake(self) -> None:
        if not self._any.is_set():  # to set what is set costs as much as all else; it is cleared under the lock
            self._any.set()

    def _hurry(self) -> None:
        self._urgent.set()
        self._any.set()

    def _has_room(self) -> bool:
        room = len(self._batch.starts) + len(self._batch.ends) < PENDING_LIMIT
        if not room and not self._full:
            logger.error("store %s: too much is waiting to be written, sessions go unrecorded", self._database.path)
        self._full = not room
        return room

    def _run(self) -> None:
        failures = 0
        while not (self._closing and (self._is_empty() or failures >= _LAST_TRIES)):
            self._any.wait()
            self._urgent.wait(min(_LONGEST_PAUSE, 0.1 * 2**failures) if failures else GATHER)
            failures = 0 if self._write_batch() else failures + 1
        if not self._is_empty():
            logger.error("store %s: closed with sessions unrecorded", self._database.path)

    def _is_empty(self) -> bool:
        with self._lock:
            return self._batch.is_empty()

    def _write_batch(self) -> bool:
        with self._lock:
            batch, self._batch = self._batch, _Batch()
            self._any.clear()
            self._urgent.clear()
        if batch.is_empty():
            return True
        # From here on no waiter can be cancelled; one that is cancelled already gets no answer.
        waiters = [waiter for waiter in batch.waiters if waiter.set_running_or_notify_cancel()]
        try:
            with self._database.engine.begin() as connection:
                batch.write(connection)
        except Exception as error:
            text = f"store {self._database.path}: cannot be written: {getattr(error, 'orig', error)}"
            logger.error("%s", text)
            self._keep(batch, error)
            for waiter in waiters:
                waiter.set_exception(LedgerError(text))
            return False
        for waiter in waiters:
            waiter.set_result(None)
        return True

    def _keep(self, batch: _Batch, error: Exception) -> None:
        """Keep the sessions of a failed batch for the next try."""
        if not isinstance(error, sa.exc.DBAPIError) or isinstance(error, _HOPELESS):
            logger.error("sessions go unrecorded: %s", " ".join([*batch.starts, *batch.ends]))
            return
        with self._lock:
            self._batch.take_back(batch)
            if not self._batch.is_empty():
                self._any.set()
