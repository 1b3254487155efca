"""What a rule should make of a camera's findings, told by looking at all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from alerts.rules import Rule
from storage.records import Finding, IncidentState


@dataclass(frozen=True)
class Story:
    state: IncidentState
    first_seen_at: datetime
    opened_at: datetime | None
    last_seen_at: datetime
    closed_at: datetime | None


def stories(rule: Rule, findings: Sequence[Finding]) -> list[Story]:
    """Tell every incident in findings whose ends strictly increase."""
    told = []
    begin = 0
    while begin < len(findings):
        if findings[begin].score < rule.above:
            begin += 1
            continue
        story, begin = _story(rule, findings, begin)
        told.append(story)
    return told


def _story(rule: Rule, findings: Sequence[Finding], begin: int) -> tuple[Story, int]:
    stop = _unbroken(rule, findings, begin)
    first = findings[begin].end
    opening = next(
        (
            n
            for n in range(begin, stop)
            if findings[n].score >= rule.above and findings[n].end - first >= rule.for_
        ),
        None,
    )
    if opening is not None:
        return _opened(rule, findings, begin, opening)
    last = findings[stop - 1].end
    if stop == len(findings):
        return Story(IncidentState.PENDING, first, None, last, None), stop
    silent = findings[stop].end - last > rule.stale_after
    closed = last if silent else findings[stop].end
    return Story(IncidentState.DISMISSED, first, None, last, closed), stop


def _unbroken(rule: Rule, findings: Sequence[Finding], begin: int) -> int:
    for n in range(begin + 1, len(findings)):
        silence = findings[n].end - findings[n - 1].end
        if findings[n].score < rule.below or silence > rule.stale_after:
            return n
    return len(findings)


def _opened(rule: Rule, findings: Sequence[Finding], begin: int, opening: int) -> tuple[Story, int]:
    first, opened = findings[begin].end, findings[opening].end
    alive = [n for n in range(opening, len(findings)) if findings[n].score >= rule.below]
    for n in range(opening + 1, len(findings)):
        last = findings[max(m for m in alive if m <= n)].end
        if findings[n].score < rule.below and findings[n].end - last >= rule.keep_firing_for:
            return Story(IncidentState.RESOLVED, first, opened, last, findings[n].end), n + 1
    return Story(IncidentState.OPEN, first, opened, findings[alive[-1]].end, None), len(findings)
