"""What is deleted once it is old: findings, incidents, deliveries, groups and silences.

What is due is read first, and deleted in a transaction of its own that holds the lock of writers
as briefly as it can. That transaction looks at each row again, since a person may have changed
it meanwhile. Nothing live is deleted, nor anything of which a receiver is still to be notified.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)

from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.audit import trail
from storage.db.rows.deliveries import is_waiting
from storage.db.rows.findings import release_findings
from storage.db.sql.upsert import dialect_insert
from storage.records.records import IncidentState

_FINDINGS, _INCIDENTS, _EVIDENCE = tables.findings, tables.incidents, tables.evidence
_NOTICES, _GROUPS, _SILENCES = tables.notices, tables.groups, tables.silences
_DELIVERIES, _DELIVERY_INCIDENTS = tables.deliveries, tables.delivery_incidents
_UNSENT = ("waiting", "muted")
"""The states of a current notice that is still to be sent."""


def _has_row(group: Column[str], next_in_index: Column[Any]) -> ColumnElement[bool]:
    """Return whether a table has rows of a group; only an order makes a server use the index."""
    of_it = select(group).where(group == _GROUPS.c.id).order_by(next_in_index).limit(1)
    return of_it.correlate(_GROUPS).scalar_subquery().is_not(None)


_IS_USED = or_(
    _has_row(_NOTICES.c.group_id, _NOTICES.c.is_current),
    _has_row(_DELIVERIES.c.group_id, _DELIVERIES.c.receiver),
    _GROUPS.c.due_at.is_not(None),
    _GROUPS.c.has_news,
)
"""Whether something refers to a group or waits in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupUsage:
    """A group by its id, and whether something refers to it or waits in it."""

    id: str
    is_used: bool


class ExpiredRows:
    """What is old in a store, the oldest first.

    Each method that deletes takes at most `limit` rows and returns how many it deleted.
    """

    def __init__(self, store: AlertStore) -> None:
        self._store = store

    def expired_incidents(
        self, state: IncidentState, before: datetime, limit: int
    ) -> Sequence[str]:
        """Return the ids of incidents closed in a state before an instant, of which all is done."""
        old = (_INCIDENTS.c.state == state, _INCIDENTS.c.closed_at < before)
        query = select(_INCIDENTS.c.id).where(*old, ~_has_pending_work())
        return self._ids(query.order_by(_INCIDENTS.c.closed_at).limit(limit))

    def delete_incidents(self, ids: Sequence[str]) -> int:
        """Delete closed incidents with all that is about them; their files must be gone before."""
        return self._delete(ids, _delete_incidents)

    def delete_deliveries(self, before: datetime, limit: int) -> int:
        """Delete deliveries that ended before an instant, with their bodies; their notices stay."""
        ended_at = func.coalesce(_DELIVERIES.c.tried_at, _DELIVERIES.c.next_at)
        # None is tried before it is due: the index on when it was due leaves out what is young.
        ended = (~is_waiting(), _DELIVERIES.c.next_at < before, ended_at < before)
        query = select(_DELIVERIES.c.id).where(*ended)
        ids = self._ids(query.order_by(_DELIVERIES.c.next_at).limit(limit))
        return self._delete(ids, _delete_deliveries)

    def delete_findings(self, before: datetime, limit: int) -> int:
        """Delete findings that ended before an instant, but not those behind an incident."""
        with self._store.read_transaction() as connection:
            unreferenced = _is_unreferenced(connection, before)
            query = select(_FINDINGS.c.id).where(unreferenced, _FINDINGS.c.end < before)
            ids = connection.execute(query.order_by(_FINDINGS.c.end).limit(limit)).scalars().all()

        def delete_them(connection: Connection, ids: Collection[str]) -> int:
            still = and_(_FINDINGS.c.id.in_(ids), _is_unreferenced(connection, before))
            return connection.execute(delete(_FINDINGS).where(still)).rowcount

        return self._delete(ids, delete_them)

    def groups_after(self, after: str, limit: int) -> Sequence[GroupUsage]:
        """Return the next groups after an id, used or not, in the order of their ids."""
        query = select(_GROUPS.c.id, _IS_USED.label("is_used")).where(_GROUPS.c.id > after)
        rows = self._store.rows(query.order_by(_GROUPS.c.id).limit(limit))
        return [GroupUsage(id=row.id, is_used=row.is_used) for row in rows]

    def delete_groups(self, ids: Sequence[str]) -> int:
        """Delete groups, but those that something refers to or waits in.

        One that is needed again counts its messages from 1; none of the earlier ones is there.
        """
        return self._delete(ids, _delete_groups)

    def delete_silences(self, before: datetime, limit: int) -> int:
        """Delete silences that ended before an instant."""
        query = select(_SILENCES.c.id).where(_SILENCES.c.end < before)

        def delete_them(connection: Connection, ids: Collection[str]) -> int:
            still = and_(_SILENCES.c.id.in_(ids), _SILENCES.c.end < before)
            return connection.execute(delete(_SILENCES).where(still)).rowcount

        return self._delete(self._ids(query.order_by(_SILENCES.c.end).limit(limit)), delete_them)

    def _ids(self, query: Select[Any]) -> Sequence[str]:
        return [row.id for row in self._store.rows(query)]

    def _delete(
        self, ids: Sequence[str], delete_rows: Callable[[Connection, Collection[str]], int]
    ) -> int:
        if not ids:
            return 0
        with self._store.transaction() as transaction:
            return delete_rows(transaction.connection, ids)


