"""Opening the SQLite file of the store: made if it is missing, migrated, with its own secret."""

import logging
import os
import secrets
import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from rtcbridge.drivers.ledger.migrations import HEAD
from rtcbridge.drivers.ledger.schema import meta
from rtcbridge.ports import LedgerError

_BUSY_TIMEOUT = 10.0  # seconds that a writer waits for another process
_READ = "rtcbridge_read"

logger = logging.getLogger(__name__)


class Database:
    """One open store.

    Attributes:
        engine: its transactions begin as writers (`BEGIN IMMEDIATE`), so that none fails half way on a lock.
        reader: the same without transactions, for single SELECT statements.
        secret: 32 random bytes, made with the file, that key all digests and tokens.
    """

    def __init__(self, path: Path) -> None:
        """Open, and make or migrate what is missing. Raises LedgerError."""
        self.path = path
        try:
            _touch(path)
            self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_TIMEOUT})
            sa.event.listen(self.engine, "connect", _prepare)
            sa.event.listen(self.engine, "begin", _begin)
            self.reader = self.engine.execution_options(**{_READ: True})
            with self.engine.begin() as connection:
                _migrate(connection, path)
                self.secret = bytes.fromhex(_initialise(connection))
        except OSError as error:
            raise LedgerError(f"store {path}: {error.strerror}") from None
        except sa.exc.DBAPIError as error:
            self.engine.dispose()
            raise LedgerError(f"store {path}: {error.orig}") from None

    def read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """Return the rows of one query. Raises LedgerError."""
        try:
            with self.reader.connect() as connection:
                return [dict(row) for row in connection.execute(query).mappings()]
        except sa.exc.DBAPIError as error:
            raise LedgerError(f"store {self.path}: {error.orig}") from None

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _touch(path: Path) -> None:
    """Make the file, readable by its owner only: it holds the secret."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare(connection: sqlite3.Connection, _: object) -> None:
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


def _migrate(connection: sa.Connection, path: Path) -> None:
    """Bring the file up to `HEAD`, in the caller's transaction."""
    if sa.inspect(connection).has_table("alembic_version"):
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if version == HEAD:
            return
    # Loaded only when needed: a command such as `rtcbridge keys list` should not wait for it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise LedgerError(f"store {path}: made by a newer version of rtcbridge") from None


def _initialise(connection: sa.Connection) -> str:
    """Return the store's secret; make it, and the counter of the keys' changes, in a new store."""
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "secret"))
    if found is not None:
        return str(found)
    secret = secrets.token_hex(32)
    connection.execute(meta.insert(), [{"name": "secret", "value": secret}, {"name": "keys_version", "value": "0"}])
    return secret
