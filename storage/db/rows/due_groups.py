"""Which groups a receiver is due to be told of, and what came into groups lately."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, case, exists, func, or_, select, update

from storage.db import tables
from storage.db.rows.notifications import group_from_fields
from storage.db.sql.collation import by_code_point
from storage.db.sql.distinct import distinct_values_cte
from storage.records.notifications import ChangeKind, NotificationGroup, NotificationState

SEVERITY_WEIGHTS = {"critical": 4, "high": 3, "medium": 2}
"""How much a severity weighs; any other weighs `MIN_WEIGHT`."""
MIN_WEIGHT, CRITICAL_WEIGHT = 1, SEVERITY_WEIGHTS["critical"]
_URGENT = ("critical", "high")
_PAGE_SIZE = 500

_GROUPS, _NOTICES, _INCIDENTS = tables.groups, tables.notices, tables.incidents
_GROUP = [column for column in _GROUPS.c if column.name != "has_news"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedGroup:
    """A group with something new.

    `opened_at` is when the first of its incidents that wait opened, `urgent_at` when the first
    of those opened that are of severity high or critical and fire.
    """

    group: NotificationGroup
    opened_at: datetime | None
    urgent_at: datetime | None


def changed_groups(connection: Connection) -> list[ChangedGroup]:
    """Return groups with something new, their weights as they are now, at most 500."""
    waits = _NOTICES.c.state == NotificationState.WAITING
    urgent = and_(waits, _NOTICES.c.kind == ChangeKind.OPENED, _INCIDENTS.c.severity.in_(_URGENT))
    opened = func.coalesce(_INCIDENTS.c.opened_at, _INCIDENTS.c.first_seen_at)
    lightest = case((_INCIDENTS.c.id.is_(None), 0), else_=MIN_WEIGHT)
    condition = and_(
        _NOTICES.c.group_id == _GROUPS.c.id,
        _NOTICES.c.is_current,
        or_(waits, _NOTICES.c.state == NotificationState.MUTED),
    )
    others = [column for column in _GROUP if column.name != "weight"]
    query = (
        select(
            *others,
            func.max(case(SEVERITY_WEIGHTS, value=_INCIDENTS.c.severity, else_=lightest)).label(
                "weight"
            ),
            func.min(case((waits, opened))).label("opened_at"),
            func.min(case((urgent, opened))).label("urgent_at"),
        )
        .select_from(_GROUPS)
        .outerjoin(_NOTICES, condition)
        .outerjoin(_INCIDENTS, _INCIDENTS.c.id == _NOTICES.c.incident_id)
        .where(_GROUPS.c.has_news)
        .group_by(_GROUPS.c.id)
        .limit(_PAGE_SIZE)
    )
    found = []
    for row in connection.execute(query):
        fields = row._asdict()
        opened_at, urgent_at = fields.pop("opened_at"), fields.pop("urgent_at")
        group = group_from_fields(fields)
        found.append(ChangedGroup(group=group, opened_at=opened_at, urgent_at=urgent_at))
    return found


def any_changed_group_query() -> Select[Any]:
    """Return the query whose one row is there when a group has something new."""
    return select(_GROUPS.c.id).where(_GROUPS.c.has_news).limit(1)


def any_due_after_query(latest: datetime) -> Select[Any]:
    """Return the query whose one row is there when a group is due later than it may be."""
    return select(_GROUPS.c.id).where(_GROUPS.c.due_at > latest).limit(1)


def next_due_query(now: datetime) -> Select[Any]:
    """Return the query for the next instant, if any, at which a group comes due."""
    return select(func.min(_GROUPS.c.due_at).label("due_at")).where(_GROUPS.c.due_at > now)


def clamp_due_times(connection: Connection, latest: datetime, now: datetime) -> None:
    """Make the groups due now that are due later than they may be."""
    connection.execute(update(_GROUPS).where(_GROUPS.c.due_at > latest).values(due_at=now))


def due_groups(
    connection: Connection, receiver: str, now: datetime, min_weight: int
) -> list[NotificationGroup]:
    """Return the groups of a receiver that are due and weigh at least so much, oldest first."""
    due = (_GROUPS.c.receiver == receiver, _GROUPS.c.due_at <= now)
    query = select(*_GROUP).where(*due).order_by(_GROUPS.c.due_at, by_code_point(_GROUPS.c.id))
    if min_weight:
        query = query.where(_GROUPS.c.weight >= min_weight)
    return [group_from_fields(row._asdict()) for row in connection.execute(query)]


def last_notified_by_camera(connection: Connection, receiver: str) -> dict[str, datetime]:
    """Return when a receiver was last told of each camera."""
    query = select(_GROUPS.c.camera, func.max(_GROUPS.c.told_at).label("told_at"))
    notified = query.where(_GROUPS.c.receiver == receiver, _GROUPS.c.told_at.is_not(None))
    return {
        row.camera: row.told_at for row in connection.execute(notified.group_by(_GROUPS.c.camera))
    }


def has_pending(connection: Connection, receiver: str) -> bool:
    """Return whether something waits that a receiver was not told of, and is not muted."""
    is_waiting = exists().where(
        _NOTICES.c.group_id == _GROUPS.c.id,
        _NOTICES.c.is_current,
        _NOTICES.c.state == NotificationState.WAITING,
    )
    can_have_waiting = or_(_GROUPS.c.weight > 0, _GROUPS.c.has_news)
    query = select(_GROUPS.c.id).where(_GROUPS.c.receiver == receiver, can_have_waiting, is_waiting)
    return connection.execute(query.limit(1)).first() is not None


def due_receivers_query(now: datetime, excluded: Collection[str]) -> Select[Any]:
    """Return the query for the receivers, but for those `held`, that have a group due.

    No group of those that are held is looked at.
    """
    receiver = distinct_values_cte(_GROUPS.c.receiver, "names").c.value
    due = exists().where(_GROUPS.c.receiver == receiver, _GROUPS.c.due_at <= now)
    return select(receiver.label("receiver")).where(
        receiver.is_not(None), receiver.not_in(sorted(excluded)), due
    )


def critical_receivers_query(now: datetime, receivers: Collection[str]) -> Select[Any]:
    """Return the query for those of the receivers that a critical incident waits for."""
    return (
        select(_GROUPS.c.receiver)
        .where(
            _GROUPS.c.receiver.in_(sorted(receivers)),
            _GROUPS.c.weight == CRITICAL_WEIGHT,
            _GROUPS.c.due_at <= now,
        )
        .distinct()
    )


def severity_weight(severity: str) -> int:
    """Return how much a severity weighs."""
    return SEVERITY_WEIGHTS.get(severity, MIN_WEIGHT)
