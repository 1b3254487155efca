"""Rules as plain values and a pure fold: when samples become incidents, and when these end.

A rule looks at samples: findings, and what the ledger of coverage says (see `alerts.rules.health`).
Time is theirs, no clock is read. Of each rule and camera there is one incident at most that is
pending, open or acknowledged; what ends it may begin the next.

- `thresholds`: a score stays above a line.
- `sequences`: one question and then another, or then not the other.

Beside them stands for every rule:

- `active`: a sample outside the active hours counts as one below all lines. It begins nothing;
  what is pending is dismissed, what is open is resolved after `keep_firing_for`.
- `quiet`: after an incident that was open has closed, by whomever, nothing begins for so long.
- What comes late rewrites nothing: no sample up to `last_seen_at` changes anything, nor, where
  the rule closed the incident, one up to `closed_at`. A replay changes nothing, therefore. An
  instant of an incident that is ahead of the clock makes nothing late: see `steps.believed`.

The identity of an incident is that of its camera, rule, version of the rule and first sample:
a changed rule has another version and begins incidents of its own.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256

from alerts.hours import Hours
from alerts.rules import sequences, thresholds
from alerts.rules.lifecycle import without_future_instants
from storage.clock import CurrentTime
from storage.records.records import Finding, Incident


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSample:
    """What a rule looks at: how a question (or `health/...`) stood on a camera at an instant.

    `reason` is the cause of a `health/...` that holds, where it is known.
    """

    id: str
    camera: str
    question: str
    at: datetime
    score: float
    reason: str = ""


def sample_from_finding(finding: Finding) -> RuleSample:
    """Return what a rule looks at in a finding; its instant is the end of the window."""
    return RuleSample(
        id=finding.id,
        camera=finding.camera,
        question=finding.question,
        at=finding.end,
        score=finding.score,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What to look at, on which cameras (names and globs as `dock-*`; none: all), and when.

    At most one of `then` and `without` names a second question, with `within` as the gap.
    """

    name: str
    question: str
    above: float
    below: float
    then: str | None = None
    without: str | None = None
    within: timedelta = timedelta()
    cameras: tuple[str, ...] = ()
    for_: timedelta = timedelta()
    keep_firing_for: timedelta = timedelta()
    quiet: timedelta = timedelta()
    active: Hours | None = None
    stale_after: timedelta = timedelta(minutes=5)
    severity: str = "medium"
    notify: tuple[str, ...] = ()
    version: str = field(init=False)
    """A digest of what decides between incident and none, and of nothing else."""

    def __post_init__(self) -> None:
        """Reckon the version once: it is asked for at every sample."""
        object.__setattr__(self, "version", _version_digest(self))

    def has_camera(self, camera: str) -> bool:
        """Tell whether this rule is about a camera."""
        return not self.cameras or _is_match(self.cameras, camera)

    def is_active(self, at: datetime) -> bool:
        """Tell whether an instant lies within the active hours."""
        return self.active is None or self.active.is_active_at(at)

    @property
    def incident_timeout(self) -> timedelta:
        """How long it keeps an incident that nothing keeps alive."""
        return max(self.keep_firing_for, self.within) + self.stale_after

    @property
    def is_sequence(self) -> bool:
        """Tell whether it looks at two questions."""
        return self.then is not None or self.without is not None


def is_about(rule: Rule, sample: RuleSample) -> bool:
    """Tell whether a rule is about a sample: its camera and its question."""
    question = sample.question
    if question != rule.question and question not in (rule.then, rule.without):
        return False
    return rule.has_camera(sample.camera)


def next_revisions(
    rule: Rule, latest: Incident | None, sample: RuleSample, present: CurrentTime | None = None
) -> tuple[Incident, ...]:
    """Return the revisions that a sample calls for, in order.

    `latest` is the newest incident of this rule, version and camera, live or closed. The sample
    is one that the rule looks at. With `present`, instants of `latest` that are ahead of it are
    taken back first.
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
    """Return the revisions that time alone calls for, up to an instant before which all is judged.

    They are those that the next sample would bring: a camera that is silent does not keep an
    absence from being noticed.
    """
    if latest is None or not latest.is_live or not rule.is_sequence:
        return ()
    after = sequences.advance_to(rule, latest, now)
    return () if after is latest else (after,)


def _version_digest(rule: Rule) -> str:
    """Digest what decides; what was not there in the first release only where it is set."""
    times = [rule.for_.total_seconds(), rule.keep_firing_for.total_seconds()]
    later = {
        "then": rule.then,
        "without": rule.without,
        "within": rule.within.total_seconds(),
        "quiet": rule.quiet.total_seconds(),
        "active": rule.active and rule.active.text,
    }
    deciding: list[object] = [rule.question, rule.above, rule.below, *times]
    deciding += [each for each in later.items() if each[1]]
    return sha256(json.dumps(deciding).encode()).hexdigest()[:12]


@lru_cache(maxsize=65536)
def _is_match(patterns: tuple[str, ...], camera: str) -> bool:
    return any(fnmatchcase(camera, pattern) for pattern in patterns)
