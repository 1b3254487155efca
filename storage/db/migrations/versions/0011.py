"""Index what the loops ask for, and only what is live or waits, so that the past costs nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_LAST_MOMENT = sa.text("coalesce(tried_at, next_at)")


def upgrade() -> None:
    """Put indexes in the place of those that held all of the past."""
    op.create_index("findings_of_a_question", "findings", ["camera", "question", "end"])
    op.drop_index("incidents_by_rule", "incidents")
    _create_partial("incidents_live", "incidents", ["first_seen_at"], "closed_at IS NULL")
    _create_partial("incidents_live_of_a_rule", "incidents", ["rule"], "closed_at IS NULL")
    op.drop_index("deliveries_in_order", "deliveries")
    op.create_index("deliveries_by_state", "deliveries", ["state", _LAST_MOMENT])
    op.create_index("deliveries_by_receiver", "deliveries", ["receiver", "state", _LAST_MOMENT])
    waits = "state = 'waiting'"
    in_turn = ["receiver", "priority", "serial"]
    _create_partial("deliveries_waiting", "deliveries", in_turn, waits)
    in_order = ["receiver", "serial"]
    _create_partial("deliveries_waiting_in_order", "deliveries", in_order, waits)
    op.drop_index("notices_by_state", "notices")
    is_current = "is_current" if op.get_bind().dialect.name == "postgresql" else "is_current = 1"
    muted = f"state = 'muted' AND {is_current}"
    _create_partial("notices_muted", "notices", ["group_id"], muted)


def _create_partial(name: str, table: str, columns: list[str], where: str) -> None:
    kept = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=kept, postgresql_where=kept)
