"""Connections to PostgreSQL that are kept up by a thread: for news of keys, and for the lock of a bridge."""

import abc
import collections
import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from rtcbridge.drivers.ledger.database import KEY_COLUMNS, KeyChanges
from rtcbridge.ports import LedgerError

LOOK = 1.0  # seconds between two looks that nothing has asked for: they find out, too, that a server is gone
_FIRST_PAUSE = 0.05  # seconds between two tries to connect; it doubles …
_LONGEST_PAUSE = 0.5  # … up to this, so that a server that is back is in use soon
_CLOSING = 10.0  # seconds that the thread has to end

logger = logging.getLogger(__name__)
Connect = Callable[..., psycopg.Connection[Any]]


class Watch(abc.ABC):
    """A connection with a thread that looks through it: when the server sends something, and each `LOOK` seconds."""

    def __init__(self, connect: Connect, name: str) -> None:
        """Keep how to connect, and what to call the store."""
        self._connect = connect
        self._name = name
        self._closing = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._connection: psycopg.Connection[Any] | None = None

    def start(self) -> None:
        """Connect, look once, and go on in the thread. Raises psycopg.Error or LedgerError."""
        try:
            self._connection = self._open()
        except BaseException:
            self._wake.close()
            self._woken.close()
            raise
        self._thread.start()

    def close(self) -> None:
        """End the thread, and close the connection."""
        self._closing = True
        self._wake.send(b"\0")
        self._thread.join(_CLOSING)
        self._wake.close()
        self._woken.close()

    @abc.abstractmethod
    def _begin(self, connection: psycopg.Connection[Any]) -> None:
        """Do what a new connection needs, and look."""

    @abc.abstractmethod
    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """Look. Raises psycopg.Error when the connection is of no use any more."""

    def _ended(self) -> None:  # noqa: B027 - not every kind has something to note
        """Take note that there is no connection."""

    def _open(self) -> psycopg.Connection[Any]:
        connection = self._connect(autocommit=True)
        try:
            # Without a handler the driver keeps what it is told for somebody who asks.
            connection.add_notify_handler(lambda _: None)
            self._begin(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing:
            try:
                connection = self._connection or self._open()
                self._connection = None
                if pause > _FIRST_PAUSE:
                    logger.warning("store %s: back again", self._name)
                pause = _FIRST_PAUSE
                with contextlib.closing(connection):
                    self._follow(connection)
            except Exception as error:  # whatever it is, keys must be heard of again
                if pause == _FIRST_PAUSE and not self._closing:
                    logger.error("store %s: %s", self._name, " ".join(str(error).split()))
                self._ended()
                self._wait(None, pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)

    def _follow(self, connection: psycopg.Connection[Any]) -> None:
        while not self._closing:
            self._wait(connection, LOOK)
            if not self._closing:
                self._look(connection)

    def _wait(self, connection: psycopg.Connection[Any] | None, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if connection is not None:
                selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.select(seconds)


class PostgresKeyFeed(Watch):
    """Listens for changed keys, and reads them in its thread: a look at the feed asks no server.

    Who changes a key says so on a channel. A look each second finds out what a notice that got lost would have told.
    """

    def __init__(self, connect: Connect, name: str, channel: str) -> None:
        """Keep where to listen."""
        super().__init__(connect, name)
        self._channel = channel
        self._version = 0
        self._fetching = threading.Lock()
        self._pending: collections.deque[KeyChanges] = collections.deque()
        columns = ", ".join(column.name for column in KEY_COLUMNS)
        self._changed = f"SELECT {columns} FROM keys WHERE changed > %s"  # noqa: S608 - names of the schema

    def look(self) -> KeyChanges | None:
        """Return what has changed since the last call, or None."""
        return self._pending.popleft() if self._pending else None

    def catch_up(self) -> None:
        """Read what is committed, through a connection of its own; if that fails, the thread will read it."""
        with contextlib.suppress(psycopg.Error), contextlib.closing(self._connect(autocommit=True)) as connection:
            self._look(connection)

    def _begin(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(f"LISTEN {self._channel}".encode())
        # All of them: a server that others took the place of may have lost the last changes.
        self._fetch(connection, complete=True)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        self._fetch(connection, complete=False)

    def _fetch(self, connection: psycopg.Connection[Any], *, complete: bool) -> None:
        with self._fetching:  # what is read later is also handed on later
            found = connection.execute("SELECT value FROM meta WHERE name = 'keys_version'").fetchone()
            version = int(found[0]) if found else 0
            if version == self._version and not complete:
                return
            rows = connection.execute(self._changed.encode(), (-1 if complete else self._version,)).fetchall()
            self._pending.append(KeyChanges(version, rows, complete))
            self._version = version


class Hold(Watch):
    """Holds an advisory lock for as long as the process lives, and takes it again when the server comes back.

    Attributes:
        is_held: the server has been seen to keep the lock for this process, at the last look.
    """

    _WAIT = 3.0  # seconds that the server may need to notice that the last holder was killed

    def __init__(self, connect: Connect, name: str, lock: tuple[int, int], *, shared: bool = False) -> None:
        """Keep which lock to take, and whether others may have it too that say the same."""
        super().__init__(connect, name)
        self._lock = lock
        self._function = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
        self.is_held = False

    def _begin(self, connection: psycopg.Connection[Any]) -> None:
        deadline = time.monotonic() + self._WAIT
        while not self._try(connection):
            if time.monotonic() > deadline or self._closing:
                raise LedgerError(f"another bridge runs on the store {self._name}")
            time.sleep(0.1)
        self.is_held = True

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("SELECT 1")

    def _ended(self) -> None:
        self.is_held = False

    def _try(self, connection: psycopg.Connection[Any]) -> bool:
        found = connection.execute(f"SELECT {self._function}(%s, %s)", self._lock).fetchone()
        return bool(found and found[0])
