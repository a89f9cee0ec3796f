"""The durable store: keys, nodes, and the ledger of sessions."""

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.keys import SqliteKeys, admin_token
from rtcbridge.drivers.ledger.sqlite import LedgerReader, SqliteLedger

__all__ = ["Database", "LedgerReader", "SqliteKeys", "SqliteLedger", "admin_token"]
