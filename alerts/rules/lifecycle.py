"""What every rule does to an incident: begin it, keep it alive, open it, close it."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from storage.clock import CurrentTime
from storage.records.records import Incident, IncidentState
from storage.records.wire import MAX_EVIDENCE

if TYPE_CHECKING:
    from alerts.rules.rule import Rule, RuleSample

BY_RULE = "rule"
_JUST_BEFORE = timedelta(microseconds=1)
_INCIDENTS = UUID("5f0f3c39-3c2f-5a0e-9a54-2f4f5b0c7f11")


def can_begin(rule: "Rule", latest: Incident | None, sample: "RuleSample") -> bool:
    """Tell whether a sample begins an incident where none is live."""
    if sample.score < rule.above or not rule.is_active(sample.at):
        return False
    if latest is None or latest.closed_at is None:
        return True
    was_open = latest.opened_at is not None
    if was_open and rule.quiet and sample.at < latest.closed_at + rule.quiet:
        return False
    judged_until = latest.closed_at if latest.closed_because == BY_RULE else latest.last_seen_at
    return sample.at > judged_until


def begin(rule: "Rule", sample: "RuleSample", *, is_open: bool) -> Incident:
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


def without_future_instants(
    incident: Incident, at: datetime, present: CurrentTime
) -> Incident | None:
    """Return an incident without the instants that are ahead of our clock.

    A clock that was ahead wrote them: they would make all that comes look late. A live incident
    gets a revision that was last seen just before `at`. One that is closed counts from its
    beginning, or not at all where that is ahead too.
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
    def back(at: datetime, earliest: datetime) -> datetime:
        return at if present.is_plausible(at) else max(earliest, to)

    first = back(incident.first_seen_at, to)
    as_open, closed = incident.opened_at, incident.closed_at
    last = back(incident.last_seen_at, first)
    return replace(
        incident,
        first_seen_at=first,
        opened_at=as_open and back(as_open, first),
        last_seen_at=last,
        closed_at=closed and back(closed, last),
        revision=incident.revision + 1,
    )


def keep_alive(
    incident: Incident, at: datetime, evidence: str | None = None, reason: str = ""
) -> Incident:
    """Return a revision that was seen at an instant, with one more sample as evidence.

    A known reason takes the place of the one before.
    """
    ids = incident.evidence if evidence is None else _append_evidence(incident.evidence, evidence)
    return replace(
        incident,
        last_seen_at=max(at, incident.last_seen_at),
        evidence=ids,
        reason=reason or incident.reason,
        revision=incident.revision + 1,
    )


def as_open(incident: Incident, at: datetime) -> Incident:
    """Return the same revision, open."""
    return replace(incident, state=IncidentState.OPEN, opened_at=at)


def close(incident: Incident, at: datetime, evidence: str | None = None) -> Incident:
    """Return a revision that the rule closed: dismissed where it was pending, else resolved."""
    pending = incident.state is IncidentState.PENDING
    ids = incident.evidence if evidence is None else _append_evidence(incident.evidence, evidence)
    return replace(
        incident,
        state=IncidentState.DISMISSED if pending else IncidentState.RESOLVED,
        closed_at=max(at, incident.opened_at or incident.first_seen_at),
        closed_because=BY_RULE,
        evidence=ids,
        revision=incident.revision + 1,
    )


def close_when_due(rule: "Rule", incident: Incident, at: datetime) -> Incident:
    """Close what is pending, and what is open once `keep_firing_for` has passed."""
    pending = incident.state is IncidentState.PENDING
    if not pending and at - incident.last_seen_at < rule.keep_firing_for:
        return incident
    return close(incident, at)


def _append_evidence(evidence: tuple[str, ...], sample_id: str) -> tuple[str, ...]:
    """Keep how it began and what came last; the middle makes room."""
    if len(evidence) < MAX_EVIDENCE:
        return (*evidence, sample_id)
    half = MAX_EVIDENCE // 2
    return (*evidence[:half], *evidence[half + 1 :], sample_id)
