"""Finding in the log the window that a finding is about, and its neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.errors import Unreadable
from storage.log import WINDOWS, Entry, Log
from storage.records import Finding, Window
from storage.wire import decode_window

SOON, LATE = timedelta(seconds=10), timedelta(minutes=10)
"""How far the times of a window and of its append are apart, mostly and at most."""
_PAGE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The window of a finding, the camera's one before it, and the position in `part` behind it."""

    at: Window
    before: Window | None
    part: str
    position: int


def find_window(log: Log, finding: Finding) -> Found | None:
    """Return where the window of a finding is in the log; None where it is not."""
    near = _find(log, finding, SOON)
    return near if near and near.before else _find(log, finding, LATE)


def next_window(log: Log, part: str, position: int, camera: str) -> Window | None:
    """Return a camera's first readable window at or after a position, if it is there yet."""
    while entries := log.read(part, position, limit=_PAGE, key=camera):
        for entry in entries:
            try:
                return decode_window(entry.value)
            except Unreadable:
                continue  # the analyzer has set it aside
        position = entries[-1].position + 1
    return None


def _find(log: Log, finding: Finding, slack: timedelta) -> Found | None:
    before: Window | None = None
    for entry, window in _windows(log, finding, slack):
        if window.id == finding.window_id:
            return Found(at=window, before=before, part=entry.topic, position=entry.position + 1)
        before = window
    return None


def _windows(log: Log, finding: Finding, slack: timedelta) -> Iterator[tuple[Entry, Window]]:
    """Yield a camera's windows that were appended around a finding, with their entries."""
    part = log.part_of(WINDOWS, finding.camera)
    length = finding.end - finding.start
    position = appended_from(log, part, finding.start - length - slack)
    while entries := log.read(part, position, limit=_PAGE, key=finding.camera):
        for entry in entries:
            if entry.at > finding.end + length + slack:
                return
            try:
                yield entry, decode_window(entry.value)
            except Unreadable:
                continue  # the analyzer has set it aside
        position = entries[-1].position + 1


def appended_from(log: Log, part: str, at: datetime) -> int:
    """Return the position of the first entry that was appended at or after an instant."""
    low, high = log.oldest(part), log.next(part)
    step = 1
    # What is looked for is mostly near the end.
    while low < high - step and _is_since(log, part, high - step, at):
        high, step = high - step, 2 * step
    low = max(low, high - step)
    while low < high:
        middle = (low + high) // 2
        if _is_since(log, part, middle, at):
            high = middle
        else:
            low = middle + 1
    return low


def _is_since(log: Log, part: str, position: int, at: datetime) -> bool:
    """Return whether the entry at a position was appended at or after an instant."""
    entries = log.read(part, position, limit=1)
    return not entries or entries[0].at >= at
