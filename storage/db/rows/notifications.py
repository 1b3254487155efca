"""The rows of notifications, of their groups, and of the receivers' token buckets."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    exists,
    literal_column,
    select,
    update,
)

from storage.db import tables
from storage.db.rows.row_mapping import incident_from_row
from storage.db.sql.collation import by_code_point
from storage.db.sql.paging import paginate
from storage.db.sql.upsert import dialect_insert
from storage.records.deliveries import DeliveryState
from storage.records.notifications import (
    DIGEST,
    ChangeKind,
    GroupedIncident,
    Notification,
    NotificationGroup,
    NotificationState,
    TokenBucket,
    group_id,
)
from storage.records.records import Incident, IncidentState

_GROUPS, _NOTICES, _INCIDENTS = tables.groups, tables.notices, tables.incidents
_GROUP = [column for column in _GROUPS.c if column.name != "has_news"]
_FIRING = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)


class NotificationRows:
    """Notices, groups and buckets in one open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def enqueue(
        self, incident: Incident, kind: ChangeKind, groups: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Write that receivers are to hear of a change: for each the labels of its group."""
        for receiver, labels in groups.items():
            id = self.ensure_group(receiver, labels)
            self._write(incident, kind, receiver, str(id))

    def enqueue_followup(self, incident: Incident, kind: ChangeKind) -> None:
        """Write that those who had a notice of an incident before are to hear of a change."""
        condition = _NOTICES.c.incident_id == str(incident.id)
        query = select(_NOTICES.c.receiver, _NOTICES.c.group_id).where(condition).distinct()
        for row in self._connection.execute(query).all():
            self._write(incident, kind, row.receiver, row.group_id)

    def ensure_group(self, receiver: str, labels: Mapping[str, str]) -> UUID:
        """Return the id of a group, which is there from now on."""
        return self._ensure(group_id(receiver, labels), receiver, labels)

    def ensure_digest_group(self, receiver: str) -> UUID:
        """Return the id of the group of a receiver's digests; its label is no other database's."""
        id = group_id(receiver, {DIGEST: receiver})
        return self._ensure(id, receiver, {DIGEST: str(uuid4())})

    def _ensure(self, id: UUID, receiver: str, labels: Mapping[str, str]) -> UUID:
        row = {
            "id": str(id),
            "receiver": receiver,
            "labels": dict(labels),
            "number": 0,
            "camera": labels.get("camera", ""),
        }
        self._connection.execute(
            dialect_insert(self._connection, _GROUPS).values(row).on_conflict_do_nothing()
        )
        return id

    def group(self, id: UUID) -> NotificationGroup:
        """Return a group as it stands."""
        query = select(*_GROUP).where(_GROUPS.c.id == str(id))
        return group_from_fields(self._connection.execute(query).one()._asdict())

    def grouped_incidents(
        self, groups: Sequence[NotificationGroup]
    ) -> dict[UUID, list[GroupedIncident]]:
        """Return the incidents that groups are not done with, oldest first."""
        found: dict[UUID, list[GroupedIncident]] = {group.id: [] for group in groups}
        ids = [str(group.id) for group in groups]
        for page in paginate(ids):
            for member in self._members(page):
                found[member.notification.group_id].append(member)
        for members in found.values():
            members.sort(key=lambda each: (each.incident.first_seen_at, each.incident.id))
        return found

    def _members(self, ids: Sequence[str]) -> list[GroupedIncident]:
        conditions = (_NOTICES.c.group_id.in_(ids), _NOTICES.c.is_current)
        incidents = self._connection.execute(
            select(_INCIDENTS)
            .join(_NOTICES, _NOTICES.c.incident_id == _INCIDENTS.c.id)
            .where(*conditions)
        )
        known = {row.id: incident_from_row(row) for row in incidents}
        rows = self._connection.execute(_members_query().where(*conditions)).all()
        return [_member_from_row(row, known[row.incident_id]) for row in rows]

    def save_group(self, group: NotificationGroup) -> None:
        """Write how a group stands now."""
        self.save_groups([group])

    def save_groups(self, groups: Iterable[NotificationGroup]) -> None:
        """Write how groups stand now."""
        rows = [
            {
                "of_id": str(group.id),
                "number": group.number,
                "due_at": group.due_at,
                "told_at": group.told_at,
                "weight": group.weight,
            }
            for group in groups
        ]
        if rows:
            statement = update(_GROUPS).where(_GROUPS.c.id == bindparam("of_id"))
            self._connection.execute(statement, rows)

    def clear_news(self, groups: Iterable[NotificationGroup]) -> None:
        """Write that what is new in groups has been seen."""
        rows = [{"of_id": str(group.id), "has_news": False} for group in groups]
        if rows:
            statement = update(_GROUPS).where(_GROUPS.c.id == bindparam("of_id"))
            self._connection.execute(statement, rows)

    def save_notifications(self, notifications: Iterable[Notification]) -> None:
        """Write the new states of notifications."""
        rows = [
            {
                "of_incident": str(notification.incident_id),
                "of_revision": notification.revision,
                "of_receiver": notification.receiver,
                "state": notification.state,
                "why": notification.mute_reason,
                "delivery_id": notification.delivery_id and str(notification.delivery_id),
                "is_current": notification.is_current,
            }
            for notification in notifications
        ]
        statement = update(_NOTICES).where(
            _NOTICES.c.incident_id == bindparam("of_incident"),
            _NOTICES.c.revision == bindparam("of_revision"),
            _NOTICES.c.receiver == bindparam("of_receiver"),
        )
        if rows:
            self._connection.execute(statement, rows)

    def firing_incidents(self, rules: Iterable[str]) -> list[Incident]:
        """Return the incidents of these rules that are open or acknowledged."""
        named = _INCIDENTS.c.rule.in_(sorted(rules))
        live = _INCIDENTS.c.closed_at.is_(None)
        query = select(_INCIDENTS).where(named, live, _INCIDENTS.c.state.in_(_FIRING))
        return [incident_from_row(row) for row in self._connection.execute(query)]

    def bucket(self, receiver: str) -> TokenBucket | None:
        """Return the bucket of a receiver, if it ever took from it."""
        table = tables.buckets
        query = select(table.c.tokens, table.c.at, table.c.borrowed_at)
        row = self._connection.execute(query.where(table.c.receiver == receiver)).one_or_none()
        return None if row is None else TokenBucket(**row._asdict())

    def save_bucket(self, receiver: str, bucket: TokenBucket) -> None:
        """Write how the bucket of a receiver stands now."""
        row = {"tokens": bucket.tokens, "at": bucket.at, "borrowed_at": bucket.borrowed_at}
        statement = dialect_insert(self._connection, tables.buckets).values(
            receiver=receiver, **row
        )
        statement = statement.on_conflict_do_update(index_elements=["receiver"], set_=row)
        self._connection.execute(statement)

    def _write(self, incident: Incident, kind: ChangeKind, receiver: str, group: str) -> None:
        condition = and_(
            _NOTICES.c.incident_id == str(incident.id),
            _NOTICES.c.receiver == receiver,
            _NOTICES.c.revision < incident.revision,
        )
        new_state = case(
            (_NOTICES.c.state == NotificationState.WAITING, NotificationState.SUPERSEDED),
            else_=_NOTICES.c.state,
        )
        if incident.revision > 1:
            earlier = update(_NOTICES).where(condition, _NOTICES.c.is_current)
            self._connection.execute(earlier.values(is_current=False, state=new_state))
        row = {
            "incident_id": str(incident.id),
            "revision": incident.revision,
            "receiver": receiver,
            "group_id": group,
            "kind": kind,
            "state": NotificationState.WAITING,
            "is_current": True,
        }
        self._connection.execute(
            dialect_insert(self._connection, _NOTICES).values(row).on_conflict_do_nothing()
        )
        mark_changed = update(_GROUPS).where(_GROUPS.c.id == group)
        self._connection.execute(mark_changed.values(has_news=True))


def notifications_query(incident_id: UUID) -> Select[Any]:
    """Return the query for the notices of an incident, in order."""
    query = select(_NOTICES).where(_NOTICES.c.incident_id == str(incident_id))
    return query.order_by(_NOTICES.c.revision, by_code_point(_NOTICES.c.receiver))


def requeue_muted_groups(now: datetime) -> Any:
    """Return the statement that makes the groups due that hold something muted."""
    muted = and_(_NOTICES.c.state == literal_column("'muted'"), _NOTICES.c.is_current)
    group_ids = select(_NOTICES.c.group_id).where(muted)
    return update(_GROUPS).where(_GROUPS.c.id.in_(group_ids)).values(due_at=now)


def group_from_fields(fields: Mapping[str, Any]) -> NotificationGroup:
    """Return a group from the fields of its row."""
    return NotificationGroup(**{**fields, "id": UUID(fields["id"])})


def notification_from_row(row: Row[Any]) -> Notification:
    """Return a notice from its row."""
    return Notification(
        incident_id=UUID(row.incident_id),
        revision=row.revision,
        receiver=row.receiver,
        group_id=UUID(row.group_id),
        kind=ChangeKind(row.kind),
        state=NotificationState(row.state),
        mute_reason=row.why,
        delivery_id=UUID(row.delivery_id) if row.delivery_id else None,
        is_current=row.is_current,
    )


def _members_query() -> Select[Any]:
    return select(
        _NOTICES,
        _any_earlier(_FIRING_NOTIFIED).label("firing_told"),
        _any_earlier(_MUTED).label("was_muted"),
        _DELIVERY_WAITS.label("on_its_way"),
    )


_OTHER = _NOTICES.alias()
_FIRING_NOTIFIED = and_(
    _OTHER.c.state == NotificationState.SENT, _OTHER.c.kind != ChangeKind.RESOLVED
)
_MUTED = _OTHER.c.state == NotificationState.MUTED
_DELIVERY_WAITS = exists().where(
    tables.deliveries.c.id == _NOTICES.c.delivery_id,
    tables.deliveries.c.state == DeliveryState.WAITING,
)


def _any_earlier(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return whether some notice of the same incident to the same receiver is so."""
    return exists().where(
        _OTHER.c.incident_id == _NOTICES.c.incident_id,
        _OTHER.c.receiver == _NOTICES.c.receiver,
        condition,
    )


def _member_from_row(row: Row[Any], incident: Incident) -> GroupedIncident:
    return GroupedIncident(
        incident=incident,
        notification=notification_from_row(row),
        was_firing_notified=row.firing_told,
        was_muted=row.was_muted,
        is_in_flight=row.on_its_way,
    )
