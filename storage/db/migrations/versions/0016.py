"""Let one process lead at a time.

Safe while an older release writes: it adds a table, and changes none that was there. Releases
before this one hold no lease: they write on, and are not seen.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
safe_while_older_writes = True

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the table of leases."""
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("process", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("since", _INSTANT, nullable=False),
        sa.Column("until", _INSTANT, nullable=False),
    )
