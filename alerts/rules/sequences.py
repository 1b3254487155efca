"""One question and then another on the same camera, or then not the other.

Scores have the hysteresis of thresholds: a question becomes active with `score >= above`, and
stays active while `score >= below`. The first question begins a pending incident.

`then`: it opens if the second question becomes active while the first is active, or at most
`within` after that; else it is dismissed. Once open it depends on the second question alone: alive
while that is active, resolved after `keep_firing_for`. If the second was active before the first,
its next sample counts.

`without`: it opens if the second question has not become active `within` after the first, at that
deadline, whether a sample of the camera or a clock shows that it has passed. If the second comes
in time, the incident is dismissed once the first is no longer active, or has no sample for
`stale_after`. Once open it resolves when the second comes, and each answer that it has not keeps
it alive.
"""

from datetime import datetime

from alerts.rules.lifecycle import as_open, begin, can_begin, close, close_when_due, keep_alive
from alerts.rules.rule import Rule, RuleSample
from storage.records.records import Incident


def step(rule: Rule, latest: Incident | None, sample: RuleSample) -> Incident | None:
    """Return the next revision, or the same object if nothing changes."""
    if latest is None or not latest.is_live:
        begins = sample.question == rule.question and can_begin(rule, latest, sample)
        return begin(rule, sample, is_open=False) if begins else latest
    later = advance_to(rule, latest, sample.at)
    if later is not latest:
        return later
    if not rule.is_active(sample.at):
        return (
            close_when_due(rule, latest, sample.at) if sample.at > latest.last_seen_at else latest
        )
    if rule.then is not None:
        return _step_then(rule, latest, sample)
    return _step_without(rule, latest, sample)


def advance_to(rule: Rule, incident: Incident, now: datetime) -> Incident:
    """Return a live incident at an instant without a sample."""
    if incident.opened_at is not None:
        return incident
    last = incident.last_seen_at
    if rule.then is not None:
        return close(incident, last + rule.within) if now - last > rule.within else incident
    if _has_second_answer(incident):
        return close(incident, last) if now - last > rule.stale_after else incident
    deadline = incident.first_seen_at + rule.within
    if now <= deadline:
        return incident
    if not rule.is_active(deadline):
        return close(incident, deadline)
    return as_open(keep_alive(incident, deadline), deadline)


def _step_then(rule: Rule, incident: Incident, sample: RuleSample) -> Incident:
    is_second, at = sample.question == rule.then, sample.at
    if incident.opened_at is None and is_second:
        came = sample.score >= rule.above and at > incident.first_seen_at
        return as_open(keep_alive(incident, at, sample.id), at) if came else incident
    is_about_other = incident.opened_at is not None and not is_second
    if is_about_other or at <= incident.last_seen_at:
        return incident
    if sample.score < rule.below:
        return incident if incident.opened_at is None else close_when_due(rule, incident, at)
    return keep_alive(incident, at, sample.id if sample.score >= rule.above else None)


def _step_without(rule: Rule, incident: Incident, sample: RuleSample) -> Incident:
    is_second, at = sample.question == rule.without, sample.at
    comes = is_second and sample.score >= rule.above and at > incident.first_seen_at
    is_new = at > incident.last_seen_at
    if incident.opened_at is not None:
        if comes:
            return close(incident, at, evidence=sample.id)
        return keep_alive(incident, at) if is_second and is_new else incident
    if not _has_second_answer(incident):
        if not (comes or is_new):
            return incident
        return keep_alive(incident, at, sample.id if comes else None)
    if is_second or not is_new:
        return incident
    return keep_alive(incident, at) if sample.score >= rule.below else close(incident, at)


def _has_second_answer(incident: Incident) -> bool:
    """Return whether the second question came in time: it is the second piece of evidence."""
    return len(incident.evidence) > 1
