"""Create the ledger of coverage."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Begin with no rows: a camera's ledger begins when it is first claimed."""
    op.create_table(
        "coverage",
        sa.Column("camera", sa.String, primary_key=True),
        sa.Column("start", _INSTANT, primary_key=True),
        sa.Column("end", _INSTANT, nullable=False),
        sa.Column("state", sa.String, nullable=False),
    )
    op.create_index("coverage_by_end", "coverage", ["camera", "end"])
    op.create_index("coverage_by_state", "coverage", ["state", "start"])
