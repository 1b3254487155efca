"""Keep for the log what it does not take: revisions go on behind the trail that is there."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_LAST = """
INSERT INTO positions (reader, topic, next)
SELECT 'publisher', 'audit', newest + 1 FROM (
    SELECT max(number) AS newest FROM (
        SELECT number FROM audit UNION ALL SELECT last AS number FROM checkpoints
    ) AS written
) AS trail WHERE newest IS NOT NULL
"""


def upgrade() -> None:
    """Add the table of dead letters; all revisions so far are on the log."""
    op.create_table(
        "dead_letters",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.execute(_LAST)
