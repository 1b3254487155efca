"""The search in the log for the window of a finding, and for its neighbours.

It compares the instants in a camera's windows, which grow with the offset. Append times would not
help: their clock may be hours off that of the camera's host.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.errors import Unreadable
from storage.log.log import Log, LogEntry
from storage.records.claims import covered_span
from storage.records.records import Finding, Window
from storage.records.topics import WINDOWS
from storage.records.wire import decode_window

USUAL_GAP, LONGEST_GAP = timedelta(seconds=10), timedelta(minutes=10)
"""The gap between two windows of a camera, usually and at most."""
_PAGE = 4
_FIRST_STEP = 8
"""A search begins this many entries before the end, as most windows are near it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedWindow:
    """The window of a finding, the camera's previous one, and the next offset in `partition`."""

    window: Window
    previous: Window | None
    partition: str
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedWindow:
    """A window of the log, and its offset."""

    offset: int
    window: Window


def find_window(log: Log, finding: Finding) -> LocatedWindow | None:
    """Return the window of a finding in the log; None if it is not there."""
    located = _find(log, finding, USUAL_GAP)
    return located if located and located.previous else _find(log, finding, LONGEST_GAP)


def next_window(log: Log, partition: str, offset: int, camera: str) -> Window | None:
    """Return a camera's first readable window at or after an offset, if any."""
    logged = next(windows_from(log, partition, offset, camera), None)
    return logged.window if logged else None


def entries_from(
    log: Log, partition: str, offset: int, camera: str, page_size: int = _PAGE
) -> Iterator[LogEntry]:
    """Yield a camera's entries at or after an offset."""
    while (page := log.read(partition, offset, limit=page_size, key=camera)).next_offset > offset:
        yield from page
        offset = page.next_offset


def windows_from(
    log: Log, partition: str, offset: int, camera: str, page_size: int = _PAGE
) -> Iterator[LoggedWindow]:
    """Yield a camera's windows at or after an offset; skip unreadable entries."""
    for entry in entries_from(log, partition, offset, camera, page_size):
        with suppress(Unreadable):
            yield LoggedWindow(offset=entry.offset, window=decode_window(entry.value))


def first_window_after(log: Log, partition: str, camera: str, at: datetime) -> LoggedWindow | None:
    """Return a camera's first window that covers time after an instant of its host's clock."""
    low, high, step = log.start_offset(partition), log.end_offset(partition), _FIRST_STEP
    first, is_bracketed = None, False
    while low < high:
        middle = (low + high) // 2 if is_bracketed else max(low, high - step)
        logged = next(windows_from(log, partition, middle, camera, page_size=1), None)
        if logged is None or covered_span(logged.window).end > at:
            first, high, step = logged, middle, 2 * step
        else:
            low, is_bracketed = logged.offset + 1, True
    return first


def _find(log: Log, finding: Finding, max_gap: timedelta) -> LocatedWindow | None:
    partition = log.partition_for(WINDOWS, finding.camera)
    since = finding.start - (finding.end - finding.start) - max_gap
    first = first_window_after(log, partition, finding.camera, since)
    if first is None:
        return None
    previous: Window | None = None
    for logged in windows_from(log, partition, first.offset, finding.camera):
        if logged.window.id == finding.window_id:
            return LocatedWindow(
                window=logged.window,
                previous=previous,
                partition=partition,
                next_offset=logged.offset + 1,
            )
        if logged.window.start > finding.end + max_gap:
            return None
        previous = logged.window
    return None
