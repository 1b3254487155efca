"""What a rule should make of a camera's samples, told by looking at all of them at once.

It shares nothing with the fold but the values it is given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from alerts.rules import Rule, Sample
from storage.records import Incident, IncidentState

OUTSIDE = -1.0
TICK = "tick"
"""The question of a sample that says nothing but the time."""


@dataclass(frozen=True)
class Story:
    state: IncidentState
    first_seen_at: datetime
    opened_at: datetime | None
    last_seen_at: datetime
    closed_at: datetime | None


def story_of(incident: Incident) -> Story:
    return Story(
        incident.state,
        incident.first_seen_at,
        incident.opened_at,
        incident.last_seen_at,
        incident.closed_at,
    )


def stories(rule: Rule, samples: Iterable[Sample]) -> list[Story]:
    """Tell every incident; a window has one sample of a question, and windows come in order."""
    windows = [_Window.of(rule, group) for _, group in groupby(samples, key=lambda each: each.at)]
    told: list[Story] = []
    while windows:
        begins = [n for n, window in enumerate(windows) if _begins(rule, told, window)]
        if not begins:
            return told
        tell = _threshold if rule.then is rule.without is None else _then if rule.then else _without
        story, passed = tell(rule, windows[begins[0] :])
        told.append(story)
        windows = windows[begins[0] + passed :]
    return told


@dataclass(frozen=True)
class _Window:
    at: datetime
    first: float | None
    second: float | None
    active: bool
    is_tick: bool

    @classmethod
    def of(cls, rule: Rule, samples: Iterable[Sample]) -> "_Window":
        scores, at = dict[str, float](), None
        for sample in samples:
            scores[sample.question], at = sample.score, sample.at
        assert at is not None
        active = rule.active is None or TICK in scores or rule.active.holds(at)
        second = rule.then or rule.without or ""
        return cls(at, scores.get(rule.question), scores.get(second), active, TICK in scores)


def _begins(rule: Rule, told: list[Story], window: _Window) -> bool:
    if window.first is None or window.first < rule.above or not window.active:
        return False
    opened = [story.closed_at for story in told if story.opened_at and story.closed_at]
    return not opened or window.at >= opened[-1] + rule.quiet


def _threshold(rule: Rule, windows: Sequence[_Window]) -> tuple[Story, int]:
    heard = [(each.at, each.first if each.active else OUTSIDE) for each in windows]
    scores = [(at, OUTSIDE if score is None else score) for at, score in heard]
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
        return Story(IncidentState.PENDING, first, None, last, None), stop
    silent = scores[stop][0] - last > rule.stale_after
    closed = last if silent else scores[stop][0]
    # What ends by silence leaves the next sample free to begin anew; any other end takes it.
    return Story(IncidentState.DISMISSED, first, None, last, closed), stop + (not silent)


Scores = Sequence[tuple[datetime, float]]


def _unbroken(rule: Rule, scores: Scores) -> int:
    for n in range(1, len(scores)):
        silence = scores[n][0] - scores[n - 1][0]
        if scores[n][1] < rule.below or silence > rule.stale_after:
            return n
    return len(scores)


def _opened(rule: Rule, scores: Scores, opening: int, since: int = 0) -> tuple[Story, int]:
    first, opened = scores[since][0], scores[opening][0]
    alive = [n for n in range(opening, len(scores)) if scores[n][1] >= rule.below]
    for n in range(opening + 1, len(scores)):
        last = scores[max(m for m in alive if m <= n)][0]
        if scores[n][1] < rule.below and scores[n][0] - last >= rule.keep_firing_for:
            return Story(IncidentState.RESOLVED, first, opened, last, scores[n][0]), n + 1
    return Story(IncidentState.OPEN, first, opened, scores[alive[-1]][0], None), len(scores)


def _then(rule: Rule, windows: Sequence[_Window]) -> tuple[Story, int]:
    begun = last = windows[0].at
    for n, window in enumerate(windows[1:], 1):
        if window.at - last > rule.within:
            return Story(IncidentState.DISMISSED, begun, None, last, last + rule.within), n
        if not window.active:
            return Story(IncidentState.DISMISSED, begun, None, last, window.at), n + 1
        if window.second is not None and window.second >= rule.above:
            return _second_lasts(rule, windows, begun, n)
        if window.first is not None and window.first >= rule.below:
            last = window.at
    return Story(IncidentState.PENDING, begun, None, last, None), len(windows)


def _second_lasts(
    rule: Rule, windows: Sequence[_Window], begun: datetime, opening: int
) -> tuple[Story, int]:
    told = [
        (n, window.at, OUTSIDE if not window.active or window.second is None else window.second)
        for n, window in enumerate(windows)
        if n >= opening and (window.second is not None or not window.active)
    ]
    story, passed = _opened(rule, [(at, score) for _, at, score in told], 0)
    closed = story.closed_at is not None
    taken = told[passed - 1][0] + 1 if closed else len(windows)
    return Story(story.state, begun, story.opened_at, story.last_seen_at, story.closed_at), taken


def _without(rule: Rule, windows: Sequence[_Window]) -> tuple[Story, int]:
    begun = windows[0].at
    deadline = begun + rule.within
    last = begun
    for n, window in enumerate(windows[1:], 1):
        if window.at > deadline:
            return _missing(rule, windows, last, n)
        if not window.active:
            return Story(IncidentState.DISMISSED, begun, None, last, window.at), n + 1
        last = last if window.is_tick else window.at
        if window.second is not None and window.second >= rule.above:
            return _same_occasion(rule, windows, n)
    return Story(IncidentState.PENDING, begun, None, last, None), len(windows)


def _same_occasion(rule: Rule, windows: Sequence[_Window], came: int) -> tuple[Story, int]:
    begun, last = windows[0].at, windows[came].at
    for n, window in enumerate(windows[came + 1 :], came + 1):
        if window.at - last > rule.stale_after:
            return Story(IncidentState.DISMISSED, begun, None, last, last), n
        over = window.first is not None and window.first < rule.below
        if over or not window.active:
            return Story(IncidentState.DISMISSED, begun, None, last, window.at), n + 1
        if window.first is not None:
            last = window.at
    return Story(IncidentState.PENDING, begun, None, last, None), len(windows)


def _missing(
    rule: Rule, windows: Sequence[_Window], last: datetime, passed: int
) -> tuple[Story, int]:
    begun, opened = windows[0].at, windows[0].at + rule.within
    if rule.active is not None and not rule.active.holds(opened):
        return Story(IncidentState.DISMISSED, begun, None, last, opened), passed
    ends = [
        n
        for n, window in enumerate(windows)
        if n >= passed
        and (not window.active or (window.second is not None and window.second >= rule.above))
    ]
    until = ends[0] if ends else len(windows)
    seen = [window.at for window in windows[passed:until] if window.second is not None]
    last = max([opened, *seen])
    if not ends:
        return Story(IncidentState.OPEN, begun, opened, last, None), until
    return Story(IncidentState.RESOLVED, begun, opened, last, windows[until].at), until + 1
