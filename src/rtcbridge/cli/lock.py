"""The right to run the one bridge on a store, and where that bridge listens.

Beside a SQLite file it is a lock on another file, which has the address; in PostgreSQL a lock of the server's, and a
row.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from rtcbridge.cli import CommandError
from rtcbridge.config import Config
from rtcbridge.drivers.ledger import Database, open_store

_TRIES = 5
_PAUSE = 0.05  # seconds; a command that looks whether a bridge runs holds the lock for microseconds
_PATIENCE = 5.0  # seconds that a bridge which is starting is waited for
_DEAF = "the bridge is starting or stopping, and does not listen now"


class UnreachableError(CommandError):
    """No bridge answers there, or not now."""


class RunningBridge(msgspec.Struct, frozen=True):
    """Where this machine reaches a bridge by HTTP. `certificate`: its own certificate's file, if it speaks TLS."""

    url: str
    certificate: str = ""


Announce: TypeAlias = Callable[[RunningBridge], None]


class _Announced(msgspec.Struct, frozen=True):
    """What a bridge says of itself in a store that other machines read too."""

    host: str
    bridge: RunningBridge


@contextlib.contextmanager
def held_store(config: Config) -> Iterator[tuple[Database, Announce]]:
    """Open the store, with the right to run a bridge on it: two that share no engine would fight over its nodes.

    Yields:
        The store, and a function that tells commands where the bridge listens.

    Raises:
        CommandError: Another bridge has it, or the folder cannot be written.
        LedgerError: It cannot be opened, or another bridge has it.
    """
    if (path := config.store.path) is not None:
        with store_lock(path) as announce, open_store(config.store.url) as store:
            yield store, announce
        return
    from rtcbridge.drivers.ledger.postgres import PostgresDatabase

    with open_store(config.store.url) as store:
        assert isinstance(store, PostgresDatabase)
        with store.hold(shared=config.engine.is_shared) as write:
            yield store, lambda bridge: write(msgspec.json.encode(_Announced(socket.gethostname(), bridge)).decode())


def running_bridge(config: Config) -> RunningBridge | None:
    """Return the bridge that runs on the store, or None.

    Raises:
        UnreachableError: One runs and does not listen now, or listens on another machine.
        CommandError: The lock cannot be read by this user.
        LedgerError: The store cannot be read.
    """
    if (path := config.store.path) is not None:
        return find_bridge(path)
    from rtcbridge.drivers.ledger.postgres import PostgresDatabase

    deadline = time.monotonic() + _PATIENCE
    with open_store(config.store.url) as store:
        assert isinstance(store, PostgresDatabase)
        while (text := store.holder()) is not None:
            with contextlib.suppress(msgspec.DecodeError):
                found = msgspec.json.decode(text, type=_Announced)
                if found.host != socket.gethostname():
                    raise UnreachableError(f"the bridge runs on {found.host}; give its --url, and --key")
                return found.bridge
            if time.monotonic() > deadline:
                raise UnreachableError(_DEAF)
            time.sleep(_PAUSE)
    return None


@contextlib.contextmanager
def store_lock(store: Path) -> Iterator[Announce]:
    """Hold the right to run a bridge on this store, of which one may: two would fight over its nodes.

    Yields:
        A function that tells commands on this machine where the bridge listens.

    Raises:
        CommandError: Another bridge has it, or the folder cannot be written.
    """
    path = _path(store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    try:
        if not _locked(descriptor):
            raise CommandError(f"another bridge runs on the store {store}")
        os.ftruncate(descriptor, 0)  # what a bridge that was killed has left

        def announce(bridge: RunningBridge) -> None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(bridge), 0)

        yield announce
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def find_bridge(store: Path) -> RunningBridge | None:
    """Return the bridge that runs on this store, or None.

    Raises:
        UnreachableError: One runs and does not listen now.
        CommandError: The lock cannot be read by this user.
    """
    path = _path(store)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    deadline = time.monotonic() + _PATIENCE
    try:
        while not _is_free(descriptor):
            with contextlib.suppress(msgspec.DecodeError):
                return msgspec.json.decode(os.pread(descriptor, 65536, 0), type=RunningBridge)
            if time.monotonic() > deadline:
                raise UnreachableError(_DEAF)
            time.sleep(_PAUSE)
        return None
    finally:
        os.close(descriptor)


def _path(store: Path) -> Path:
    return store.with_name(f"{store.name}.lock")


def _locked(descriptor: int) -> bool:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(_PAUSE)
        else:
            return True
    return False


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
