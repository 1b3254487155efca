"""Create findings, incidents, deliveries and positions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_INSTANT = sa.DateTime(timezone=True)
_LIVE = sa.text("closed_at IS NULL")


def upgrade() -> None:
    """Create every table of the first release."""
    _create_findings()
    _create_incidents()
    _create_deliveries()
    op.create_table(
        "positions",
        sa.Column("reader", sa.String, primary_key=True),
        sa.Column("topic", sa.String, primary_key=True),
        sa.Column("next", sa.BigInteger, nullable=False),
    )


def _create_findings() -> None:
    op.create_table(
        "findings",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("window_id", sa.String, nullable=False),
        sa.Column("camera", sa.String, nullable=False),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("question_version", sa.String, nullable=False),
        sa.Column("start", _INSTANT, nullable=False),
        sa.Column("end", _INSTANT, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("margin", sa.Float, nullable=False),
        sa.Column("answer", sa.String, nullable=False),
        sa.Column("since", _INSTANT, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("memory_span", sa.Float, nullable=False),
    )


def _create_incidents() -> None:
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("camera", sa.String, nullable=False),
        sa.Column("rule", sa.String, nullable=False),
        sa.Column("rule_version", sa.String, nullable=False),
        sa.Column("severity", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("first_seen_at", _INSTANT, nullable=False, index=True),
        sa.Column("opened_at", _INSTANT),
        sa.Column("last_seen_at", _INSTANT, nullable=False),
        sa.Column("closed_at", _INSTANT),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_index(
        "one_live_incident",
        "incidents",
        ["camera", "rule", "rule_version"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column(
            "incident_id", sa.String(36), sa.ForeignKey("incidents.id"), nullable=False, index=True
        ),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("receiver", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", _INSTANT, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("deliveries_by_receiver", "deliveries", ["receiver", "state"])
