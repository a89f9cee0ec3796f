"""What the stores have in common: they are migrated when they are opened, and have a secret of their own."""

import abc
import contextlib
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rtcbridge.drivers.ledger.migrations import HEAD
from rtcbridge.drivers.ledger.schema import keys, meta
from rtcbridge.ports import LedgerError

Insert = sqlite.Insert | postgresql.Insert

KEY_COLUMNS = [
    keys.c[name]
    for name in (
        "id", "digest", "project", "pool", "is_node", "is_admin", "revoked",
        "is_signing", "scopes", "limits", "expires", "created",
    )
]  # fmt: skip


class KeyChanges(NamedTuple):
    """Keys that were made or revoked.

    Attributes:
        version: of the keys, to which they lead.
        rows: of `KEY_COLUMNS`.
        complete: these are all keys, and what is not among them is none any more.
    """

    version: int
    rows: Sequence[Sequence[Any]]
    complete: bool = False


class KeyFeed(Protocol):
    """Tells of keys that this process or another has made or revoked."""

    def look(self) -> KeyChanges | None:
        """Return what has changed since the last call, or None. Takes microseconds; never raises."""
        ...

    def catch_up(self) -> None:
        """Make sure that the next `look` sees what was committed before this call. It may block."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Database(abc.ABC):
    """One open store.

    Attributes:
        name: what errors and people call it: the file, or the URL without the password.
        engine: its transactions begin as writers.
        reader: the same for single SELECT statements.
        secret: 32 random bytes, made with the store, that key all digests and tokens.
    """

    name: str
    engine: sa.Engine
    reader: sa.Engine
    secret: bytes

    # --- what differs ---

    @abc.abstractmethod
    def insert(self, table: sa.Table) -> Insert:
        """Begin an INSERT that can take ON CONFLICT."""

    @abc.abstractmethod
    def compile(self, statement: sa.ClauseElement) -> sa.Compiled:
        """Compile a statement for the driver, with its parameters by their position."""

    @abc.abstractmethod
    def key_feed(self) -> KeyFeed:
        """Start to look for changed keys. Raises LedgerError if they cannot be read."""

    @abc.abstractmethod
    def announce_keys(self, connection: sa.Connection) -> None:
        """Let feeds of other processes hear, once the transaction is committed, that keys changed."""

    @property
    def is_lost(self) -> bool:
        """True while the right to run the one bridge on this store is lost: nodes are another's to decide on."""
        return False

    @abc.abstractmethod
    def is_rows_fault(self, error: Exception) -> bool:
        """Say whether the values are at fault and not the store: the same rows would fail for ever."""

    def is_passing(self, error: Exception) -> bool:
        """Say whether the same transaction may well succeed at once: a conflict, or a connection that had died."""
        return False

    def patience(self, connection: sa.Connection, seconds: float | None) -> AbstractContextManager[None]:
        """Let the store be silent on a connection for longer than usual."""
        return contextlib.nullcontext()

    # --- what does not ---

    def error(self, error: Exception) -> LedgerError:
        """Make the one line that a failure of the driver is told in."""
        text = str(getattr(error, "orig", None) or error)
        return LedgerError(f"store {self.name}: {' '.join(text.split())}")

    def read(self, query: sa.Select[Any], *, patience: float | None = None) -> list[dict[str, Any]]:
        """Return the rows of one query.

        Args:
            query: a SELECT.
            patience: seconds that the store may be silent over it, where a store has such a bound.

        Raises:
            LedgerError: the store cannot be read.
        """
        for last in (False, True):
            try:
                with self.reader.connect() as connection, self.patience(connection, patience):
                    return [dict(row) for row in connection.execute(query).mappings()]
            except sa.exc.DBAPIError as error:
                if last or not self.is_passing(error):
                    raise self.error(error) from None
        raise AssertionError("the second try returned or raised")

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def is_current(connection: sa.Connection) -> bool:
    """Say whether the store has the present schema and its secret."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return version == HEAD and _secret(connection) is not None


def prepare(connection: sa.Connection, name: str) -> bytes:
    """Bring a store up to date in the caller's transaction, and return its secret.

    Raises:
        LedgerError: a newer version of rtcbridge has made it.
    """
    if not is_current(connection):
        _migrate(connection, name)
    found = _secret(connection)
    if found is None:
        found = secrets.token_hex(32)
        connection.execute(meta.insert(), [{"name": "secret", "value": found}, {"name": "keys_version", "value": "0"}])
    return bytes.fromhex(found)


def _secret(connection: sa.Connection) -> str | None:
    return connection.scalar(sa.select(meta.c.value).where(meta.c.name == "secret"))


def _migrate(connection: sa.Connection, name: str) -> None:
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
        raise LedgerError(f"store {name}: made by a newer version of rtcbridge") from None
