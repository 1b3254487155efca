"""Samples of a camera, and what the fold makes of them."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from storage_fixtures import EVERY, START

from alerts.rules import Rule, Sample, changes, looks_at
from storage.records import Incident

RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5)
MINUTE = timedelta(minutes=1)


def a_sample(
    number: int = 0, score: float = 0.9, question: str = "bag", camera: str = "dock"
) -> Sample:
    return at(START + number * EVERY, score, question, camera)


def at(when: datetime, score: float = 0.9, question: str = "bag", camera: str = "dock") -> Sample:
    id = f"{camera}@{when.isoformat()}/{question}"
    return Sample(id=id, camera=camera, question=question, at=when, score=score)


def scored(*scores: float) -> list[Sample]:
    return [a_sample(n, score) for n, score in enumerate(scores)]


def fold(rule: Rule, samples: Iterable[Sample]) -> list[Incident]:
    """Return every incident that the samples make, as it stands at the end."""
    incidents: dict[object, Incident] = {}
    latest: Incident | None = None
    for sample in samples:
        if not looks_at(rule, sample):
            continue
        for incident in changes(rule, latest, sample):
            assert incident.revision == (
                latest.revision + 1 if latest and latest.id == incident.id else 1
            )
            incidents[incident.id] = latest = incident
    return list(incidents.values())
