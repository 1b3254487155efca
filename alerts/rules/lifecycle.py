"""The lifecycle of an incident: pure steps from one revision to the next.

Rules begin incidents, keep them alive, open and close them. People acknowledge and resolve them.
The clock closes those that no sample closes.
"""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from alerts.rules.rule import Rule, RuleSample
from storage.clock import CurrentTime
from storage.records.notifications import ChangeKind
from storage.records.records import Incident, IncidentState
from storage.records.wire import MAX_EVIDENCE

BY_RULE, RETIRED, SWEPT = "rule", "retired", "swept"
_JUST_BEFORE = timedelta(microseconds=1)
_INCIDENTS = UUID("5f0f3c39-3c2f-5a0e-9a54-2f4f5b0c7f11")


class NotPossible(ValueError):
    """The state of an incident does not allow this step."""


def change_kind(before: Incident | None, after: Incident) -> ChangeKind | None:
    """Return the kind of a change that receivers are notified of; None for any other change."""
    if before is not None and before.state is after.state:
        return None
    return {
        IncidentState.RESOLVED: ChangeKind.RESOLVED,
        IncidentState.OPEN: ChangeKind.OPENED,
        IncidentState.ACKNOWLEDGED: ChangeKind.ACKNOWLEDGED,
    }.get(after.state)


def can_begin(rule: Rule, latest: Incident | None, sample: RuleSample) -> bool:
    """Return whether a sample begins an incident while none is live."""
    if sample.score < rule.above or not rule.is_active(sample.at):
        return False
    if latest is None or latest.closed_at is None:
        return True
    was_open = latest.opened_at is not None
    if was_open and rule.quiet and sample.at < latest.closed_at + rule.quiet:
        return False
    judged_until = latest.closed_at if latest.closed_because == BY_RULE else latest.last_seen_at
    return sample.at > judged_until


def begin(rule: Rule, sample: RuleSample, *, is_open: bool) -> Incident:
    """Return the first revision of an incident."""
    name = json.dumps([sample.camera, rule.name, rule.version, sample.id])
    return Incident(
        id=uuid5(_INCIDENTS, name),
        camera=sample.camera,
        rule=rule.name,
        rule_version=rule.version,
        severity=rule.severity,
        state=IncidentState.OPEN if is_open else IncidentState.PENDING,
        first_seen_at=sample.at,
        opened_at=sample.at if is_open else None,
        last_seen_at=sample.at,
        closed_at=None,
        evidence=(sample.id,),
        revision=1,
        summary=f"{rule.name} on {sample.camera}",
        reason=sample.reason,
    )


def keep_alive(
    incident: Incident, at: datetime, evidence: str | None = None, reason: str = ""
) -> Incident:
    """Return a revision last seen at `at`; a new reason replaces the old one."""
    return replace(
        incident,
        last_seen_at=max(at, incident.last_seen_at),
        evidence=_append_evidence(incident.evidence, evidence),
        reason=reason or incident.reason,
        revision=incident.revision + 1,
    )


def as_open(incident: Incident, at: datetime) -> Incident:
    """Return the same revision, open."""
    return replace(incident, state=IncidentState.OPEN, opened_at=at)


def close(
    incident: Incident, at: datetime, because: str = BY_RULE, evidence: str | None = None
) -> Incident:
    """Return a closed revision: dismissed if the incident was pending, else resolved."""
    pending = incident.state is IncidentState.PENDING
    return replace(
        incident,
        state=IncidentState.DISMISSED if pending else IncidentState.RESOLVED,
        closed_at=max(at, incident.opened_at or incident.first_seen_at),
        closed_because=because,
        evidence=_append_evidence(incident.evidence, evidence),
        revision=incident.revision + 1,
    )


def close_when_due(rule: Rule, incident: Incident, at: datetime) -> Incident:
    """Close a pending incident, and an open one once `keep_firing_for` has passed."""
    pending = incident.state is IncidentState.PENDING
    if not pending and at - incident.last_seen_at < rule.keep_firing_for:
        return incident
    return close(incident, at)


def acknowledge(incident: Incident, who: str, now: datetime) -> Incident:
    """Acknowledge an open incident; raises NotPossible in any other state."""
    if incident.state is IncidentState.ACKNOWLEDGED:
        raise NotPossible(f"{incident.acknowledged_by} has acknowledged it already")
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
    """Close an incident by hand; raises NotPossible if it is closed."""
    if not incident.is_live:
        raise NotPossible(f"it is {incident.state} since {incident.closed_at:%Y-%m-%d %H:%M:%SZ}")
    return close(incident, max(now, incident.last_seen_at), who)


def note(incident: Incident, who: str, now: datetime) -> Incident:
    """Return the revision of a note; only the audit trail records its author and time."""
    return replace(incident, revision=incident.revision + 1)


def retire(incident: Incident) -> Incident:
    """Close an incident whose rule changed or was removed, at the instant it was last seen."""
    return close(incident, incident.last_seen_at, RETIRED)


def sweep(incident: Incident, now: datetime) -> Incident:
    """Close, at `now`, an incident that no sample updates any more."""
    return close(incident, max(now, incident.last_seen_at), SWEPT)


def without_future_instants(
    incident: Incident, at: datetime, present: CurrentTime
) -> Incident | None:
    """Return an incident without instants that are ahead of our clock.

    A clock that was ahead wrote them, and every later sample would count as late. A live incident
    gets a revision that was last seen just before `at`. A closed one counts from its beginning;
    it is None if that is in the future, too.
    """
    instants = (incident.first_seen_at, incident.opened_at, incident.last_seen_at)
    if all(present.is_plausible(each) for each in (*instants, incident.closed_at) if each):
        return incident
    if incident.is_live:
        return _with_instants_corrected(incident, at - _JUST_BEFORE, present)
    if not present.is_plausible(incident.first_seen_at):
        return None
    return replace(
        _with_instants_corrected(incident, incident.first_seen_at, present),
        revision=incident.revision,
    )


def _with_instants_corrected(incident: Incident, to: datetime, present: CurrentTime) -> Incident:
    def corrected(at: datetime, earliest: datetime) -> datetime:
        return at if present.is_plausible(at) else max(earliest, to)

    first = corrected(incident.first_seen_at, to)
    opened, closed = incident.opened_at, incident.closed_at
    last = corrected(incident.last_seen_at, first)
    return replace(
        incident,
        first_seen_at=first,
        opened_at=opened and corrected(opened, first),
        last_seen_at=last,
        closed_at=closed and corrected(closed, last),
        revision=incident.revision + 1,
    )


def _append_evidence(evidence: tuple[str, ...], sample_id: str | None) -> tuple[str, ...]:
    """Append a sample; beyond MAX_EVIDENCE the oldest of the second half is dropped."""
    if sample_id is None:
        return evidence
    if len(evidence) < MAX_EVIDENCE:
        return (*evidence, sample_id)
    half = MAX_EVIDENCE // 2
    return (*evidence[:half], *evidence[half + 1 :], sample_id)
