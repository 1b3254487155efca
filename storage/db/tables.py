"""The tables: what was found, what it came to, and what is still to be delivered."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    false,
    text,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A UTC instant; SQLite keeps no time zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a datetime without a time zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an instant in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

findings = Table(
    "findings",
    metadata,
    Column("id", String, primary_key=True),
    Column("window_id", String, nullable=False),
    Column("camera", String, nullable=False),
    Column("question", String, nullable=False),
    Column("question_version", String, nullable=False),
    Column("start", UtcDateTime, nullable=False),
    Column("end", UtcDateTime, nullable=False),
    Column("score", Float, nullable=False),
    Column("margin", Float, nullable=False),
    Column("answer", String, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("model", String, nullable=False),
    Column("memory_span", Float, nullable=False),
    Column("second_look", Float, nullable=True),
    Column("zone", String, nullable=True),
    # How many closed incidents have it as evidence: it is kept as long as they are.
    Column("incidents", Integer, nullable=False, server_default="0"),
    Index("findings_by_end", "end"),
    Index("findings_of_a_question", "camera", "question", "end"),
)

_BEHIND_NONE = text("incidents = 0")
Index(
    "findings_to_forget",
    findings.c.end,
    sqlite_where=_BEHIND_NONE,
    postgresql_where=_BEHIND_NONE,
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("camera", String, nullable=False),
    Column("rule", String, nullable=False),
    Column("rule_version", String, nullable=False),
    Column("severity", String, nullable=False),
    Column("state", String, nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False, index=True),
    Column("opened_at", UtcDateTime),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("evidence", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("acknowledged_at", UtcDateTime),
    Column("acknowledged_by", String),
    Column("closed_because", String),
    Column("summary", String, nullable=False, server_default=""),
    Column("reason", String, nullable=False, server_default=""),
    Index("incidents_of_a_rule", "camera", "rule", "rule_version", "first_seen_at"),
)

_CLOSED = text("closed_at IS NOT NULL")
Index(
    "incidents_closed",
    incidents.c.state,
    incidents.c.closed_at,
    sqlite_where=_CLOSED,
    postgresql_where=_CLOSED,
)

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("incident_id", String(36), ForeignKey("incidents.id"), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("entry", String, nullable=False),
    Column("digest", String(64), nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("first", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("last", BigInteger, nullable=False),
    Column("before", String(64), nullable=False),
    Column("after", String(64), nullable=False),
    Column("act", BigInteger, nullable=False),
    Index("checkpoints_by_last", "last", unique=True),
    Index("checkpoints_of_an_act", "act"),
)

acts = Table(
    "acts",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("entry", String, nullable=False),
    Column("digest", String(64), nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("incident_id", String(36), ForeignKey("incidents.id"), primary_key=True),
    Column("moment", String, primary_key=True),
    Column("window_id", String),
    Column("digest", String(64)),
    Column("missing", String),
    Column("settled_at", UtcDateTime),
)

_UNSETTLED = text("settled_at IS NULL")
Index(
    "evidence_unsettled",
    evidence.c.moment,
    evidence.c.incident_id,
    sqlite_where=_UNSETTLED,
    postgresql_where=_UNSETTLED,
)

_KEPT = text("digest IS NOT NULL AND missing IS NULL")
Index("evidence_kept", evidence.c.settled_at, sqlite_where=_KEPT, postgresql_where=_KEPT)

_LIVE = text("closed_at IS NULL")
Index(
    "one_live_incident",
    incidents.c.camera,
    incidents.c.rule,
    incidents.c.rule_version,
    unique=True,
    sqlite_where=_LIVE,
    postgresql_where=_LIVE,
)
Index("incidents_live", incidents.c.first_seen_at, sqlite_where=_LIVE, postgresql_where=_LIVE)
Index("incidents_live_of_a_rule", incidents.c.rule, sqlite_where=_LIVE, postgresql_where=_LIVE)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("group_id", String(36), nullable=False),
    Column("number", Integer, nullable=False),
    Column("receiver", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("reason", String),
    Column("tried_at", UtcDateTime),
    Column("part", Integer, nullable=False, server_default="1"),
    Column("parts", Integer, nullable=False, server_default="1"),
    Column("priority", Integer, nullable=False, server_default="1"),
    Column("serial", BigInteger, nullable=False, server_default="0"),
    Index("deliveries_by_serial", "receiver", "serial", unique=True),
    Index("deliveries_of_a_group", "group_id", "receiver", "number", "part", unique=True),
)
_LAST_MOMENT = text("coalesce(tried_at, next_at)")
Index("deliveries_by_state", deliveries.c.state, _LAST_MOMENT)
Index("deliveries_by_receiver", deliveries.c.receiver, deliveries.c.state, _LAST_MOMENT)

_WAITING = text("state = 'waiting'")
for _name, _columns in (
    ("deliveries_waiting", (deliveries.c.receiver, deliveries.c.priority, deliveries.c.serial)),
    ("deliveries_waiting_in_order", (deliveries.c.receiver, deliveries.c.serial)),
):
    Index(_name, *_columns, sqlite_where=_WAITING, postgresql_where=_WAITING)

_ENDED = text("state <> 'waiting'")
Index(
    "deliveries_ended",
    deliveries.c.next_at,
    sqlite_where=_ENDED,
    postgresql_where=_ENDED,
)

serials = Table(
    "serials",
    metadata,
    Column("receiver", String, primary_key=True),
    # The highest serial among its deleted deliveries, so that none is used twice.
    Column("serial", BigInteger, nullable=False),
)

delivery_incidents = Table(
    "delivery_incidents",
    metadata,
    Column("delivery_id", String(36), ForeignKey("deliveries.id"), primary_key=True),
    Column("incident_id", String(36), ForeignKey("incidents.id"), primary_key=True, index=True),
    Column("revision", Integer, nullable=False),
)

groups = Table(
    "groups",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("receiver", String, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("number", Integer, nullable=False),
    Column("due_at", UtcDateTime, index=True),
    Column("told_at", UtcDateTime),
    Column("camera", String, nullable=False, server_default=""),
    Column("weight", Integer, nullable=False, server_default="0"),
    Column("has_news", Boolean, nullable=False, server_default=false()),
    Index("groups_with_news", "has_news"),
    Index("groups_due", "receiver", "due_at"),
    Index("groups_due_by_weight", "receiver", "weight", "due_at"),
    Index("groups_by_camera", "receiver", "camera", "told_at"),
)

notices = Table(
    "notices",
    metadata,
    Column("incident_id", String(36), ForeignKey("incidents.id"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("receiver", String, primary_key=True),
    Column("group_id", String(36), ForeignKey("groups.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("why", String),
    Column("delivery_id", String(36), ForeignKey("deliveries.id"), index=True),
    Column("is_current", Boolean, nullable=False),
    Index("notices_of_a_group", "group_id", "is_current"),
    Index("notices_of_an_incident", "incident_id", "receiver", "state", "kind"),
)
Index(
    "notices_muted",
    notices.c.group_id,
    sqlite_where=text("state = 'muted' AND is_current = 1"),
    postgresql_where=text("state = 'muted' AND is_current"),
)

silences = Table(
    "silences",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("matchers", JSON, nullable=False),
    Column("start", UtcDateTime, nullable=False),
    Column("end", UtcDateTime, nullable=False, index=True),
    Column("who", String, nullable=False),
    Column("comment", String, nullable=False),
)

buckets = Table(
    "buckets",
    metadata,
    Column("receiver", String, primary_key=True),
    Column("tokens", Float, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("borrowed_at", UtcDateTime),
)

receivers = Table(
    "receivers",
    metadata,
    Column("name", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

positions = Table(
    "positions",
    metadata,
    Column("reader", String, primary_key=True),
    Column("topic", String, primary_key=True),
    Column("next", BigInteger, nullable=False),
    Column("log", String),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("key", String, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("process", String, nullable=False),
    Column("version", String, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
)

coverage = Table(
    "coverage",
    metadata,
    Column("camera", String, primary_key=True),
    Column("start", UtcDateTime, primary_key=True),
    Column("end", UtcDateTime, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False, server_default=""),
    Index("coverage_by_end", "camera", "end"),
    Index("coverage_by_state", "state", "start"),
)
