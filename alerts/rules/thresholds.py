"""A score stays above a threshold.

A sample with `score >= above` begins an incident: open at once, or pending until such samples
have come for `for_`. A sample with `score < below` dismisses a pending incident, and resolves an
open one once `keep_firing_for` has passed since the last sample that kept it alive. A score
between the two keeps the state. An acknowledged incident resolves as an open one does.

Missing samples are no answer. After more than `stale_after` without one, a pending incident is
dismissed, as it may have ended; an open one stays open.
"""

from datetime import timedelta

from alerts.rules.lifecycle import as_open, begin, can_begin, close, close_when_due, keep_alive
from alerts.rules.rule import Rule, RuleSample
from storage.records.records import Incident, IncidentState


def step(rule: Rule, latest: Incident | None, sample: RuleSample) -> Incident | None:
    """Return the next revision, or the same object if nothing changes."""
    if latest is None or not latest.is_live:
        if not can_begin(rule, latest, sample):
            return latest
        return begin(rule, sample, is_open=rule.for_ <= timedelta())
    gap = sample.at - latest.last_seen_at
    if gap <= timedelta():
        return latest
    if latest.state is IncidentState.PENDING and gap > rule.stale_after:
        return close(latest, latest.last_seen_at)
    if sample.score < rule.below or not rule.is_active(sample.at):
        return close_when_due(rule, latest, sample.at)
    return _extend(rule, latest, sample)


def _extend(rule: Rule, incident: Incident, sample: RuleSample) -> Incident:
    if sample.score < rule.above:
        return keep_alive(incident, sample.at)
    extended = keep_alive(incident, sample.at, sample.id, sample.reason)
    lasted = sample.at - incident.first_seen_at
    if incident.state is IncidentState.PENDING and lasted >= rule.for_:
        return as_open(extended, sample.at)
    return extended
