"""Add what a second look at a finding's stills said."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Leave earlier findings without a second look."""
    op.add_column("findings", sa.Column("second_look", sa.Float, nullable=True))
