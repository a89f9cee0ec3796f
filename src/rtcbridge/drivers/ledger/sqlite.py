"""The store in one SQLite file, in WAL mode: any number of processes read it, one at a time writes."""

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from rtcbridge.drivers.ledger.database import KEY_COLUMNS, Database, Insert, KeyChanges, prepare
from rtcbridge.ports import LedgerError

_BUSY_TIMEOUT = 10.0  # seconds that a writer waits for another process
_READ = "rtcbridge_read"
_DIALECT = sqlite.dialect(paramstyle="qmark")
_FAULTS = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.InterfaceError)

logger = logging.getLogger(__name__)


class SqliteDatabase(Database):
    """One file. Its transactions begin as writers (`BEGIN IMMEDIATE`), so that none fails half way on a lock."""

    def __init__(self, file: str | Path) -> None:
        """Open, and make or migrate what is missing. Raises LedgerError."""
        self.path = Path(file)
        self.name = str(file)
        self.engine = sa.create_engine(f"sqlite:///{self.path}", connect_args={"timeout": _BUSY_TIMEOUT})
        sa.event.listen(self.engine, "connect", _configure)
        sa.event.listen(self.engine, "begin", _begin)
        self.reader = self.engine.execution_options(**{_READ: True})
        try:
            _touch(self.path)
            with self.engine.begin() as connection:
                self.secret = prepare(connection, self.name)
        except OSError as error:
            raise LedgerError(f"store {self.name}: {error.strerror}") from None
        except sa.exc.DBAPIError as error:
            self.close()
            raise self.error(error) from None
        except BaseException:
            self.close()
            raise

    def insert(self, table: sa.Table) -> Insert:
        """Begin an INSERT that can take ON CONFLICT."""
        return sqlite.insert(table)

    def compile(self, statement: sa.ClauseElement) -> sa.Compiled:
        """Compile a statement for the driver, with its parameters by their position."""
        return statement.compile(dialect=_DIALECT)

    def key_feed(self) -> "SqliteKeyFeed":
        """Start to look for changed keys. Raises LedgerError if they cannot be read."""
        return SqliteKeyFeed(self)

    def announce_keys(self, connection: sa.Connection) -> None:
        """Nothing is to be done: every commit changes the file's `data_version`."""

    def is_rows_fault(self, error: Exception) -> bool:
        """Say whether the values are at fault and not the disk."""
        return not isinstance(error, sa.exc.DBAPIError) or isinstance(error, _FAULTS)


class SqliteKeyFeed:
    """Asks SQLite whether another connection has written to the file (`PRAGMA data_version`): 2 µs."""

    def __init__(self, database: SqliteDatabase) -> None:
        """Open a connection. Raises LedgerError if the keys cannot be read."""
        self._name = database.name
        self._data_version = -1
        self._keys_version = -1
        self._failing = False
        # PRAGMA data_version compares with what this one connection saw before, so it must stay the same one.
        self._pooled = database.engine.raw_connection()
        self._cursor = self._pooled.cursor()
        columns = ", ".join(column.name for column in KEY_COLUMNS)
        self._changed = f"SELECT {columns} FROM keys WHERE changed > ?"  # noqa: S608 - names of the schema
        try:
            self._first = self._read()
        except sqlite3.Error as error:
            self.close()
            raise LedgerError(f"store {self._name}: the keys cannot be read: {error}") from None

    def look(self) -> KeyChanges | None:
        """Return what has changed since the last call, or None."""
        if first := self._first:
            self._first = None
            return first
        try:
            data_version = self._number("PRAGMA data_version")
            if data_version == self._data_version:
                return None
            changes = self._read()
        except sqlite3.Error as error:
            if not self._failing:
                logger.error("store %s: cannot be read: %s", self._name, error)
            self._failing = True
            return None
        self._data_version = data_version
        self._failing = False
        return changes

    def catch_up(self) -> None:
        """Nothing is to be done: each look sees all that is committed."""

    def close(self) -> None:
        """Give the connection back."""
        self._cursor.close()
        self._pooled.close()

    def _read(self) -> KeyChanges | None:
        version = self._number("SELECT value FROM meta WHERE name = 'keys_version'")
        if version == self._keys_version:
            return None
        rows = self._cursor.execute(self._changed, (self._keys_version,)).fetchall()
        self._keys_version = version
        return KeyChanges(version, rows)

    def _number(self, query: str) -> int:
        # All rows are fetched, for a statement left half way would hold on to the state that it saw.
        return int(self._cursor.execute(query).fetchall()[0][0])


def back_up(file: Path, copy: Path) -> None:
    """Copy a store while bridges and commands use it (SQLite's online backup). The copy is whole, or there is none.

    Args:
        file: the store; it is not migrated.
        copy: the new file, readable by its owner only: it has the store's secret.

    Raises:
        LedgerError: there is no such store, or the copy exists or cannot be written.
    """
    if not file.is_file():
        raise LedgerError(f"store {file}: there is no such file")
    if copy.exists():
        raise LedgerError(f"{copy}: exists; a backup never replaces a file")
    part = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _copy(file, part)
            _publish(part, copy)
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError:
        raise LedgerError(f"{copy}: exists; a backup never replaces a file") from None
    except OSError as error:
        raise LedgerError(f"{copy}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise LedgerError(f"store {file}: {error}") from None


def _publish(part: Path, copy: Path) -> None:
    """Give the finished file its name, which must be free."""
    try:
        os.link(part, copy)  # unlike a rename, it never replaces
    except PermissionError:  # a file system without links, such as a USB stick's
        with copy.open("xb"):
            os.replace(part, copy)


def _copy(file: Path, part: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as source,
        contextlib.closing(sqlite3.connect(part, isolation_level=None)) as target,
    ):
        source.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT * 1000:.0f}")
        source.backup(target)  # in one step: it reads one state, and in WAL mode no writer waits for it
        target.execute("PRAGMA journal_mode = DELETE")  # one file, without -wal and -shm beside it
        (verdict,) = target.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
    with part.open("rb") as written:
        os.fsync(written.fileno())


def _touch(path: Path) -> None:
    """Make the file, readable by its owner only: it holds the secret."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _configure(connection: sqlite3.Connection, _: object) -> None:
    # Without this sqlite3 begins transactions of its own, and late; `_begin` does it instead.
    connection.isolation_level = None
    # Changing the journal mode does not wait for a lock: another process may be doing just this.
    deadline = time.monotonic() + _BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: sa.Connection) -> None:
    if not connection.get_execution_options().get(_READ):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
