"""What people do beside incidents, and what retention does: a sealed chain of its own.

An act is written in the transaction of what it tells of: both are kept, or neither. See
`storage.db.audit.hash_chain` for what its digests prove.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice

from sqlalchemy import Connection, insert, select

from storage.db import tables
from storage.db.audit.hash_chain import chain_entries, genesis, last_anchor
from storage.db.sql.paging import stream_rows

GENESIS = genesis("longwatch acts")
_ACTS = tables.acts


class ActionOrigin(StrEnum):
    """By what an act was done."""

    CLI = "cli"
    CONSOLE = "console"
    API = "api"
    RETENTION = "retention"
    ALERTS = "alerts"


class ActionKind(StrEnum):
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
class AuditActor:
    """Who acts, by login or by the name they gave, and by what."""

    who: str
    origin: ActionOrigin


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditAction:
    """An act on an object: an id, or the name of a receiver.

    `details` says what it came to, `note` is what the actor said. `seals` are those of the
    checkpoints that removed entries of the audit trail.
    """

    actor: AuditActor
    kind: ActionKind
    object: str
    details: str = ""
    note: str = ""
    seals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditActionEntry:
    """An act as the chain has it: its number and when it was written."""

    number: int
    at: datetime
    action: AuditAction


def append_action(connection: Connection, action: AuditAction) -> int:
    """Write an act at the end of its chain, in a transaction that keeps other writers out.

    Return its number.
    """
    last = last_anchor(connection, _ACTS) or GENESIS
    (link,) = chain_entries(last, [_fields(action, datetime.now(UTC))])
    row = {"number": link.number, "entry": link.entry, "digest": link.digest}
    connection.execute(insert(_ACTS).values(row))
    return link.number


def newest_actions(
    connection: Connection, limit: int, *, of_retention: bool = True
) -> list[AuditActionEntry]:
    """Return acts, the last ones first; those `of_retention` may be left out."""
    query = select(_ACTS.c.entry).order_by(_ACTS.c.number.desc())
    found = (parse_action_entry(row.entry) for row in stream_rows(connection, query))
    wanted = (
        e for e in found if of_retention or e.action.actor.origin is not ActionOrigin.RETENTION
    )
    return list(islice(wanted, limit))


def parse_action_entry(text: str) -> AuditActionEntry:
    """Read an entry of the chain; ValueError, KeyError or TypeError where it is none."""
    fields = json.loads(text)
    action = AuditAction(
        actor=AuditActor(who=fields["who"], origin=ActionOrigin(fields["how"])),
        kind=ActionKind(fields["act"]),
        object=fields["object"],
        details=fields["details"],
        note=fields["note"],
        seals=tuple(fields.get("seals", ())),
    )
    return AuditActionEntry(
        number=fields["number"], at=datetime.fromisoformat(fields["at"]), action=action
    )


def _fields(action: AuditAction, at: datetime) -> dict[str, object]:
    fields = {
        "at": at.isoformat(),
        "who": action.actor.who,
        "how": action.actor.origin,
        "act": action.kind,
        "object": action.object,
        "details": action.details,
        "note": action.note,
    }
    return fields | ({"seals": list(action.seals)} if action.seals else {})
