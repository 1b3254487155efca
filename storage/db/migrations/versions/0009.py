"""Write down which stills are still to be taken, and find those without looking at all."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_UNSETTLED = sa.text("settled_at IS NULL")
_EXPECT = """
INSERT INTO evidence (incident_id, moment)
SELECT incidents.id, moments.moment FROM incidents CROSS JOIN
    (SELECT 'before' AS moment UNION SELECT 'at' UNION SELECT 'after') AS moments
WHERE incidents.closed_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM evidence WHERE evidence.incident_id = incidents.id)
"""


def upgrade() -> None:
    """All there is is settled; of live incidents without any, stills are to be taken."""
    op.add_column("evidence", sa.Column("settled_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE evidence SET settled_at = CURRENT_TIMESTAMP")
    op.execute(_EXPECT)
    op.create_index(
        "evidence_unsettled",
        "evidence",
        ["moment", "incident_id"],
        sqlite_where=_UNSETTLED,
        postgresql_where=_UNSETTLED,
    )