def _delete_incidents(connection: Connection, ids: Collection[str]) -> int:
    deletable = (_INCIDENTS.c.closed_at.is_not(None), ~_has_pending_work())
    rows = connection.execute(
        select(_INCIDENTS.c.id, _INCIDENTS.c.evidence).where(_INCIDENTS.c.id.in_(ids), *deletable)
    ).all()
    deleted = [row.id for row in rows]
    if deleted:
        release_findings(connection, [row.evidence for row in rows])
        trail.remove_incidents(connection, deleted)
        for table in (_EVIDENCE, _NOTICES, _DELIVERY_INCIDENTS):
            connection.execute(delete(table).where(table.c.incident_id.in_(deleted)))
        connection.execute(delete(_INCIDENTS).where(_INCIDENTS.c.id.in_(deleted)))
    return len(deleted)


def _delete_deliveries(connection: Connection, ids: Collection[str]) -> int:
    ended = (_DELIVERIES.c.id.in_(ids), ~is_waiting())
    columns = (_DELIVERIES.c.id, _DELIVERIES.c.receiver, _DELIVERIES.c.serial)
    rows = connection.execute(select(*columns).where(*ended).order_by(_DELIVERIES.c.serial)).all()
    deleted = [row.id for row in rows]
    if deleted:
        _save_last_serials(connection, {row.receiver: row.serial for row in rows})
        clear_references = update(_NOTICES).where(_NOTICES.c.delivery_id.in_(deleted))
        connection.execute(clear_references.values(delivery_id=None))
        connection.execute(
            delete(_DELIVERY_INCIDENTS).where(_DELIVERY_INCIDENTS.c.delivery_id.in_(deleted))
        )
        connection.execute(delete(_DELIVERIES).where(_DELIVERIES.c.id.in_(deleted)))
    return len(deleted)


def _delete_groups(connection: Connection, ids: Collection[str]) -> int:
    query = select(_GROUPS.c.id, _IS_USED.label("is_used")).where(_GROUPS.c.id.in_(ids))
    unused = [row.id for row in connection.execute(query) if not row.is_used]
    return connection.execute(delete(_GROUPS).where(_GROUPS.c.id.in_(unused))).rowcount


def _save_last_serials(connection: Connection, last: dict[str, int]) -> None:
    """Write the last serial of each receiver, so that no later delivery has it again."""
    table = tables.serials
    rows = [{"receiver": receiver, "serial": serial} for receiver, serial in last.items()]
    statement = dialect_insert(connection, table)
    new = statement.excluded.serial
    statement = statement.on_conflict_do_update(
        index_elements=["receiver"], set_={"serial": new}, where=table.c.serial < new
    )
    connection.execute(statement, rows)


def _is_unreferenced(connection: Connection, before: datetime) -> ColumnElement[bool]:
    """Return whether a finding that ended before an instant is behind no incident.

    A live incident is counted when it closes; all findings behind it ended after it began.
    """
    on_server = connection.dialect.name == "postgresql"
    unnest = func.json_array_elements_text if on_server else func.json_each
    each = unnest(_INCIDENTS.c.evidence).table_valued("value")
    # As an expression, so that SQLite takes the index of the live, not of all that began before.
    began = func.coalesce(_INCIDENTS.c.first_seen_at, before)
    long_live = and_(_INCIDENTS.c.closed_at.is_(None), began < before)
    evidence = select(each.c.value).select_from(_INCIDENTS.join(each, true())).where(long_live)
    return and_(_FINDINGS.c.incidents == literal_column("0"), _FINDINGS.c.id.not_in(evidence))


def _has_pending_work() -> ColumnElement[bool]:
    """Return whether something is still to be done about a closed incident."""
    unsent = exists().where(
        _NOTICES.c.incident_id == _INCIDENTS.c.id,
        _NOTICES.c.is_current,
        _NOTICES.c.state.in_(_UNSENT),
    )
    in_delivery = exists().where(
        _DELIVERY_INCIDENTS.c.incident_id == _INCIDENTS.c.id,
        _DELIVERIES.c.id == _DELIVERY_INCIDENTS.c.delivery_id,
        is_waiting(),
    )
    unsettled = exists().where(
        _EVIDENCE.c.incident_id == _INCIDENTS.c.id, _EVIDENCE.c.settled_at.is_(None)
    )
    return or_(unsent, in_delivery, unsettled)
