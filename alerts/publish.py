"""The one way of a revision: saved with its trail, notified, its stills asked for, on the log.

Whoever changes an incident publishes the change: the judge, the clock, the keeper of evidence,
retention, and people. So the trail has every revision of every incident, and from there a
publisher brings them to the topic `incidents`: whatever the log says, they are kept and told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alerts.routing import news_of
from storage.ledger import Ledger, Work
from storage.records import Incident, IncidentState, Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
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


def publish(ledger: Ledger, changes: Sequence[Change]) -> None:
    """Write changes and all that follows from them; several of one incident come in order.

    Raises ValueError where a change does not follow what is stored.
    """
    if not changes:
        return
    ledger.save([Revision(incident=each.after, who=each.who, note=each.note) for each in changes])
    for each in changes:
        _notify(ledger, each)
    _ask_for_stills(ledger, changes)
    ledger.leaves.add(Work.PUBLISH)


def _notify(ledger: Ledger, change: Change) -> None:
    news = news_of(change.before, change.after)
    if news is None:
        return
    ledger.leaves.add(Work.ROUTE)
    if change.before is not None:
        ledger.routing.notify_again(change.after, news)
    ledger.routing.notify(change.after, news, change.groups)


def _ask_for_stills(ledger: Ledger, changes: Sequence[Change]) -> None:
    """Ask for the stills of what began; what was dismissed needs none any more."""
    begun = {each.after.id for each in changes if each.before is None and each.needs_stills}
    dismissed = {each.after.id for each in changes if each.after.state is IncidentState.DISMISSED}
    if begun or dismissed:
        ledger.leaves.add(Work.TAKE_STILLS)
    ledger.evidence.expect(begun - dismissed)
    ledger.evidence.discard(dismissed - begun)
