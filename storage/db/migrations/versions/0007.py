"""Find the oldest findings without looking at all of them."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Index findings by their end."""
    op.create_index("findings_by_end", "findings", ["end"])
