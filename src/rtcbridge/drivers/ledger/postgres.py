"""The store in PostgreSQL, shared by any number of bridges.

A server that dies, hangs or is cut off costs a bounded time: every statement has a deadline, dead connections are
dialled again, and what tells of changed keys has a thread and a connection of its own, so that a look-up never waits.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import conninfo
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import psycopg as dialect

from rtcbridge.drivers.ledger.database import Database, Insert, is_current, prepare
from rtcbridge.drivers.ledger.schema import meta
from rtcbridge.drivers.ledger.watch import Hold, PostgresKeyFeed
from rtcbridge.ports import LedgerError

CONNECT_TIMEOUT = 3  # seconds for each address of the server; connect_timeout in the URL wins
SILENCE = 5.0  # seconds without a byte from the server in the midst of a statement, until it is given up
_MIGRATION_SILENCE = 600.0  # a step may rewrite a large ledger, or wait for another process that does
_IN_TRANSACTION = "15s"  # a bridge that freezes in a transaction holds its locks no longer
CHANNEL = "rtcbridge_keys"
_LOCKS = 0x72746362  # "rtcb": the first half of this program's advisory locks
_MIGRATION_LOCK = (_LOCKS, 1)
_BRIDGE_LOCK = (_LOCKS, 2)
_BRIDGE = "bridge"  # the row of `meta` in which the holder of that lock says where it listens

# Ours, not the driver's: it neither needs a connection nor changes with one.
_DIALECT = dialect.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
_T = TypeVar("_T")
logger = logging.getLogger(__name__)


class Connection(psycopg.Connection[Any]):
    """A connection whose statements are given up after `silence` seconds without a byte from the server.

    Neither libpq nor the kernel's time-outs do this: the kernel of a server that is frozen answers for it.
    """

    silence = SILENCE

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **options: Any) -> _T:
        """Run one statement to its end; raises OperationalError, and closes, when the server is silent."""
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        heard = time.monotonic()
        try:
            state = next(gen)
            while True:
                ready = yield state
                now = time.monotonic()
                if ready:
                    heard = now
                elif now - heard > self.silence:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server has not answered for {self.silence:g} s")
                state = gen.send(ready)
        except StopIteration as end:
            result: _T = end.value
            return result


class PostgresDatabase(Database):
    """One database of a PostgreSQL server; tables are those of the first schema of its `search_path`."""

    def __init__(self, url: str) -> None:
        """Connect, and make or migrate what is missing. Raises LedgerError."""
        self._parameters = _parameters(url)
        self.name = _shown(self._parameters)
        self._hold: Hold | None = None
        self.engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self.connect,
            isolation_level="READ COMMITTED",  # where all that is done here is right, whatever the database's default
            use_native_hstore=False,  # it would ask the server for a type that we do not use
        )
        self.reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            self.secret = self._prepare()
        except sa.exc.DBAPIError as error:
            self.close()
            raise self.error(error) from None
        except BaseException:
            self.close()
            raise

    def connect(self, *, autocommit: bool = False) -> Connection:
        """Make a connection outside the pool. Raises psycopg.Error."""
        connection = Connection.connect(autocommit=True, **self._parameters)
        # Set here and not as start-up options, which some poolers refuse. The server finds out in a minute, and not
        # in two hours, that a machine with a bridge is gone, and lets go of what that bridge held.
        try:
            connection.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, false),"
                " set_config('tcp_keepalives_idle', '20', false), set_config('tcp_keepalives_interval', '10', false),"
                " set_config('tcp_keepalives_count', '4', false)",
                (_IN_TRANSACTION,),
            )
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
        return connection

    def insert(self, table: sa.Table) -> Insert:
        """Begin an INSERT that can take ON CONFLICT."""
        return postgresql.insert(table)

    def compile(self, statement: sa.ClauseElement) -> sa.Compiled:
        """Compile a statement for the driver, with its parameters by their position."""
        return statement.compile(dialect=_DIALECT)

    def key_feed(self) -> PostgresKeyFeed:
        """Start to listen for changed keys. Raises LedgerError if they cannot be read."""
        feed = PostgresKeyFeed(self.connect, self.name, CHANNEL)
        try:
            feed.start()
        except psycopg.Error as error:
            raise self.error(error) from None
        return feed

    def announce_keys(self, connection: sa.Connection) -> None:
        """Let feeds hear, once the transaction is committed, that keys changed."""
        connection.exec_driver_sql(f"NOTIFY {CHANNEL}")

    @contextlib.contextmanager
    def hold(self, *, shared: bool = False) -> Iterator[Callable[[str], None]]:
        """Hold the right to run a bridge on this store: an advisory lock, on a connection that is kept up.

        Args:
            shared: for one of several bridges that share an engine; else it is the only one.

        Yields:
            A function that stores what `holder` then returns.

        Raises:
            LedgerError: another bridge has it.
        """
        hold = Hold(self.connect, self.name, _BRIDGE_LOCK, shared=shared)
        try:
            hold.start()
        except psycopg.Error as error:
            raise self.error(error) from None
        self._hold = hold
        try:
            if not shared:
                self._announce("")  # what a bridge that was killed has left
            yield self._announce
            if not shared:
                self._announce("")
        finally:
            self._hold = None
            hold.close()

    def holder(self) -> str | None:
        """Return what the bridge that holds the store has said of itself; None if there is none. Raises LedgerError."""
        group, number = _BRIDGE_LOCK
        mine = sa.text("SELECT oid FROM pg_database WHERE datname = current_database()").columns(sa.column("oid"))
        locks = sa.table("pg_locks", *map(sa.column, ("locktype", "database", "classid", "objid", "granted")))
        held = sa.select(sa.literal(1)).where(
            locks.c.locktype == "advisory",
            locks.c.database == mine.scalar_subquery(),
            locks.c.classid == sa.cast(sa.literal(group), postgresql.OID),
            locks.c.objid == sa.cast(sa.literal(number), postgresql.OID),
            locks.c.granted,
        )
        if not self.read(held):
            return None
        rows = self.read(sa.select(meta.c.value).where(meta.c.name == _BRIDGE))
        return str(rows[0]["value"]) if rows else ""

    def _announce(self, text: str) -> None:
        row = postgresql.insert(meta).values(name=_BRIDGE, value=text)
        try:
            with self.engine.begin() as connection:
                connection.execute(
                    row.on_conflict_do_update(index_elements=["name"], set_={"value": row.excluded.value})
                )
        except sa.exc.DBAPIError as error:  # commands do not find the bridge then; it works all the same
            logger.warning("%s", self.error(error))

    @property
    def is_lost(self) -> bool:
        """True from when the lock's connection dies until the lock is had again."""
        return self._hold is not None and not self._hold.is_held

    def is_rows_fault(self, error: Exception) -> bool:
        """Say whether the values are at fault: class 22 and 23 of the SQLSTATEs, or refused by the driver itself."""
        if not isinstance(error, sa.exc.DBAPIError):
            return True
        state = getattr(error.orig, "sqlstate", None)
        if state is None:
            return isinstance(error, sa.exc.DataError | sa.exc.ProgrammingError)
        return str(state)[:2] in ("22", "23")

    def is_passing(self, error: Exception) -> bool:
        """Say whether to try again at once: a conflict or deadlock (class 40), or a connection that had died."""
        if not isinstance(error, sa.exc.DBAPIError):
            return False
        return error.connection_invalidated or str(getattr(error.orig, "sqlstate", None))[:2] == "40"

    @contextlib.contextmanager
    def patience(self, connection: sa.Connection, seconds: float | None) -> Iterator[None]:
        """Let the server be silent on a connection for longer than usual."""
        raw = connection.connection.driver_connection
        assert isinstance(raw, Connection)
        if seconds is not None:
            raw.silence = seconds
        try:
            yield
        finally:
            raw.silence = Connection.silence

    def _prepare(self) -> bytes:
        with self.engine.begin() as connection:
            if is_current(connection):
                return prepare(connection, self.name)
        with self.engine.begin() as connection, self.patience(connection, _MIGRATION_SILENCE):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(*_MIGRATION_LOCK)))
            return prepare(connection, self.name)


def _parameters(url: str) -> dict[str, Any]:
    """The parameters of libpq in a URL. Raises LedgerError, whose text has nothing of it: it may be the password."""
    try:
        parameters = conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        if re.fullmatch(r'invalid URI query parameter: "\w+"', text := str(error).strip()):
            raise LedgerError(f"store.url: {text}") from None
        raise LedgerError("store.url: expected postgresql://USER:PASSWORD@HOST/DATABASE?PARAMETER=VALUE") from None
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT)
    parameters.setdefault("application_name", "rtcbridge")
    if "," in str(parameters.get("host", "")):
        parameters.setdefault("target_session_attrs", "read-write")  # of several, the one that is no standby
    return parameters


def _shown(parameters: dict[str, Any]) -> str:
    user = f"{parameters['user']}@" if "user" in parameters else ""
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", "")).split(",")
    ports = ports if len(ports) == len(hosts) else ports * len(hosts)
    places = [f"{_host(host)}:{port}" if port else _host(host) for host, port in zip(hosts, ports, strict=True)]
    return f"postgresql://{user}{','.join(places)}/{parameters.get('dbname', '')}"


def _host(host: str) -> str:
    return f"[{host}]" if re.fullmatch(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*", host) else host
