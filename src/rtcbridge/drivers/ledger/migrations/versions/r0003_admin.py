"""Keys of the admin API, and settings of pools that are changed at run time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Mark admin keys, of which there are none yet, and make the table `overrides`."""
    op.add_column("keys", sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "overrides",
        sa.Column("pool", sa.String, primary_key=True),
        sa.Column("settings", sa.String, nullable=False),
        sa.Column("changed", sa.Float, nullable=False),
        sa.Column("key", sa.String, nullable=False),
    )
