"""What the database keeps for the log until the log has it.

Of revisions that is the audit trail, which has each of them in order, with the position behind
the last that was appended. Dead letters have a table, and leave it once they were appended.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from storage import tables
from storage.frames import VERSION, as_json
from storage.incidents import IncidentStore
from storage.insert import insert
from storage.ledger import Ledger, Work
from storage.log import DEAD, INCIDENTS, Message
from storage.wire import Dead, encode_dead

PUBLISHER, TRAIL = "publisher", "audit"
"""The reader of the trail, as it is in the table of positions."""

_AUDIT, _DEAD = tables.audit, tables.dead_letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A message that waits for the log, by its number in its table.

    None in place of an entry of the trail that holds no revision: only a hand can have written it.
    """

    number: int
    message: Message | None


def set_aside(ledger: Ledger, dead: Sequence[Dead]) -> None:
    """Keep dead letters for the log, in the transaction that moves behind what they are of."""
    if dead:
        rows = [{"key": each.key, "value": encode_dead(each)} for each in dead]
        ledger.connection.execute(insert(ledger.connection, _DEAD), rows)
        ledger.leaves.add(Work.PUBLISH)


def revisions(store: IncidentStore, position: int, limit: int) -> list[Waiting]:
    """Return the entries at or after a position of the trail, in order."""
    query = select(_AUDIT.c.number, _AUDIT.c.entry).where(_AUDIT.c.number >= position)
    rows = store.rows(query.order_by(_AUDIT.c.number).limit(limit))
    return [Waiting(number=row.number, message=_revision(row.entry)) for row in rows]


def dead_letters(store: IncidentStore, limit: int) -> list[Waiting]:
    """Return the oldest dead letters that wait."""
    rows = store.rows(select(_DEAD).order_by(_DEAD.c.number).limit(limit))
    return [
        Waiting(number=row.number, message=Message(topic=DEAD, key=row.key, value=row.value))
        for row in rows
    ]


def forget_dead_letters(ledger: Ledger, letters: Sequence[Waiting]) -> None:
    """Remove dead letters that the log has."""
    numbers = [each.number for each in letters]
    ledger.connection.execute(delete(_DEAD).where(_DEAD.c.number.in_(numbers)))


def _revision(entry: str) -> Message | None:
    try:
        fields = json.loads(entry)["incident"]
        value = as_json({"version": VERSION} | fields)
        return Message(topic=INCIDENTS, key=str(fields["camera"]), value=value)
    except (ValueError, KeyError, TypeError):
        return None
