"""What a rule should make of a camera's samples, told by looking at all of them at once.

It shares nothing with the fold but the values it is given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from alerts.rules.rule import Rule, RuleSample
from storage.records.records import Incident, IncidentState

OUTSIDE_HOURS = -1.0
TICK = "tick"
"""The question of a sample that says nothing but the time."""


@dataclass(frozen=True)
class IncidentTimeline:
    state: IncidentState
    first_seen_at: datetime
    opened_at: datetime | None
    last_seen_at: datetime
    closed_at: datetime | None


def timeline_of(incident: Incident) -> IncidentTimeline:
    return IncidentTimeline(
        incident.state,
        incident.first_seen_at,
        incident.opened_at,
        incident.last_seen_at,
        incident.closed_at,
    )


def expected_timelines(rule: Rule, samples: Iterable[RuleSample]) -> list[IncidentTimeline]:
    """Tell every incident; a window has one sample of a question, and windows come in order."""
    windows = [
        _SampleWindow.of(rule, group) for _, group in groupby(samples, key=lambda each: each.at)
    ]
    timelines: list[IncidentTimeline] = []
    while windows:
        begins = [n for n, window in enumerate(windows) if _can_begin(rule, timelines, window)]
        if not begins:
            return timelines
        evaluate = (
            _threshold if rule.then is rule.without is None else _then if rule.then else _without
        )
        story, passed = evaluate(rule, windows[begins[0] :])
        timelines.append(story)
        windows = windows[begins[0] + passed :]
    return timelines


@dataclass(frozen=True)
class _SampleWindow:
    at: datetime
    first: float | None
    second: float | None
    is_active: bool
    is_tick: bool

    @classmethod
    def of(cls, rule: Rule, samples: Iterable[RuleSample]) -> "_SampleWindow":
        scores, at = dict[str, float](), None
        for sample in samples:
            scores[sample.question], at = sample.score, sample.at
        assert at is not None
        active = rule.active is None or TICK in scores or rule.active.is_active_at(at)
        second = rule.then or rule.without or ""
        return cls(at, scores.get(rule.question), scores.get(second), active, TICK in scores)


def _can_begin(rule: Rule, timelines: list[IncidentTimeline], window: _SampleWindow) -> bool:
    if window.first is None or window.first < rule.above or not window.is_active:
        return False
    opened = [story.closed_at for story in timelines if story.opened_at and story.closed_at]
    return not opened or window.at >= opened[-1] + rule.quiet


def _threshold(rule: Rule, windows: Sequence[_SampleWindow]) -> tuple[IncidentTimeline, int]:
    observed = [(each.at, each.first if each.is_active else OUTSIDE_HOURS) for each in windows]
    scores = [(at, OUTSIDE_HOURS if score is None else score) for at, score in observed]
    first = scores[0][0]
    stop = _unbroken(rule, scores)
    opening = next(
        (
            n
            for n in range(stop)
            if scores[n][1] >= rule.above and scores[n][0] - first >= rule.for_
        ),
        None,
    )
    if opening is not None:
        return _opened(rule, scores, opening)
    last = scores[stop - 1][0]
    if stop == len(scores):
        return IncidentTimeline(IncidentState.PENDING, first, None, last, None), stop
    silent = scores[stop][0] - last > rule.stale_after
    closed = last if silent else scores[stop][0]
    # What ends by silence leaves the next sample free to begin anew; any other end takes it.
    return IncidentTimeline(IncidentState.DISMISSED, first, None, last, closed), stop + (not silent)


Scores = Sequence[tuple[datetime, float]]


def _unbroken(rule: Rule, scores: Scores) -> int:
    for n in range(1, len(scores)):
        silence = scores[n][0] - scores[n - 1][0]
        if scores[n][1] < rule.below or silence > rule.stale_after:
            return n
    return len(scores)


def _opened(
    rule: Rule, scores: Scores, opening: int, since: int = 0
) -> tuple[IncidentTimeline, int]:
    first, opened = scores[since][0], scores[opening][0]
    alive = [n for n in range(opening, len(scores)) if scores[n][1] >= rule.below]
    for n in range(opening + 1, len(scores)):
        last = scores[max(m for m in alive if m <= n)][0]
        if scores[n][1] < rule.below and scores[n][0] - last >= rule.keep_firing_for:
            return IncidentTimeline(
                IncidentState.RESOLVED, first, opened, last, scores[n][0]
            ), n + 1
    return IncidentTimeline(IncidentState.OPEN, first, opened, scores[alive[-1]][0], None), len(
        scores
    )


def _then(rule: Rule, windows: Sequence[_SampleWindow]) -> tuple[IncidentTimeline, int]:
    begun = last = windows[0].at
    for n, window in enumerate(windows[1:], 1):
        if window.at - last > rule.within:
            return IncidentTimeline(
                IncidentState.DISMISSED, begun, None, last, last + rule.within
            ), n
        if not window.is_active:
            return IncidentTimeline(IncidentState.DISMISSED, begun, None, last, window.at), n + 1
        if window.second is not None and window.second >= rule.above:
            return _second_lasts(rule, windows, begun, n)
        if window.first is not None and window.first >= rule.below:
            last = window.at
    return IncidentTimeline(IncidentState.PENDING, begun, None, last, None), len(windows)


def _second_lasts(
    rule: Rule, windows: Sequence[_SampleWindow], begun: datetime, opening: int
) -> tuple[IncidentTimeline, int]:
    observed = [
        (
            n,
            window.at,
            OUTSIDE_HOURS if not window.is_active or window.second is None else window.second,
        )
        for n, window in enumerate(windows)
        if n >= opening and (window.second is not None or not window.is_active)
    ]
    story, passed = _opened(rule, [(at, score) for _, at, score in observed], 0)
    closed = story.closed_at is not None
    taken = observed[passed - 1][0] + 1 if closed else len(windows)
    return IncidentTimeline(
        story.state, begun, story.opened_at, story.last_seen_at, story.closed_at
    ), taken


def _without(rule: Rule, windows: Sequence[_SampleWindow]) -> tuple[IncidentTimeline, int]:
    begun = windows[0].at
    deadline = begun + rule.within
    last = begun
    for n, window in enumerate(windows[1:], 1):
        if window.at > deadline:
            return _missing(rule, windows, last, n)
        if not window.is_active:
            return IncidentTimeline(IncidentState.DISMISSED, begun, None, last, window.at), n + 1
        last = last if window.is_tick else window.at
        if window.second is not None and window.second >= rule.above:
            return _same_occasion(rule, windows, n)
    return IncidentTimeline(IncidentState.PENDING, begun, None, last, None), len(windows)


def _same_occasion(
    rule: Rule, windows: Sequence[_SampleWindow], came: int
) -> tuple[IncidentTimeline, int]:
    begun, last = windows[0].at, windows[came].at
    for n, window in enumerate(windows[came + 1 :], came + 1):
        if window.at - last > rule.stale_after:
            return IncidentTimeline(IncidentState.DISMISSED, begun, None, last, last), n
        over = window.first is not None and window.first < rule.below
        if over or not window.is_active:
            return IncidentTimeline(IncidentState.DISMISSED, begun, None, last, window.at), n + 1
        if window.first is not None:
            last = window.at
    return IncidentTimeline(IncidentState.PENDING, begun, None, last, None), len(windows)


def _missing(
    rule: Rule, windows: Sequence[_SampleWindow], last: datetime, passed: int
) -> tuple[IncidentTimeline, int]:
    begun, opened = windows[0].at, windows[0].at + rule.within
    if rule.active is not None and not rule.active.is_active_at(opened):
        return IncidentTimeline(IncidentState.DISMISSED, begun, None, last, opened), passed
    ends = [
        n
        for n, window in enumerate(windows)
        if n >= passed
        and (not window.is_active or (window.second is not None and window.second >= rule.above))
    ]
    until = ends[0] if ends else len(windows)
    seen = [window.at for window in windows[passed:until] if window.second is not None]
    last = max([opened, *seen])
    if not ends:
        return IncidentTimeline(IncidentState.OPEN, begun, opened, last, None), until
    return IncidentTimeline(
        IncidentState.RESOLVED, begun, opened, last, windows[until].at
    ), until + 1
