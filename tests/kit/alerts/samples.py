"""Samples of a camera, and what the fold makes of them."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from alerts.rules.replay import next_revisions
from alerts.rules.rule import Rule, RuleSample, is_about
from kit.storage.fixtures import START, WINDOW_LENGTH
from storage.records.records import Incident

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5)
MINUTE = timedelta(minutes=1)


def a_sample(
    number: int = 0, score: float = 0.9, question: str = "bag", camera: str = "dock"
) -> RuleSample:
    return sample_at(START + number * WINDOW_LENGTH, score, question, camera)


def sample_at(
    when: datetime, score: float = 0.9, question: str = "bag", camera: str = "dock"
) -> RuleSample:
    id = f"{camera}@{when.isoformat()}/{question}"
    return RuleSample(id=id, camera=camera, question=question, at=when, score=score)


def samples_of(*scores: float) -> list[RuleSample]:
    return [a_sample(n, score) for n, score in enumerate(scores)]


def fold(rule: Rule, samples: Iterable[RuleSample]) -> list[Incident]:
    """Return every incident that the samples make, as it stands at the end."""
    incidents: dict[object, Incident] = {}
    latest: Incident | None = None
    for sample in samples:
        if not is_about(rule, sample):
            continue
        for incident in next_revisions(rule, latest, sample):
            assert incident.revision == (
                latest.revision + 1 if latest and latest.id == incident.id else 1
            )
            incidents[incident.id] = latest = incident
    return list(incidents.values())
