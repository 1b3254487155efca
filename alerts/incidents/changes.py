"""The one way of a revision: saved with its trail, notified, its stills asked for, on the log.

Whoever changes an incident publishes the change: the judge, the clock, the keeper of evidence,
retention, and people. So the trail has every revision of every incident, and from there a
publisher brings them to the topic `incidents`: whatever the log says, they are kept and told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alerts.rules.lifecycle import change_kind
from storage.db.transaction import PendingWork, Transaction
from storage.records.records import Incident, IncidentRevision, IncidentState


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentChange:
    """One revision of an incident, the one before it if any, who made it, and their note.

    If it is news, those notified of the incident before are notified, and the receivers in
    `groups`: for each the labels of its group. A new incident that a finding began
    `needs_stills`.
    """

    before: Incident | None
    after: Incident
    who: str
    note: str = ""
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    needs_stills: bool = False


def publish(transaction: Transaction, changes: Sequence[IncidentChange]) -> None:
    """Write changes and all that follows from them; several of one incident come in order.

    Raises ValueError where a change does not follow what is stored.
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
    """Ask for the stills of what began; what was dismissed needs none any more."""
    begun = {each.after.id for each in changes if each.before is None and each.needs_stills}
    dismissed = {each.after.id for each in changes if each.after.state is IncidentState.DISMISSED}
    if begun or dismissed:
        transaction.pending_work.add(PendingWork.TAKE_STILLS)
    transaction.evidence.schedule(begun - dismissed)
    transaction.evidence.schedule_removal(dismissed - begun)
