"""One question and then another on the same camera, or then not the other.

Scores are read with the hysteresis of thresholds: a question comes with `score >= above`, and
lasts while `score >= below`. What begins with the first question is pending.

`then`: opens when the second comes after the first began, while the first lasts or at most
`within` after it was last seen; is dismissed when that has passed. Once open it is about the
second alone: alive while that lasts, resolved after `keep_firing_for`. A second question that
stood before the first began counts from the next sample after that on.

`without`: opens when the second has not come `within` after the first began, at the instant at
which that has passed, whatever tells that it has: any sample of the camera, or a clock. Where
the second comes in time the wait is over, and is dismissed as soon as the first does not last
any more, or was not heard of for `stale_after`: until then it is the same occasion. Once open it
is resolved when the second comes, and kept alive by each answer that it has not.
"""

from datetime import datetime

from alerts.rules.lifecycle import as_open, begin, can_begin, close, close_when_due, keep_alive
from alerts.rules.rule import Rule, RuleSample
from storage.records.records import Incident


def step(rule: Rule, latest: Incident | None, sample: RuleSample) -> Incident | None:
    """Return the next revision; the same object comes back when nothing changes."""
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
    """Return what has become of a live incident by an instant at which nothing was seen."""
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
    """Tell whether the second question came in time: it is the second piece of evidence."""
    return len(incident.evidence) > 1
