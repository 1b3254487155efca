"""A chain of acts, and checkpoints in the place of entries that retention removes."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_COVERING = "SELECT last FROM checkpoints WHERE first <= OLD.number ORDER BY first DESC LIMIT 1"
_BARE = f"coalesce(({_COVERING}), 0) < OLD.number"
_REFUSED = "the audit trail is append-only"


def upgrade() -> None:
    """Begin with no acts and no checkpoints; let entries go that a checkpoint covers."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "acts",
        sa.Column("number", number, primary_key=True),
        sa.Column("entry", sa.String, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("first", number, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("before", sa.String(64), nullable=False),
        sa.Column("after", sa.String(64), nullable=False),
        sa.Column("act", sa.BigInteger, nullable=False),
    )
    op.create_index("checkpoints_by_last", "checkpoints", ["last"], unique=True)
    op.create_index("checkpoints_of_an_act", "checkpoints", ["act"])
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgres()
    else:
        _protect_on_sqlite()


def _protect_on_sqlite() -> None:
    op.execute("DROP TRIGGER audit_takes_no_delete")
    op.execute(
        "CREATE TRIGGER audit_takes_no_delete BEFORE DELETE ON audit"
        f" WHEN {_BARE} BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
    )
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER acts_take_no_{change.lower()} BEFORE {change} ON acts"
            f" BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
        )


def _protect_on_postgres() -> None:
    op.execute(
        "CREATE FUNCTION audit_entry_is_covered() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF {_BARE} THEN RAISE EXCEPTION '{_REFUSED}'; END IF; RETURN OLD; END $$"
    )
    op.execute("DROP TRIGGER audit_takes_no_delete ON audit")
    op.execute(
        "CREATE TRIGGER audit_takes_no_delete BEFORE DELETE ON audit"
        " FOR EACH ROW EXECUTE FUNCTION audit_entry_is_covered()"
    )
    for change in ("UPDATE", "DELETE", "TRUNCATE"):
        op.execute(
            f"CREATE TRIGGER acts_take_no_{change.lower()} BEFORE {change} ON acts"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
        )
