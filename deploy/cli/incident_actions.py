"""Actions of people on incidents, and their entries in the audit trail."""

import getpass
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from alerts.incidents.changes import IncidentChange, publish
from alerts.rules import lifecycle
from deploy.cli.common import check_printable, find_by_prefix
from deploy.errors import BadSettings, CommandFailed
from storage.db.audit.actions import (
    ActionKind,
    ActionOrigin,
    AuditAction,
    AuditActor,
    append_action,
)
from storage.db.audit.hash_chain import ChainAnchor
from storage.records.records import Incident

if TYPE_CHECKING:
    from storage.db.alert_store import AlertStore

MAX_NAME_LENGTH, MAX_NOTE_LENGTH = 64, 500
_ANCHOR_HINT = "write NUMBER:DIGEST,NUMBER:DIGEST as `longwatch audit verify` printed it"

IncidentIdArgument = Annotated[str, typer.Argument(help="The id of an incident, or its beginning.")]
LifecycleStep = Callable[[Incident, str, datetime], Incident]
_ACTION_KINDS: Mapping[LifecycleStep, ActionKind] = {
    lifecycle.acknowledge: ActionKind.INCIDENT_ACKNOWLEDGE,
    lifecycle.resolve: ActionKind.INCIDENT_RESOLVE,
    lifecycle.note: ActionKind.INCIDENT_NOTE,
}
RecipientFinder = Callable[[Incident], Mapping[str, Mapping[str, str]]]
"""Returns the group labels of an incident for each receiver to notify."""


def no_recipients(_: Incident) -> Mapping[str, Mapping[str, str]]:
    """Return no receiver."""
    return {}


def apply_action(
    store: "AlertStore",
    id: str,
    step: LifecycleStep,
    *,
    by: str | None,
    note: str,
    find_recipients: RecipientFinder = no_recipients,
) -> Incident:
    """Apply a lifecycle step to an incident, publish the revision, and write the audit action.

    Receivers that were notified of the incident, or that `find_recipients` returns, are notified.
    Raises BadSettings, CommandFailed.
    """
    actor, text = get_actor(by), check_note(note)
    who = actor.who
    incident = find_incident(store, id)
    try:
        with store.transaction() as transaction:
            before = transaction.incident(incident.id)
            changed = step(before, who, datetime.now(UTC))
            groups = find_recipients(changed)
            change = IncidentChange(before=before, after=changed, who=who, note=text, groups=groups)
            publish(transaction, [change])
            entry = AuditAction(
                actor=actor,
                kind=_ACTION_KINDS[step],
                object=str(incident.id),
                details=f"revision {changed.revision}",
                note=text,
            )
            append_action(transaction.connection, entry)
    except lifecycle.NotPossible as error:
        raise CommandFailed(f"{str(incident.id)[:8]}: {error}") from None
    return changed


def get_actor(by: str | None) -> AuditActor:
    """Return the person who acts: `--by`, or the login name; raise BadSettings."""
    return AuditActor(
        who=check_printable("--by", by or getpass.getuser(), MAX_NAME_LENGTH),
        origin=ActionOrigin.CLI,
    )


def check_note(text: str) -> str:
    """Return a note that is short and printable; raise BadSettings."""
    return check_printable("--note", text, MAX_NOTE_LENGTH) if text else ""


def find_incident(store: "AlertStore", id: str) -> Incident:
    """Return the incident whose id has a prefix; raise BadSettings, CommandFailed."""
    return find_by_prefix(store.find_incident, id, "incident", "incidents list")


def parse_anchors(text: str) -> tuple[ChainAnchor, ChainAnchor | None]:
    """Parse NUMBER:DIGEST,NUMBER:DIGEST as `audit verify` prints it; raise BadSettings.

    The second anchor, of actions, is missing if the first release printed it.
    """
    trail, *others = map(_parse_anchor, text.split(","))
    if len(others) > 1:
        raise BadSettings(f"--since: {_ANCHOR_HINT}")
    return trail, others[0] if others else None


def _parse_anchor(text: str) -> ChainAnchor:
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise BadSettings(f"--since: {_ANCHOR_HINT}")
    return ChainAnchor(number=int(number), digest=digest)
