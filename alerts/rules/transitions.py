"""What people and the clock do to incidents: pure steps from one revision to the next.

What rules do to them stands in `rules`.
"""

from dataclasses import replace
from datetime import datetime

from storage.records.records import Incident, IncidentState

RETIRED = "retired"
SWEPT = "swept"


class NotPossible(ValueError):
    """An incident is past what somebody wants to do with it."""


def acknowledge(incident: Incident, who: str, now: datetime) -> Incident:
    """Take an open incident on; raise NotPossible where it is not open."""
    if incident.state is IncidentState.ACKNOWLEDGED:
        reason = f"{incident.acknowledged_by} has acknowledged it already"
        raise NotPossible(reason)
    if incident.state is not IncidentState.OPEN:
        raise NotPossible(f"it is {incident.state}: only an open incident can be acknowledged")
    return replace(
        incident,
        state=IncidentState.ACKNOWLEDGED,
        acknowledged_at=now,
        acknowledged_by=who,
        revision=incident.revision + 1,
    )


def resolve(incident: Incident, who: str, now: datetime) -> Incident:
    """End an incident by hand; raise NotPossible where it has ended."""
    if not incident.is_live:
        raise NotPossible(f"it is {incident.state} since {incident.closed_at:%Y-%m-%d %H:%M:%SZ}")
    return _closed(incident, max(now, incident.last_seen_at), who)


def note(incident: Incident, who: str, now: datetime) -> Incident:
    """Return the revision that a note is written to: who and when stand on the trail alone."""
    return replace(incident, revision=incident.revision + 1)


def retire(incident: Incident) -> Incident:
    """End an incident whose rule was changed or is gone, at the instant it was last seen."""
    return _closed(incident, incident.last_seen_at, RETIRED)


def sweep(incident: Incident, now: datetime) -> Incident:
    """End an incident of which nothing was heard any more; its end is when that was noticed."""
    return _closed(incident, max(now, incident.last_seen_at), SWEPT)


def _closed(incident: Incident, at: datetime, because: str) -> Incident:
    pending = incident.state is IncidentState.PENDING
    return replace(
        incident,
        state=IncidentState.DISMISSED if pending else IncidentState.RESOLVED,
        closed_at=at,
        closed_because=because,
        revision=incident.revision + 1,
    )
