"""What somebody wants of a node: it must survive the bridge."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; nothing is ordered of the nodes that are there."""
    op.add_column("nodes", sa.Column("ordered", sa.String, nullable=False, server_default=""))
