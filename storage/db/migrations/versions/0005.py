"""Acknowledged incidents, the audit trail, and the stills that are kept as evidence."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Begin the trail of incidents of before at their next revision."""
    op.add_column("incidents", sa.Column("acknowledged_at", _INSTANT))
    op.add_column("incidents", sa.Column("acknowledged_by", sa.String))
    op.add_column("incidents", sa.Column("closed_because", sa.String))
    op.add_column("incidents", sa.Column("summary", sa.String, nullable=False, server_default=""))
    of_a_rule = ["camera", "rule", "rule_version", "first_seen_at"]
    op.create_index("incidents_of_a_rule", "incidents", of_a_rule)
    _create_audit()
    op.create_table(
        "evidence",
        sa.Column("incident_id", sa.String(36), sa.ForeignKey("incidents.id"), primary_key=True),
        sa.Column("moment", sa.String, primary_key=True),
        sa.Column("window_id", sa.String),
        sa.Column("digest", sa.String(64)),
        sa.Column("missing", sa.String),
    )


def _create_audit() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    incident = sa.ForeignKey("incidents.id")
    op.create_table(
        "audit",
        sa.Column("number", number, primary_key=True),
        sa.Column("incident_id", sa.String(36), incident, nullable=False, index=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("entry", sa.String, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgres()
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_takes_no_{change.lower()} BEFORE {change} ON audit"
            " BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
        )


def _protect_on_postgres() -> None:
    op.execute(
        "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$"
    )
    for change in ("UPDATE", "DELETE", "TRUNCATE"):
        op.execute(
            f"CREATE TRIGGER audit_takes_no_{change.lower()} BEFORE {change} ON audit"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
        )
