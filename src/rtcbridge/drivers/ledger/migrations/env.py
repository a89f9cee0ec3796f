"""Alembic's entry point: migrates the connection that the opener of the store passes in."""

from alembic import context

from rtcbridge.drivers.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
