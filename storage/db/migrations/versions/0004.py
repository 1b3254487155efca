"""Add how receivers stand, and what came of the last try of a delivery."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0005"

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Leave earlier deliveries without a reason, and every receiver active."""
    op.add_column("deliveries", sa.Column("reason", sa.String))
    op.add_column("deliveries", sa.Column("tried_at", _INSTANT))
    op.create_table(
        "receivers",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("since", _INSTANT, nullable=False),
    )
