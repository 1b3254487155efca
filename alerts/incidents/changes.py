"""The one way to write a revision of an incident.

The judge, the sweeper, the evidence keeper, retention and people all publish their changes here.
So the audit trail has every revision, and from there the publisher appends each to the topic
`incidents`, whether or not the log answers now.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alerts.rules.lifecycle import change_kind
from storage.db.transaction import PendingWork, Transaction
from storage.records.records import Incident, IncidentRevision, IncidentState


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentChange:
    """A revision of an incident, the revision before it if any, its author, and their note.

    `groups` are the receivers to notify, each with the labels of its group. A new incident that a
    finding began `needs_stills`.
    """

    before: Incident | None
    after: Incident
    who: str
    note: str = ""
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    needs_stills: bool = False


def publish(transaction: Transaction, changes: Sequence[IncidentChange]) -> None:
    """Save revisions, and queue their notifications, stills and log entries.

    Several changes of one incident come in order. Raises ValueError if a change does not follow
    the stored revision.
    """
    if not changes:
        return
    transaction.save_revisions(
        [IncidentRevision(incident=each.after, who=each.who, note=each.note) for each in changes]
    )
    for each in changes:
        _notify(transaction, each)
    _request_stills(transaction, changes)
    transaction.pending_work.add(PendingWork.PUBLISH)


def _notify(transaction: Transaction, change: IncidentChange) -> None:
    kind = change_kind(change.before, change.after)
    if kind is None:
        return
    transaction.pending_work.add(PendingWork.DISPATCH)
    if change.before is not None:
        transaction.notifications.enqueue_followup(change.after, kind)
    transaction.notifications.enqueue(change.after, kind, change.groups)


def _request_stills(transaction: Transaction, changes: Sequence[IncidentChange]) -> None:
    """Request the stills of new incidents, and the removal of those of dismissed ones."""
    begun = {each.after.id for each in changes if each.before is None and each.needs_stills}
    dismissed = {each.after.id for each in changes if each.after.state is IncidentState.DISMISSED}
    if begun or dismissed:
        transaction.pending_work.add(PendingWork.TAKE_STILLS)
    transaction.evidence.schedule(begun - dismissed)
    transaction.evidence.schedule_removal(dismissed - begun)
