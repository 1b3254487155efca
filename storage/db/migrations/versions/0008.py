"""Number the parts of a message, order deliveries, and find the groups that are due."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_GROUPS = sa.table(
    "groups", sa.column("id", sa.String), sa.column("labels", sa.JSON), sa.column("camera")
)


def upgrade() -> None:
    """Order the deliveries of before by when they were due; look at all groups with news."""
    _extend_deliveries()
    _extend_groups()
    op.add_column("buckets", sa.Column("borrowed_at", sa.DateTime(timezone=True)))
    of_it = ["incident_id", "receiver", "state", "kind"]
    op.create_index("notices_of_an_incident", "notices", of_it)
    op.create_index("incidents_by_rule", "incidents", ["rule", "state"])


def _extend_deliveries() -> None:
    for name in ("part", "parts", "priority"):
        op.add_column("deliveries", sa.Column(name, sa.Integer, nullable=False, server_default="1"))
    serial = sa.Column("serial", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("deliveries", serial)
    op.execute(
        "UPDATE deliveries SET serial = ranked.serial FROM (SELECT id, row_number() OVER"
        " (PARTITION BY receiver ORDER BY next_at, number, id) AS serial FROM deliveries)"
        " AS ranked WHERE ranked.id = deliveries.id"
    )
    op.drop_index("deliveries_by_receiver", "deliveries")
    op.drop_index("deliveries_of_a_group", "deliveries")
    order = ["receiver", "state", "priority", "serial"]
    op.create_index("deliveries_in_order", "deliveries", order)
    op.create_index("deliveries_by_serial", "deliveries", ["receiver", "serial"], unique=True)
    of_a_group = ["group_id", "receiver", "number", "part"]
    op.create_index("deliveries_of_a_group", "deliveries", of_a_group, unique=True)


def _extend_groups() -> None:
    news = sa.Column("has_news", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("groups", sa.Column("camera", sa.String, nullable=False, server_default=""))
    op.add_column("groups", sa.Column("weight", sa.Integer, nullable=False, server_default="0"))
    op.add_column("groups", news)
    connection = op.get_bind()
    for row in connection.execute(sa.select(_GROUPS.c.id, _GROUPS.c.labels)).all():
        of_it = sa.update(_GROUPS).where(_GROUPS.c.id == row.id)
        connection.execute(of_it.values(camera=row.labels.get("camera", "")))
    waiting = "SELECT group_id FROM notices WHERE is_current AND state IN ('waiting', 'muted')"
    op.execute(f"UPDATE groups SET has_news = true WHERE id IN ({waiting})")  # noqa: S608
    op.create_index("groups_with_news", "groups", ["has_news"])
    op.create_index("groups_due", "groups", ["receiver", "due_at"])
    op.create_index("groups_due_by_weight", "groups", ["receiver", "weight", "due_at"])
    op.create_index("groups_by_camera", "groups", ["receiver", "camera", "told_at"])
