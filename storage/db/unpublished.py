"""What the database keeps for the log until the log has it.

Of revisions that is the audit trail, which has each of them in order, with the position behind
the last that was appended. Dead letters have a table, and leave it once they were appended.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from storage.db import tables
from storage.db.alert_store import AlertStore
from storage.db.sql.upsert import dialect_insert
from storage.db.transaction import PendingWork, Transaction
from storage.log.log import LogMessage
from storage.records.framing import VERSION, encode_json
from storage.records.records import DeadLetter
from storage.records.topics import DEAD_LETTERS, INCIDENTS
from storage.records.wire import encode_dead_letter

PUBLISHER_GROUP, AUDIT_TOPIC = "publisher", "audit"
"""The reader of the trail, as it is in the table of positions."""

_AUDIT, _DEAD_LETTERS = tables.audit, tables.dead_letters


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpublishedMessage:
    """A message that waits for the log, by its number in its table.

    None in place of an entry of the trail that holds no revision: only a hand can have written it.
    """

    number: int
    message: LogMessage | None


def add_dead_letters(transaction: Transaction, dead_letters: Sequence[DeadLetter]) -> None:
    """Keep dead letters for the log, in the transaction that moves behind what they are of."""
    if dead_letters:
        rows = [{"key": each.key, "value": encode_dead_letter(each)} for each in dead_letters]
        transaction.connection.execute(dialect_insert(transaction.connection, _DEAD_LETTERS), rows)
        transaction.pending_work.add(PendingWork.PUBLISH)


def unpublished_revisions(store: AlertStore, offset: int, limit: int) -> list[UnpublishedMessage]:
    """Return the entries at or after a position of the trail, in order."""
    query = select(_AUDIT.c.number, _AUDIT.c.entry).where(_AUDIT.c.number >= offset)
    rows = store.rows(query.order_by(_AUDIT.c.number).limit(limit))
    return [
        UnpublishedMessage(number=row.number, message=_revision_message(row.entry)) for row in rows
    ]


def unpublished_dead_letters(store: AlertStore, limit: int) -> list[UnpublishedMessage]:
    """Return the oldest dead letters that wait."""
    rows = store.rows(select(_DEAD_LETTERS).order_by(_DEAD_LETTERS.c.number).limit(limit))
    return [
        UnpublishedMessage(
            number=row.number, message=LogMessage(topic=DEAD_LETTERS, key=row.key, value=row.value)
        )
        for row in rows
    ]


def delete_dead_letters(transaction: Transaction, letters: Sequence[UnpublishedMessage]) -> None:
    """Remove dead letters that the log has."""
    numbers = [each.number for each in letters]
    transaction.connection.execute(delete(_DEAD_LETTERS).where(_DEAD_LETTERS.c.number.in_(numbers)))


def _revision_message(entry: str) -> LogMessage | None:
    try:
        fields = json.loads(entry)["incident"]
        value = encode_json({"version": VERSION} | fields)
        return LogMessage(topic=INCIDENTS, key=str(fields["camera"]), value=value)
    except (ValueError, KeyError, TypeError):
        return None
