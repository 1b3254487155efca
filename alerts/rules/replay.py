"""Rules as a pure fold: when samples become incidents, and when these end.

Time comes with the samples; no clock is read. Each rule has at most one live incident on a
camera: pending, open or acknowledged. The sample that ends one may begin the next.

- `thresholds`: a score stays above a threshold.
- `sequences`: one question and then another, or then not the other.

For every rule:

- `active`: a sample outside the active hours counts as below all thresholds. It begins no
  incident, dismisses a pending one, and resolves an open one after `keep_firing_for`.
- `quiet`: after an opened incident closes, no incident begins for this long.
- A late sample changes nothing. A sample is late up to `last_seen_at` and, if the rule closed the
  incident, up to `closed_at`. So a replay changes nothing. An instant ahead of the clock makes no
  sample late: see `lifecycle.without_future_instants`.

An incident is identified by its camera, rule, rule version and first sample. A changed rule has
a new version and begins new incidents.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime

from alerts.rules import sequences, thresholds
from alerts.rules.lifecycle import without_future_instants
from alerts.rules.rule import Rule, RuleSample, is_about
from storage.clock import CurrentTime
from storage.records.records import Incident


def next_revisions(
    rule: Rule, latest: Incident | None, sample: RuleSample, present: CurrentTime | None = None
) -> tuple[Incident, ...]:
    """Return the revisions that a sample of the rule causes, in order.

    `latest` is the newest incident of this rule, version and camera, live or closed. With
    `present`, instants of `latest` that are ahead of it are corrected first.
    """
    step = sequences.step if rule.is_sequence else thresholds.step
    revisions: list[Incident] = []
    if latest is not None and present is not None:
        stored, latest = latest, without_future_instants(latest, sample.at, present)
        if latest is not None and latest.revision > stored.revision:
            revisions.append(latest)
    after = step(rule, latest, sample)
    while after is not None and after is not latest:
        revisions.append(after)
        latest, after = after, step(rule, after, sample)
    return tuple(revisions)


def overdue_revisions(rule: Rule, latest: Incident | None, now: datetime) -> tuple[Incident, ...]:
    """Return the revisions that time alone causes; all samples before `now` are judged.

    The next sample would cause the same, so a silent camera delays no absence.
    """
    if latest is None or not latest.is_live or not rule.is_sequence:
        return ()
    after = sequences.advance_to(rule, latest, now)
    return () if after is latest else (after,)


def replay(
    rule: Rule, samples: Iterable[RuleSample], until: datetime | None = None
) -> Iterator[Incident]:
    """Yield every revision that samples, in order of time, and then time alone cause.

    Time ends at `until`, by default at the last sample of each camera.
    """
    latest, last_at = dict[str, Incident](), dict[str, datetime]()
    for sample in samples:
        last_at[sample.camera] = sample.at
        if is_about(rule, sample):
            for revision in next_revisions(rule, latest.get(sample.camera), sample):
                latest[sample.camera] = revision
                yield revision
    for camera, incident in latest.items():
        yield from overdue_revisions(rule, incident, until or last_at[camera])
