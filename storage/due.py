"""Which groups a receiver is due to be told of, and what came into groups lately."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, case, exists, func, or_, select, update

from storage import tables
from storage.distinct import distinct_of
from storage.routing import Group, News, NoticeState, group_of
from storage.text_order import by_code_point

WEIGHTS = {"critical": 4, "high": 3, "medium": 2}
"""How much a severity weighs; any other weighs `LIGHTEST`."""
LIGHTEST, CRITICAL = 1, WEIGHTS["critical"]
_URGENT = ("critical", "high")
_AT_ONCE = 500

_GROUPS, _NOTICES, _INCIDENTS = tables.groups, tables.notices, tables.incidents
_GROUP = [column for column in _GROUPS.c if column.name != "has_news"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A group with something new.

    `opened_at` is when the first of its incidents that wait opened, `urgent_at` when the first
    of those opened that are of severity high or critical and fire.
    """

    group: Group
    opened_at: datetime | None
    urgent_at: datetime | None


def arrivals(connection: Connection) -> list[Arrival]:
    """Return groups with something new, their weights as they are now, at most 500."""
    waits = _NOTICES.c.state == NoticeState.WAITING
    urgent = and_(waits, _NOTICES.c.kind == News.OPENED, _INCIDENTS.c.severity.in_(_URGENT))
    opened = func.coalesce(_INCIDENTS.c.opened_at, _INCIDENTS.c.first_seen_at)
    lightest = case((_INCIDENTS.c.id.is_(None), 0), else_=LIGHTEST)
    of_it = and_(
        _NOTICES.c.group_id == _GROUPS.c.id,
        _NOTICES.c.is_current,
        or_(waits, _NOTICES.c.state == NoticeState.MUTED),
    )
    others = [column for column in _GROUP if column.name != "weight"]
    query = (
        select(
            *others,
            func.max(case(WEIGHTS, value=_INCIDENTS.c.severity, else_=lightest)).label("weight"),
            func.min(case((waits, opened))).label("opened_at"),
            func.min(case((urgent, opened))).label("urgent_at"),
        )
        .select_from(_GROUPS)
        .outerjoin(_NOTICES, of_it)
        .outerjoin(_INCIDENTS, _INCIDENTS.c.id == _NOTICES.c.incident_id)
        .where(_GROUPS.c.has_news)
        .group_by(_GROUPS.c.id)
        .limit(_AT_ONCE)
    )
    found = []
    for row in connection.execute(query):
        fields = row._asdict()
        opened_at, urgent_at = fields.pop("opened_at"), fields.pop("urgent_at")
        group = group_of(fields)
        found.append(Arrival(group=group, opened_at=opened_at, urgent_at=urgent_at))
    return found


def has_arrivals() -> Select[Any]:
    """Return the query whose one row is there when a group has something new."""
    return select(_GROUPS.c.id).where(_GROUPS.c.has_news).limit(1)


def has_later(latest: datetime) -> Select[Any]:
    """Return the query whose one row is there when a group is due later than it may be."""
    return select(_GROUPS.c.id).where(_GROUPS.c.due_at > latest).limit(1)


def next_due(now: datetime) -> Select[Any]:
    """Return the query for the next instant, if any, at which a group comes due."""
    return select(func.min(_GROUPS.c.due_at).label("due_at")).where(_GROUPS.c.due_at > now)


def take_back(connection: Connection, latest: datetime, now: datetime) -> None:
    """Make the groups due now that are due later than they may be."""
    connection.execute(update(_GROUPS).where(_GROUPS.c.due_at > latest).values(due_at=now))


def due_groups(connection: Connection, receiver: str, now: datetime, least: int) -> list[Group]:
    """Return the groups of a receiver that are due and weigh at least so much, oldest first."""
    due = (_GROUPS.c.receiver == receiver, _GROUPS.c.due_at <= now)
    query = select(*_GROUP).where(*due).order_by(_GROUPS.c.due_at, by_code_point(_GROUPS.c.id))
    if least:
        query = query.where(_GROUPS.c.weight >= least)
    return [group_of(row._asdict()) for row in connection.execute(query)]


def served(connection: Connection, receiver: str) -> dict[str, datetime]:
    """Return when a receiver was last told of each camera."""
    query = select(_GROUPS.c.camera, func.max(_GROUPS.c.told_at).label("told_at"))
    told = query.where(_GROUPS.c.receiver == receiver, _GROUPS.c.told_at.is_not(None))
    return {row.camera: row.told_at for row in connection.execute(told.group_by(_GROUPS.c.camera))}


def anything_waits(connection: Connection, receiver: str) -> bool:
    """Return whether something waits that a receiver was not told of, and is not muted."""
    waits = exists().where(
        _NOTICES.c.group_id == _GROUPS.c.id,
        _NOTICES.c.is_current,
        _NOTICES.c.state == NoticeState.WAITING,
    )
    lively = or_(_GROUPS.c.weight > 0, _GROUPS.c.has_news)
    query = select(_GROUPS.c.id).where(_GROUPS.c.receiver == receiver, lively, waits)
    return connection.execute(query.limit(1)).first() is not None


def due_receivers(now: datetime, held: Collection[str]) -> Select[Any]:
    """Return the query for the receivers, but for those `held`, that have a group due.

    No group of those that are held is looked at.
    """
    receiver = distinct_of(_GROUPS.c.receiver, "names").c.value
    due = exists().where(_GROUPS.c.receiver == receiver, _GROUPS.c.due_at <= now)
    return select(receiver.label("receiver")).where(
        receiver.is_not(None), receiver.not_in(sorted(held)), due
    )


def critical_receivers(now: datetime, receivers: Collection[str]) -> Select[Any]:
    """Return the query for those of the receivers that a critical incident waits for."""
    return (
        select(_GROUPS.c.receiver)
        .where(
            _GROUPS.c.receiver.in_(sorted(receivers)),
            _GROUPS.c.weight == CRITICAL,
            _GROUPS.c.due_at <= now,
        )
        .distinct()
    )


def weight_of(severity: str) -> int:
    """Return how much a severity weighs."""
    return WEIGHTS.get(severity, LIGHTEST)
