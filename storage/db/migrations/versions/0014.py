"""Delete what is old: count the incidents behind a finding, and find what is due by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_EACH_ID = {
    "sqlite": "SELECT each.value AS id FROM incidents, json_each(incidents.evidence) AS each",
    "postgresql": "SELECT each.value AS id FROM incidents,"
    " json_array_elements_text(incidents.evidence) AS each(value)",
}
_COUNT = """
UPDATE findings SET incidents = behind.incidents FROM
    (SELECT id, count(*) AS incidents FROM ({each} WHERE closed_at IS NOT NULL) AS ids GROUP BY id)
    AS behind
WHERE findings.id = behind.id
"""


def upgrade() -> None:
    """Count what closed incidents have as evidence; no serial of a deleted delivery is known."""
    op.add_column(
        "findings", sa.Column("incidents", sa.Integer, nullable=False, server_default="0")
    )
    op.execute(_COUNT.format(each=_EACH_ID[op.get_bind().dialect.name]))
    _partial_index("findings_to_forget", "findings", ["end"], "incidents = 0")
    _partial_index("incidents_closed", "incidents", ["state", "closed_at"], "closed_at IS NOT NULL")
    _partial_index(
        "evidence_kept", "evidence", ["settled_at"], "digest IS NOT NULL AND missing IS NULL"
    )
    _partial_index("deliveries_ended", "deliveries", ["next_at"], "state <> 'waiting'")
    op.create_table(
        "serials",
        sa.Column("receiver", sa.String, primary_key=True),
        sa.Column("serial", sa.BigInteger, nullable=False),
    )


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
