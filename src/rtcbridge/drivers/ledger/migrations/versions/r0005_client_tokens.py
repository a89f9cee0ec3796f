"""What a key may do and for how long, keys that sign client tokens, and what binds a session beside its pool."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns; the keys that are there may do everything, without end, and sign nothing."""
    op.add_column("keys", sa.Column("is_signing", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("keys", sa.Column("scopes", sa.String, nullable=False, server_default=""))
    op.add_column("keys", sa.Column("limits", sa.String, nullable=False, server_default=""))
    op.add_column("keys", sa.Column("expires", sa.Float))
    op.add_column("keys", sa.Column("last_used", sa.Float))
    op.add_column("sessions", sa.Column("bounds", sa.String, nullable=False, server_default=""))
