"""Alembic's migrations of the store, run at each opening by `rtcbridge.drivers.ledger.database`.

A new one goes into `versions/`, with `down_revision` naming the one before, and `HEAD` is set to its name:
that spares a store that is up to date the loading of Alembic.
"""

HEAD = "0005"
