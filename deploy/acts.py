"""What people do to incidents from the command line, and the trail that tells of it."""

import getpass
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from alerts import incidents as steps
from alerts.publish import Change, publish
from deploy.console import found_by, plain_text
from deploy.errors import BadSettings, Failed
from storage.acts import Act, ActKind, Actor, How, append
from storage.chain import Anchor
from storage.records import Incident

if TYPE_CHECKING:
    from storage.incidents import IncidentStore

MOST_NAME, MOST_NOTE = 64, 500
_WRITE = "write NUMBER:DIGEST,NUMBER:DIGEST as `longwatch audit verify` printed it"

Id = Annotated[str, typer.Argument(help="The id of an incident, or how it begins.")]
Step = Callable[[Incident, str, datetime], Incident]
_KINDS: Mapping[Step, ActKind] = {
    steps.acknowledge: ActKind.INCIDENT_ACKNOWLEDGE,
    steps.resolve: ActKind.INCIDENT_RESOLVE,
    steps.note: ActKind.INCIDENT_NOTE,
}
Hears = Callable[[Incident], Mapping[str, Mapping[str, str]]]
"""Says who is to hear of an incident, and the labels of the group that each hears of it in."""


def nobody_more(_: Incident) -> Mapping[str, Mapping[str, str]]:
    """Name nobody."""
    return {}


def act(
    store: "IncidentStore",
    id: str,
    step: Step,
    *,
    by: str | None,
    note: str,
    hears: Hears = nobody_more,
) -> Incident:
    """Take an incident one revision further and publish it; raise Failed.

    If it is news, those who had a notice of it hear of it, and those whom `hears` names. The act
    is written beside the revision.
    """
    actor, told = actor_of(by), plain_note(note)
    who = actor.who
    found = find(store, id)
    try:
        with store.transaction() as ledger:
            before = ledger.incident(found.id)
            changed = step(before, who, datetime.now(UTC))
            groups = hears(changed)
            made = Change(before=before, after=changed, who=who, note=told, groups=groups)
            publish(ledger, [made])
            done = Act(
                actor=actor,
                kind=_KINDS[step],
                object=str(found.id),
                details=f"revision {changed.revision}",
                note=told,
            )
            append(ledger.connection, done)
    except steps.NotPossible as error:
        raise Failed(f"{str(found.id)[:8]}: {error}") from None
    return changed


def actor_of(by: str | None) -> Actor:
    """Return who acts by the command line: `--by`, else the login; raise BadSettings."""
    return Actor(who=plain_text("--by", by or getpass.getuser(), MOST_NAME), how=How.CLI)


def plain_note(text: str) -> str:
    """Return a note if it is short and printable; raise BadSettings."""
    return plain_text("--note", text, MOST_NOTE) if text else ""


def find(store: "IncidentStore", id: str) -> Incident:
    """Return the incident whose id begins so; raise BadSettings or Failed."""
    return found_by(store.incident, id, "incident", "incidents list")


def anchors(text: str) -> tuple[Anchor, Anchor | None]:
    """Read NUMBER:DIGEST,NUMBER:DIGEST as `audit verify` prints it; raise BadSettings.

    The second anchor is that of the acts: one that was printed before there were any has none.
    """
    trail, *others = map(_anchor, text.split(","))
    if len(others) > 1:
        raise BadSettings(f"--since: {_WRITE}")
    return trail, others[0] if others else None


def _anchor(text: str) -> Anchor:
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise BadSettings(f"--since: {_WRITE}")
    return Anchor(number=int(number), digest=digest)
