"""The tables: what was found, what it came to, and what is still to be delivered."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
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
    text,
)
from sqlalchemy.types import TypeDecorator


class Instant(TypeDecorator[datetime]):
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
    Column("start", Instant, nullable=False),
    Column("end", Instant, nullable=False),
    Column("score", Float, nullable=False),
    Column("margin", Float, nullable=False),
    Column("answer", String, nullable=False),
    Column("since", Instant, nullable=False),
    Column("model", String, nullable=False),
    Column("memory_span", Float, nullable=False),
    Column("second_look", Float, nullable=True),
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
    Column("first_seen_at", Instant, nullable=False, index=True),
    Column("opened_at", Instant),
    Column("last_seen_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("evidence", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
)

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

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("incident_id", String(36), ForeignKey("incidents.id"), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("receiver", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Instant, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("deliveries_by_receiver", "receiver", "state"),
)

positions = Table(
    "positions",
    metadata,
    Column("reader", String, primary_key=True),
    Column("topic", String, primary_key=True),
    Column("next", BigInteger, nullable=False),
)
