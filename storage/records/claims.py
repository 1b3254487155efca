"""Coverage: the state of every second of every camera, as claims and intervals.

Claims are on the topic `coverage`, with the camera as the key:

- The camera's process claims each of its seconds once, in order: `waiting` for a window that it
  put into the log, from where the last claim ended to its last still and one period more;
  `camera_down` while there was no connection; `stream_broken` while there was one and no picture
  that may be shown; `overloaded` for pictures that its machine was too slow for; `ingest_down`
  while it did not run, and for windows that the log did not take; `moved`, `frozen` and `covered`
  for what its pictures show.
- The analyzer claims `analysed` for each window that it read, `corrupt` for one that it could
  not read, and nothing before that is in the log. It reads a camera's windows in order, so
  what still waits before one was dropped from the log: `shed`, or `analyzer_down` when that is
  found at its start.
- A process that was dead says so when it is back: the first claim of a camera's process is
  `ingest_down` from the end of the stored coverage. A SIGKILL leaves no hole for longer.
- Alerts folds the claims into the database, and once a minute `shed` for what waits although the
  log no longer has it, and for claims that the log dropped. These are in the database alone.

A claim without a start begins at the end of the stored coverage for `ingest_down`, and for any
other state at the intervals that wait.

Claims may come late, twice, and in any order: of two for the same second the later state of
`CoverageState` wins, so that the result is the same.

A claim of `camera_down`, `stream_broken` or `overloaded` says why. An interval ends where the
reason changes, so that each second keeps its own.

A claim of a state that version 1 has not is of version 2: beside its `state` it names a `base`,
an older state that stands for it. A reader that does not know the state takes the base, so that
a state may be added without another version. All other claims are of version 1, to the byte.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from storage.records.framing import (
    VERSION,
    decode_strictly,
    encode_record,
    from_fields,
    parse_versioned,
)
from storage.records.json_types import Instant, record_adapter
from storage.records.records import CoverageInterval, CoverageState, TimeSpan, Window
from storage.records.wire import MAX_REASON, Name, Reason
from storage.text import one_line

CAMERA_STATES = frozenset(
    {
        CoverageState.WAITING,
        CoverageState.CAMERA_DOWN,
        CoverageState.INGEST_DOWN,
        CoverageState.STREAM_BROKEN,
        CoverageState.OVERLOADED,
        CoverageState.MOVED,
        CoverageState.FROZEN,
        CoverageState.COVERED,
    }
)
"""The states that a camera's process claims as they happen; others may come late."""
_FALLBACK_STATES = {
    CoverageState.STREAM_BROKEN: CoverageState.CAMERA_DOWN,
    CoverageState.OVERLOADED: CoverageState.INGEST_DOWN,
    CoverageState.MOVED: CoverageState.COVERED,
}
"""The states that version 1 has not, and which stands for each."""
PRECEDENCE = {state: weight for weight, state in enumerate(CoverageState)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim of a camera's state; the head of this file says where one without `start` begins.

    `reason` says why, without a password; `encode_claim` cuts it to one line.
    """

    camera: str
    start: datetime | None
    end: datetime
    state: CoverageState
    reason: str = ""


def _check_claim(claim: Claim) -> Claim:
    if claim.start is not None and claim.start >= claim.end:
        raise ValueError("start: not before end")
    return claim


def _check_version_1(state: CoverageState) -> CoverageState:
    if state in _FALLBACK_STATES:
        raise ValueError(f"{state} is of version {len(_EVENT_TYPES)}")
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class _LaterClaim:
    """A claim of version 2: a reader that does not know `state` reads `base` instead."""

    camera: str
    start: datetime | None
    end: datetime
    state: str
    base: CoverageState
    reason: str = ""


_EVENT_TYPES = ("longwatch.coverage.v1", "longwatch.coverage.v2")
_FIELDS: dict[str, Any] = {"camera": Name, "start": Instant | None, "end": Instant}
CLAIM = record_adapter(
    Claim,
    check=_check_claim,
    **_FIELDS,
    state=Annotated[
        CoverageState,
        AfterValidator(_check_version_1),
        WithJsonSchema(
            {"enum": [state for state in CoverageState if state not in _FALLBACK_STATES]}
        ),
    ],
    reason=Reason,
)
LATER_CLAIM = record_adapter(_LaterClaim, **_FIELDS, state=Name, base=CoverageState, reason=Reason)


def encode_claim(claim: Claim) -> bytes:
    """Write a claim; `reason` only if there is one, in one line of at most 500 characters."""
    base, reason = _FALLBACK_STATES.get(claim.state), one_line(claim.reason, MAX_REASON)
    if base is None:
        return encode_record(CLAIM, replace(claim, reason=reason))
    later = _LaterClaim(
        camera=claim.camera,
        start=claim.start,
        end=claim.end,
        state=claim.state,
        base=base,
        reason=reason,
    )
    _check_claim(claim)
    return encode_record(LATER_CLAIM, later, version=len(_EVENT_TYPES))


def decode_claim(value: bytes) -> Claim:
    """Read a claim."""
    return decode_strictly(_parse_claim, value)


def _parse_claim(value: bytes) -> Claim:
    fields, version = parse_versioned(value, *_EVENT_TYPES)
    if version == VERSION:
        return from_fields(CLAIM, fields)
    later = from_fields(LATER_CLAIM, fields)
    is_known = later.state in list(CoverageState)
    return _check_claim(
        Claim(
            camera=later.camera,
            start=later.start,
            end=later.end,
            state=CoverageState(later.state) if is_known else later.base,
            reason=later.reason or ("" if is_known else later.state),
        )
    )


def covered_span(window: Window) -> TimeSpan:
    """Return the time that a window accounts for."""
    if window.covers is not None:
        return window.covers
    return TimeSpan(start=window.start, end=window.end + still_period(window))


def still_period(window: Window) -> timedelta:
    """Return the time between two stills of a window; 0 where there is one alone."""
    return (window.end - window.start) / max(1, len(window.stills) - 1)


def resolve_claim(claim: Claim, intervals: Sequence[CoverageInterval]) -> list[CoverageInterval]:
    """Return the intervals of a claim, given the stored intervals of its camera.

    For a claim with a start none are needed; without one, the last row for `ingest_down`, and
    those that wait for any other state.
    """
    if claim.start is not None:
        spans = [(claim.start, claim.end)]
    elif claim.state is CoverageState.INGEST_DOWN:
        spans = [(max(interval.end for interval in intervals), claim.end)] if intervals else []
    else:
        waiting = [interval for interval in intervals if interval.state is CoverageState.WAITING]
        spans = [(interval.start, min(interval.end, claim.end)) for interval in waiting]
    return [
        CoverageInterval(
            camera=claim.camera, start=start, end=end, state=claim.state, reason=claim.reason
        )
        for start, end in spans
        if start < end
    ]


def merge_intervals(intervals: Iterable[CoverageInterval]) -> list[CoverageInterval]:
    """Return the same time, each instant once and in the state that says most, equals joined.

    The rows are of one camera and may overlap. Of two reasons for the same instant and state
    one holds, whichever came first, so that the order of arrival changes nothing.
    """
    intervals = list(intervals)
    edges = sorted(
        {interval.start for interval in intervals} | {interval.end for interval in intervals}
    )
    found: list[CoverageInterval] = []
    for start, end in pairwise(edges):
        overlapping = [
            interval for interval in intervals if interval.start <= start and end <= interval.end
        ]
        if not overlapping:
            continue
        strongest = max(overlapping, key=lambda row: (PRECEDENCE[row.state], row.reason))
        last = found[-1] if found else None
        if last is not None and (last.end, *_state_and_reason(last)) == (
            start,
            *_state_and_reason(strongest),
        ):
            found[-1] = replace(last, end=end)
        else:
            found.append(replace(strongest, start=start, end=end))
    return found


def clip_intervals(intervals: Iterable[CoverageInterval], span: TimeSpan) -> list[CoverageInterval]:
    """Return the parts of intervals within a span."""
    clipped = [
        replace(interval, start=max(interval.start, span.start), end=min(interval.end, span.end))
        for interval in intervals
    ]
    return [interval for interval in clipped if interval.start < interval.end]


def uncovered_spans(intervals: Iterable[CoverageInterval], span: TimeSpan) -> list[TimeSpan]:
    """Return the parts of a span that no interval covers."""
    gaps, covered_until = [], span.start
    for interval in sorted(clip_intervals(intervals, span), key=lambda row: row.start):
        if interval.start > covered_until:
            gaps.append(TimeSpan(start=covered_until, end=interval.start))
        covered_until = max(covered_until, interval.end)
    return (
        [*gaps, TimeSpan(start=covered_until, end=span.end)] if covered_until < span.end else gaps
    )


def _state_and_reason(interval: CoverageInterval) -> tuple[CoverageState, str]:
    return interval.state, interval.reason
