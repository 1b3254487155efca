"""What people do beside incidents, and what retention does: a sealed chain of its own.

An act is written in the transaction of what it tells of: both are kept, or neither. See
`storage.chain` for what its digests prove.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice

from sqlalchemy import Connection, insert, select

from storage import tables
from storage.chain import beginning, last_of, links, rows

BEGINNING = beginning("longwatch acts")
_ACTS = tables.acts


class How(StrEnum):
    """By what an act was done."""

    CLI = "cli"
    CONSOLE = "console"
    API = "api"
    RETENTION = "retention"
    ALERTS = "alerts"


class ActKind(StrEnum):
    """What was done, to what kind of object."""

    SILENCE_ADD = "silence add"
    SILENCE_EXPIRE = "silence expire"
    RECEIVER_ENABLE = "receiver enable"
    DELIVERY_REPLAY = "delivery replay"
    RECEIVER_REPLAY = "receiver replay"
    INCIDENT_ACKNOWLEDGE = "incident acknowledge"
    INCIDENT_RESOLVE = "incident resolve"
    INCIDENT_NOTE = "incident note"
    TRAIL_FORGET = "trail forget"
    DATABASE_REWIND = "database rewind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts, by login or by the name they gave, and by what."""

    who: str
    how: How


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """An act on an object: an id, or the name of a receiver.

    `details` says what it came to, `note` is what the actor said. `seals` are those of the
    checkpoints that removed entries of the audit trail.
    """

    actor: Actor
    kind: ActKind
    object: str
    details: str = ""
    note: str = ""
    seals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActEntry:
    """An act as the chain has it: its number and when it was written."""

    number: int
    at: datetime
    act: Act


def append(connection: Connection, act: Act) -> int:
    """Write an act at the end of its chain, in a transaction that keeps other writers out.

    Return its number.
    """
    last = last_of(connection, _ACTS) or BEGINNING
    (link,) = links(last, [_fields(act, datetime.now(UTC))])
    row = {"number": link.number, "entry": link.entry, "digest": link.digest}
    connection.execute(insert(_ACTS).values(row))
    return link.number


def newest(connection: Connection, limit: int, *, of_retention: bool = True) -> list[ActEntry]:
    """Return acts, the last ones first; those `of_retention` may be left out."""
    query = select(_ACTS.c.entry).order_by(_ACTS.c.number.desc())
    found = (entry_of(row.entry) for row in rows(connection, query))
    wanted = (e for e in found if of_retention or e.act.actor.how is not How.RETENTION)
    return list(islice(wanted, limit))


def entry_of(text: str) -> ActEntry:
    """Read an entry of the chain; ValueError, KeyError or TypeError where it is none."""
    fields = json.loads(text)
    act = Act(
        actor=Actor(who=fields["who"], how=How(fields["how"])),
        kind=ActKind(fields["act"]),
        object=fields["object"],
        details=fields["details"],
        note=fields["note"],
        seals=tuple(fields.get("seals", ())),
    )
    return ActEntry(number=fields["number"], at=datetime.fromisoformat(fields["at"]), act=act)


def _fields(act: Act, at: datetime) -> dict[str, object]:
    fields = {
        "at": at.isoformat(),
        "who": act.actor.who,
        "how": act.actor.how,
        "act": act.kind,
        "object": act.object,
        "details": act.details,
        "note": act.note,
    }
    return fields | ({"seals": list(act.seals)} if act.seals else {})
