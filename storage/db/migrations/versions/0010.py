"""Say why a camera is down: a reason beside each interval of coverage and each incident."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; nothing is known of what was there before."""
    for table in ("coverage", "incidents"):
        op.add_column(table, sa.Column("reason", sa.String, nullable=False, server_default=""))
