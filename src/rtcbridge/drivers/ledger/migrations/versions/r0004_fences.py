"""Who may write a node's row: of several bridges the one that leads the pool, and none that did before."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; 0 is below the token of every leader."""
    op.add_column("nodes", sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"))
