"""The ledger's record of sessions: as CSV for `rtcbridge sessions --csv`, as arrivals for `rtcbridge simulate`."""

import csv
import sys
from pathlib import Path

from rtcbridge.cli import CommandError, UsageError
from rtcbridge.config import Store
from rtcbridge.drivers.ledger import LedgerReader, open_store
from rtcbridge.ports import SessionRow
from rtcbridge.sim import arrivals
from rtcbridge.sim.arrivals import Session

_SQLITE = b"SQLite format 3\0"


def _ended(store: Store, pool: str | None) -> list[SessionRow]:
    if store.path and not Path(store.path).is_file():
        raise CommandError(f"store {store.path}: no such file")
    with open_store(store.url) as database:
        return list(LedgerReader(database).ended_sessions(pool))


def export(store: Store, pool: str | None) -> None:
    """Print every session that has ended as CSV, oldest first, with the columns that `simulate` reads.

    Args:
        store: where the ledger is.
        pool: only the sessions of this one; None for all.
    """
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["started", "seconds", "session", "pool", "node", "project", "reason"])
    for row in _ended(store, pool):
        seconds = max(0.0, (row.ended or 0.0) - row.started)
        table.writerow(
            [f"{row.started:.3f}", f"{seconds:.3f}", row.id, row.pool, row.node, row.project, row.reason]
        )  # fmt: skip


def read(file: Path, pool: str | None) -> list[Session]:
    """Read sessions from a CSV file or from a bridge's own SQLite file.

    Args:
        file: which of both it is, its first bytes say.
        pool: with an SQLite file, only the sessions of this one; None for all.

    Raises:
        UsageError: the file cannot be read, or something in it is wrong.
    """
    try:
        if not _is_store(file):
            return arrivals.read(file)
        rows = _ended(Store(url=f"sqlite:///{file}"), pool)
        return arrivals.shifted([(row.started, max(0.0, (row.ended or 0.0) - row.started)) for row in rows], file)
    except arrivals.ArrivalsError as error:
        raise UsageError(str(error)) from None


def _is_store(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False  # what is wrong, the reader of CSV says
