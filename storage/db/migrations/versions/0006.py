"""Deliveries become messages of groups; add groups, notices, silences and buckets."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"

_INSTANT = sa.DateTime(timezone=True)
_INCIDENT = "incidents.id"


def upgrade() -> None:
    """Let each delivery of before be of a group that is its incident alone."""
    op.drop_index("deliveries_by_receiver", "deliveries")
    op.drop_index("ix_deliveries_incident_id", "deliveries")
    op.rename_table("deliveries", "deliveries_of_before")
    _create_deliveries()
    op.execute(
        "INSERT INTO deliveries SELECT id, incident_id, revision, receiver, state, attempts,"
        " next_at, body, reason, tried_at FROM deliveries_of_before"
    )
    op.execute(
        "INSERT INTO delivery_incidents SELECT id, incident_id, revision FROM deliveries_of_before"
    )
    op.drop_table("deliveries_of_before")
    _create_groups()
    _create_silences()


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("group_id", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("receiver", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", _INSTANT, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("tried_at", _INSTANT),
    )
    op.create_index("deliveries_by_receiver", "deliveries", ["receiver", "state"])
    of_a_group = ["group_id", "receiver", "number"]
    op.create_index("deliveries_of_a_group", "deliveries", of_a_group, unique=True)
    delivery = sa.ForeignKey("deliveries.id")
    op.create_table(
        "delivery_incidents",
        sa.Column("delivery_id", sa.String(36), delivery, primary_key=True),
        sa.Column(
            "incident_id", sa.String(36), sa.ForeignKey(_INCIDENT), primary_key=True, index=True
        ),
        sa.Column("revision", sa.Integer, nullable=False),
    )


def _create_groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("receiver", sa.String, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("due_at", _INSTANT, index=True),
        sa.Column("told_at", _INSTANT),
    )
    op.create_table(
        "notices",
        sa.Column("incident_id", sa.String(36), sa.ForeignKey(_INCIDENT), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("receiver", sa.String, primary_key=True),
        sa.Column("group_id", sa.String(36), sa.ForeignKey("groups.id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("why", sa.String),
        sa.Column("delivery_id", sa.String(36), sa.ForeignKey("deliveries.id"), index=True),
        sa.Column("is_current", sa.Boolean, nullable=False),
    )
    op.create_index("notices_of_a_group", "notices", ["group_id", "is_current"])
    op.create_index("notices_by_state", "notices", ["state", "group_id"])


def _create_silences() -> None:
    op.create_table(
        "silences",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("matchers", sa.JSON, nullable=False),
        sa.Column("start", _INSTANT, nullable=False),
        sa.Column("end", _INSTANT, nullable=False, index=True),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("comment", sa.String, nullable=False),
    )
    op.create_table(
        "buckets",
        sa.Column("receiver", sa.String, primary_key=True),
        sa.Column("tokens", sa.Float, nullable=False),
        sa.Column("at", _INSTANT, nullable=False),
    )
