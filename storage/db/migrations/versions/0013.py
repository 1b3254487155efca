"""Say which log a position is in: what was written before takes the log that is there."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column; nothing is known of what was there before."""
    op.add_column("positions", sa.Column("log", sa.String, nullable=True))
