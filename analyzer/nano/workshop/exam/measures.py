"""The measures of an evaluation, as pure functions of answers and truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.nano.workshop.moments import SecondsSpan
from analyzer.nano.workshop.renderer.events import EventKind, SceneEvent

MAX_DELAY = 48.0
"""Seconds from the start of an event within which its detection is in time."""
GRACE = 16.0
"""An incident may open a window before its event begins or a window after it is over."""
MIN_EXPECTED_SECONDS = 16.0
"""Seconds that an event must be visible for its incident to be expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An incident of a rule about one kind, in seconds of the stream; `closed` None: still open."""

    kind: EventKind
    opened: float
    closed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmMatch:
    """The detected ones of the expected events, and the false incidents."""

    told: tuple[SceneEvent, ...]
    delays: tuple[float | None, ...]
    """Seconds from the start of each detected event; None if an incident was open before."""
    missed: tuple[SceneEvent, ...]
    false: tuple[Alarm, ...]


def auc(margins: Sequence[float], truths: Sequence[bool]) -> float:
    """Return the area under the ROC curve: how often a true one scores above a false one.

    Raises ValueError if all are true or none is.
    """
    yes, no = _split_by_truth(margins, truths)
    above = (yes[:, None] > no[None, :]).mean() + (yes[:, None] == no[None, :]).mean() / 2
    return float(above)


def balanced_accuracy(
    margins: Sequence[float], truths: Sequence[bool], threshold: float = 0.0
) -> float:
    """Return the balanced accuracy of saying yes above a threshold; ValueError as for `auc`."""
    yes, no = _split_by_truth(margins, truths)
    return float(((yes > threshold).mean() + (no <= threshold).mean()) / 2)


def best_balanced_accuracy(margins: Sequence[float], truths: Sequence[bool]) -> float:
    """Return the balanced accuracy at the threshold that suits these very margins best."""
    thresholds = [float("-inf"), *margins]
    return max(balanced_accuracy(margins, truths, threshold) for threshold in thresholds)


def iou(one: SecondsSpan, other: SecondsSpan) -> float:
    """Return the intersection over the union of two spans."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    covered = max(one.end, other.end) - min(one.start, other.start)
    return max(0.0, shared) / covered if covered > 0 else 1.0


def match_alarms(events: Sequence[SceneEvent], alarms: Sequence[Alarm]) -> AlarmMatch:
    """Match incidents with the events of their kind that they overlap.

    An incident is false unless it opens during such an event or shortly after, or within
    `MAX_DELAY` of its start if that is later. An event is detected if an incident that is not
    false is open during its first `MAX_DELAY` seconds; an incident that was open before has no
    delay. Events visible for less than `PLAIN` seconds excuse an incident and are not expected.
    """
    right = [alarm for alarm in alarms if any(_is_about(alarm, event) for event in events)]
    found, delays, missed = list[SceneEvent](), list[float | None](), list[SceneEvent]()
    for event in events:
        if event.end - event.start < MIN_EXPECTED_SECONDS:
            continue
        opened = [alarm.opened for alarm in right if _covers(alarm, event)]
        if opened:
            found.append(event)
            delays.append(min(opened) - event.start if min(opened) >= event.start else None)
        else:
            missed.append(event)
    return AlarmMatch(
        told=tuple(found),
        delays=tuple(delays),
        missed=tuple(missed),
        false=tuple(alarm for alarm in alarms if alarm not in right),
    )


def _split_by_truth(
    margins: Sequence[float], truths: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    truth = np.asarray(truths, bool)
    if truth.all() or not truth.any():
        raise ValueError("a curve needs what is true and what is false")
    return np.asarray(margins, float)[truth], np.asarray(margins, float)[~truth]


def _is_about(alarm: Alarm, event: SceneEvent) -> bool:
    latest = max(event.start + MAX_DELAY, event.end + GRACE)
    in_time = event.start - GRACE <= alarm.opened <= latest
    return alarm.kind is event.kind and in_time and _outlasts(alarm, event)


def _covers(alarm: Alarm, event: SceneEvent) -> bool:
    in_time = alarm.opened <= event.start + MAX_DELAY
    return alarm.kind is event.kind and in_time and _outlasts(alarm, event)


def _outlasts(alarm: Alarm, event: SceneEvent) -> bool:
    return alarm.closed is None or alarm.closed > event.start
