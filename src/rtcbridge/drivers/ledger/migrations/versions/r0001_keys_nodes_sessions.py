"""The first schema: keys, nodes, sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the four tables; `meta` gets its rows when the store is opened."""
    op.create_table(
        "meta",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("project", sa.String, nullable=False),
        sa.Column("pool", sa.String, nullable=False),
        sa.Column("is_node", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("revoked", sa.Float),
        sa.Column("changed", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_keys_changed", "keys", ["changed"])
    op.create_table(
        "nodes",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("pool", sa.String, nullable=False),
        sa.Column("managed", sa.Boolean, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("started", sa.Boolean, nullable=False),
        sa.Column("capacity", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("labels", sa.String, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("pool", sa.String, nullable=False),
        sa.Column("node", sa.String, nullable=False),
        sa.Column("project", sa.String, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("reason", sa.String, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_sessions_started", "sessions", ["started"])
    is_open = sa.text("ended IS NULL")
    op.create_index("ix_sessions_open", "sessions", ["id"], sqlite_where=is_open, postgresql_where=is_open)
