"""The ledger of coverage: what became of every second of every camera, as values.

Who claims what, on the topic `coverage`, each time with the camera as the key:

- The camera's process tells each of its seconds once, in order: `waiting` for a window that it
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
  `ingest_down` from wherever the ledger stands. No SIGKILL leaves a hole for longer than that.
- Alerts folds the claims into the database, and once a minute `shed` for what waits although the
  log holds it no more; so it does for claims that the log dropped. These are in the ledger alone.

A claim without a start begins where the ledger stands: `ingest_down` at its end, any other
state where something waits.

Claims may come late, twice, and in any order: of two for the same second the one that says
more holds (`CoverageState`), so that the ledger is the same in the end.

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

from storage.fields import Fields, write_instant
from storage.frames import VERSION, as_json, exactly, of_a_version, readable
from storage.records import Coverage, CoverageState, Span, Window
from storage.text import one_line
from storage.wire import MAX_NAME, MAX_REASON

OF_CAMERAS = frozenset(
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
_BASES = {
    CoverageState.STREAM_BROKEN: CoverageState.CAMERA_DOWN,
    CoverageState.OVERLOADED: CoverageState.INGEST_DOWN,
    CoverageState.MOVED: CoverageState.COVERED,
}
"""The states that version 1 has not, and which stands for each."""
_KINDS = ("longwatch.coverage.v1", "longwatch.coverage.v2")
WEIGHT = {state: weight for weight, state in enumerate(CoverageState)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What somebody says became of a camera; no `start` means where the ledger stands.

    `reason` says why, in words and without a password; of any length, the first part is kept.
    """

    camera: str
    start: datetime | None
    end: datetime
    state: CoverageState
    reason: str = ""


def encode_claim(claim: Claim) -> bytes:
    """Write a claim; `reason` only where there is one, in one line of at most 500 characters."""
    base = _BASES.get(claim.state)
    fields = {
        "version": VERSION if base is None else len(_KINDS),
        "camera": claim.camera,
        "start": claim.start and write_instant(claim.start),
        "end": write_instant(claim.end),
        "state": claim.state,
    }
    if base is not None:
        fields["base"] = base
    if reason := one_line(claim.reason, MAX_REASON):
        fields["reason"] = reason
    return readable(decode_claim, as_json(fields))


def decode_claim(value: bytes) -> Claim:
    """Read a claim."""
    return exactly(_claim, value)


def covered_by(window: Window) -> Span:
    """Return the time that a window accounts for."""
    if window.covers is not None:
        return window.covers
    return Span(start=window.start, end=window.end + period_of(window))


def period_of(window: Window) -> timedelta:
    """Return the time between two stills of a window; 0 where there is one alone."""
    return (window.end - window.start) / max(1, len(window.stills) - 1)


def settle(claim: Claim, rows: Sequence[Coverage]) -> list[Coverage]:
    """Return what a claim says in full, given the rows of its camera that it may build upon.

    For a claim with a start none are needed; without one, the last row for `ingest_down`, and
    those that wait for any other state.
    """
    if claim.start is not None:
        spans = [(claim.start, claim.end)]
    elif claim.state is CoverageState.INGEST_DOWN:
        spans = [(max(row.end for row in rows), claim.end)] if rows else []
    else:
        waiting = [row for row in rows if row.state is CoverageState.WAITING]
        spans = [(row.start, min(row.end, claim.end)) for row in waiting]
    return [
        Coverage(camera=claim.camera, start=start, end=end, state=claim.state, reason=claim.reason)
        for start, end in spans
        if start < end
    ]


def merged(rows: Iterable[Coverage]) -> list[Coverage]:
    """Return the same time, each instant once and in the state that says most, equals joined.

    The rows are of one camera and may overlap. Of two reasons for the same instant and state
    one holds, whichever came first, so that the order of arrival changes nothing.
    """
    rows = list(rows)
    edges = sorted({row.start for row in rows} | {row.end for row in rows})
    found: list[Coverage] = []
    for start, end in pairwise(edges):
        over = [row for row in rows if row.start <= start and end <= row.end]
        if not over:
            continue
        top = max(over, key=lambda row: (WEIGHT[row.state], row.reason))
        last = found[-1] if found else None
        if last is not None and (last.end, *_said(last)) == (start, *_said(top)):
            found[-1] = replace(last, end=end)
        else:
            found.append(replace(top, start=start, end=end))
    return found


def clipped(rows: Iterable[Coverage], span: Span) -> list[Coverage]:
    """Return what of the rows lies within a span."""
    cut = [
        replace(row, start=max(row.start, span.start), end=min(row.end, span.end)) for row in rows
    ]
    return [row for row in cut if row.start < row.end]


def unexplained(rows: Iterable[Coverage], span: Span) -> list[Span]:
    """Return the parts of a span that no row accounts for."""
    holes, reached = [], span.start
    for row in sorted(clipped(rows, span), key=lambda row: row.start):
        if row.start > reached:
            holes.append(Span(start=reached, end=row.start))
        reached = max(reached, row.end)
    return [*holes, Span(start=reached, end=span.end)] if reached < span.end else holes


def _said(row: Coverage) -> tuple[CoverageState, str]:
    return row.state, row.reason


def _claim(value: bytes) -> Claim:
    fields, version = of_a_version(value, _KINDS)
    camera = fields.text("camera", MAX_NAME)
    start, end = fields.maybe_instant("start"), fields.instant("end")
    state, unknown = _state(fields, version)
    reason = fields.maybe_text("reason", MAX_REASON) or unknown
    fields.end()
    if start is not None and start >= end:
        raise ValueError("start: not before end")
    return Claim(camera=camera, start=start, end=end, state=state, reason=reason)


def _state(fields: Fields, version: int) -> tuple[CoverageState, str]:
    """Take the state; where it is a later one its base, and its name."""
    if version == VERSION:
        state = fields.one_of("state", CoverageState)
        if state in _BASES:
            raise ValueError(f"state: {state} is of version {len(_KINDS)}")
        return state, ""
    name, base = fields.text("state", MAX_NAME), fields.one_of("base", CoverageState)
    return (CoverageState(name), "") if name in list(CoverageState) else (base, name)
