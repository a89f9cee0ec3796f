"""The durable store: keys, nodes, and the ledger of sessions, in SQLite or in PostgreSQL."""

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.key_maker import KeyMaker
from rtcbridge.drivers.ledger.keys import KeyStore, admin_token
from rtcbridge.drivers.ledger.ledger import LedgerReader, SessionLedger
from rtcbridge.ports import LedgerError

__all__ = ["Database", "KeyMaker", "KeyStore", "LedgerReader", "SessionLedger", "admin_token", "open_store"]


def open_store(url: str) -> Database:
    """Open the store that `store.url` names; it is made if it is missing, and migrated if it is older.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`.

    Raises:
        LedgerError: it cannot be opened, or the driver of PostgreSQL is not installed.
    """
    if url.startswith("sqlite:///"):
        from rtcbridge.drivers.ledger.sqlite import SqliteDatabase

        return SqliteDatabase(url.removeprefix("sqlite:///"))
    try:
        from rtcbridge.drivers.ledger.postgres import PostgresDatabase
    except ImportError as error:
        missing = error.name or "psycopg"
        raise LedgerError(f"store PostgreSQL: no module {missing}: pip install 'rtcbridge[postgres]'") from None
    return PostgresDatabase(url)
