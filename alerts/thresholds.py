"""A score stays above a line.

A sample with `score >= above` begins an incident: open at once, or pending until such samples
have come for `for_`. One with `score < below` ends what is pending, and resolves what is open
once `keep_firing_for` has passed since the last sample that kept it alive. One between the two
keeps the state as it is. An acknowledged incident is kept and resolved as an open one.

Silence is no answer. When nothing was heard for longer than `stale_after`, what was pending is
dismissed, since nobody knows whether it lasted; what was open stays open.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from alerts.steps import begin, close, end, keep_alive, may_begin, opened
from storage.records import Incident, IncidentState

if TYPE_CHECKING:
    from alerts.rules import Rule, Sample


def step(rule: "Rule", latest: Incident | None, sample: "Sample") -> Incident | None:
    """Return the next revision; the same object comes back when nothing changes."""
    if latest is None or not latest.is_live:
        if not may_begin(rule, latest, sample):
            return latest
        return begin(rule, sample, is_open=rule.for_ <= timedelta())
    silence = sample.at - latest.last_seen_at
    if silence <= timedelta():
        return latest
    if latest.state is IncidentState.PENDING and silence > rule.stale_after:
        return close(latest, latest.last_seen_at)
    if sample.score < rule.below or not rule.is_active(sample.at):
        return end(rule, latest, sample.at)
    return _keep(rule, latest, sample)


def _keep(rule: "Rule", incident: Incident, sample: "Sample") -> Incident:
    if sample.score < rule.above:
        return keep_alive(incident, sample.at)
    kept = keep_alive(incident, sample.at, sample.id, sample.reason)
    lasted = sample.at - incident.first_seen_at
    if incident.state is IncidentState.PENDING and lasted >= rule.for_:
        return opened(kept, sample.at)
    return kept
