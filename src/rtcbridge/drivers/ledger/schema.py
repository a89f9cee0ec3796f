"""The tables of the durable store. Times are Unix seconds; `migrations` brings a store to this schema."""

import sqlalchemy as sa

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)

# `changed` is the value of meta's `keys_version` at the row's last change: a reader asks for what is newer.
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("pool", sa.String, nullable=False),
    sa.Column("is_node", sa.Boolean, nullable=False),
    sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
    sa.Column("changed", sa.Integer, nullable=False, index=True),
    sa.Column("is_signing", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("scopes", sa.String, nullable=False, server_default=""),  # by commas; "" for all
    sa.Column("limits", sa.String, nullable=False, server_default=""),  # JSON of KeyLimits; "" for none
    sa.Column("expires", sa.Float),
    sa.Column("last_used", sa.Float),  # written now and then, and without a new value of `changed`
    sqlite_autoincrement=True,
)

nodes = sa.Table(
    "nodes",
    metadata,
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
    sa.Column("ordered", sa.String, nullable=False, server_default=""),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
)

overrides = sa.Table(
    "overrides",
    metadata,
    sa.Column("pool", sa.String, primary_key=True),
    sa.Column("settings", sa.String, nullable=False),
    sa.Column("changed", sa.Float, nullable=False),
    sa.Column("key", sa.String, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("pool", sa.String, nullable=False),
    sa.Column("node", sa.String, nullable=False),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("started", sa.Float, nullable=False, index=True),
    sa.Column("ended", sa.Float),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("bounds", sa.String, nullable=False, server_default=""),  # JSON of Bounds; "" for none
    sqlite_with_rowid=False,  # ids begin with the time: the table grows at its end
)
# Few sessions of all that ever were are open: a start of the bridge must not read the whole ledger.
_OPEN = sessions.c.ended.is_(None)
sa.Index("ix_sessions_open", sessions.c.id, sqlite_where=_OPEN, postgresql_where=_OPEN)
