"""Add the zone that a finding is about.

Safe while an older release writes: the column may be empty, and older releases neither write nor
read it. They set aside findings with a zone, which only a newer analyzer sends.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
safe_while_older_writes = True


def upgrade() -> None:
    """Leave earlier findings without a zone."""
    op.add_column("findings", sa.Column("zone", sa.String, nullable=True))
