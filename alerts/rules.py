"""When findings become an incident: plain values and a pure fold.

A finding with `score >= above` begins an incident: open at once, or pending until such findings
have come for `for_`. One with `score < below` ends what is pending, and resolves what is open
once `keep_firing_for` has passed since the last finding that kept it alive. One between the two
keeps the state as it is. Time is the end of the findings' windows.

Silence is no answer. When nothing was heard for longer than `stale_after`, what was pending is
dismissed, since nobody knows whether it lasted; what was open stays open.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID, uuid5

from storage.records import Finding, Incident, IncidentState
from storage.wire import MAX_EVIDENCE

_INCIDENTS = UUID("5f0f3c39-3c2f-5a0e-9a54-2f4f5b0c7f11")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Watch the answers to one question on some cameras (no camera named: on all)."""

    name: str
    question: str
    above: float
    below: float
    cameras: tuple[str, ...] = ()
    for_: timedelta = timedelta()
    keep_firing_for: timedelta = timedelta()
    stale_after: timedelta = timedelta(minutes=5)
    severity: str = "medium"
    notify: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """A digest of what decides between incident and none, and of nothing else."""
        times = [self.for_.total_seconds(), self.keep_firing_for.total_seconds()]
        decides = json.dumps([self.question, self.above, self.below, *times])
        return sha256(decides.encode()).hexdigest()[:12]

    def watches(self, camera: str) -> bool:
        """Tell whether this rule is about a camera."""
        return not self.cameras or camera in self.cameras


def changes(rule: Rule, incident: Incident | None, finding: Finding) -> tuple[Incident, ...]:
    """Return what a finding changes: what ends one incident may begin the next."""
    judged = judge(rule, incident, finding)
    if judged is None or judged is incident:
        return ()
    if judged.closed_at is None:
        return (judged,)
    return (judged, *changes(rule, None, finding))


def judge(rule: Rule, incident: Incident | None, finding: Finding) -> Incident | None:
    """Fold a finding into the live incident; the same object comes back when nothing changes."""
    if incident is None:
        return _begin(rule, finding) if finding.score >= rule.above else None
    silence = finding.end - incident.last_seen_at
    if silence <= timedelta():
        return incident
    if incident.state is IncidentState.PENDING and silence > rule.stale_after:
        return _close(incident, IncidentState.DISMISSED, incident.last_seen_at)
    if finding.score >= rule.below:
        return _keep_alive(rule, incident, finding)
    return _end(rule, incident, finding)


def retire(incident: Incident) -> Incident:
    """End an incident whose rule is gone, at the instant it was last seen."""
    pending = incident.state is IncidentState.PENDING
    state = IncidentState.DISMISSED if pending else IncidentState.RESOLVED
    return _close(incident, state, incident.last_seen_at)


def _begin(rule: Rule, finding: Finding) -> Incident:
    at_once = rule.for_ <= timedelta()
    name = json.dumps([finding.camera, rule.name, rule.version, finding.id])
    return Incident(
        id=uuid5(_INCIDENTS, name),
        camera=finding.camera,
        rule=rule.name,
        rule_version=rule.version,
        severity=rule.severity,
        state=IncidentState.OPEN if at_once else IncidentState.PENDING,
        first_seen_at=finding.end,
        opened_at=finding.end if at_once else None,
        last_seen_at=finding.end,
        closed_at=None,
        evidence=(finding.id,),
        revision=1,
    )


def _keep_alive(rule: Rule, incident: Incident, finding: Finding) -> Incident:
    kept = replace(incident, last_seen_at=finding.end, revision=incident.revision + 1)
    if finding.score < rule.above:
        return kept
    kept = replace(kept, evidence=_with(incident.evidence, finding.id))
    lasted = finding.end - incident.first_seen_at
    if incident.state is IncidentState.PENDING and lasted >= rule.for_:
        return replace(kept, state=IncidentState.OPEN, opened_at=finding.end)
    return kept


def _end(rule: Rule, incident: Incident, finding: Finding) -> Incident:
    if incident.state is IncidentState.PENDING:
        return _close(incident, IncidentState.DISMISSED, finding.end)
    if finding.end - incident.last_seen_at < rule.keep_firing_for:
        return incident
    return _close(incident, IncidentState.RESOLVED, finding.end)


def _close(incident: Incident, state: IncidentState, at: datetime) -> Incident:
    return replace(incident, state=state, closed_at=at, revision=incident.revision + 1)


def _with(evidence: tuple[str, ...], finding_id: str) -> tuple[str, ...]:
    """Keep how it began and what came last; the middle makes room."""
    if len(evidence) < MAX_EVIDENCE:
        return (*evidence, finding_id)
    half = MAX_EVIDENCE // 2
    return (*evidence[:half], *evidence[half + 1 :], finding_id)
