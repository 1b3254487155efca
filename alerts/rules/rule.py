"""Rules and the samples that they judge, as plain values.

A sample is a finding, or a health sample from the coverage ledger (see `alerts.rules.health`).
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256

from alerts.hours import Hours
from storage.records.records import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSample:
    """The score of a question (or `health/...`) on a camera at an instant.

    `reason` is the known cause of an active `health/...`.
    """

    id: str
    camera: str
    question: str
    at: datetime
    score: float
    reason: str = ""


def sample_from_finding(finding: Finding) -> RuleSample:
    """Return the sample of a finding; its instant is the end of the window."""
    return RuleSample(
        id=finding.id,
        camera=finding.camera,
        question=finding.question,
        at=finding.end,
        score=finding.score,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When samples become an incident.

    `cameras` are names and globs such as `dock-*`; none means all. At most one of `then` and
    `without` names a second question, and `within` is the longest gap between the two.
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
    """A digest of the fields that decide whether there is an incident."""

    def __post_init__(self) -> None:
        """Compute the version once: every sample needs it."""
        object.__setattr__(self, "version", _version_digest(self))

    def has_camera(self, camera: str) -> bool:
        """Return whether this rule covers a camera."""
        return covers_camera(self.cameras, camera)

    def is_active(self, at: datetime) -> bool:
        """Return whether an instant is within the active hours."""
        return self.active is None or self.active.is_active_at(at)

    @property
    def incident_timeout(self) -> timedelta:
        """Return how long an incident stays live without samples."""
        return max(self.keep_firing_for, self.within) + self.stale_after

    @property
    def is_sequence(self) -> bool:
        """Return whether the rule has two questions."""
        return self.then is not None or self.without is not None


def is_about(rule: Rule, sample: RuleSample) -> bool:
    """Return whether a rule judges a sample, by its camera and question."""
    question = sample.question
    if question != rule.question and question not in (rule.then, rule.without):
        return False
    return rule.has_camera(sample.camera)


def _version_digest(rule: Rule) -> str:
    """Digest the deciding fields; those newer than the first release only if they are set."""
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
def covers_camera(patterns: tuple[str, ...], camera: str) -> bool:
    """Return whether a name or glob matches a camera; no patterns match every camera."""
    return not patterns or any(fnmatchcase(camera, pattern) for pattern in patterns)
