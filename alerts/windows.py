"""Finding in the log the window that a finding is about, and its neighbours.

A camera's windows are searched by the instants inside them, which grow with the position. When
they were appended is no help: the clock that says so may be hours off that of the camera's host.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.claims import covered_by
from storage.errors import Unreadable
from storage.log import WINDOWS, Entry, Log
from storage.records import Finding, Window
from storage.wire import decode_window

NEAR, FAR = timedelta(seconds=10), timedelta(minutes=10)
"""The break after a camera's window before, mostly and at most."""
_PAGE = 4
_STEP = 8
"""How many entries before the end a search begins: what is looked for is mostly near it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The window of a finding, the camera's one before it, and the position in `part` behind it."""

    at: Window
    before: Window | None
    part: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWindow:
    """A window of the log, and its position."""

    position: int
    window: Window


def find_window(log: Log, finding: Finding) -> Found | None:
    """Return where the window of a finding is in the log; None where it is not."""
    near = _find(log, finding, NEAR)
    return near if near and near.before else _find(log, finding, FAR)


def next_window(log: Log, part: str, position: int, camera: str) -> Window | None:
    """Return a camera's first readable window at or after a position, if it is there yet."""
    kept = next(windows_from(log, part, position, camera), None)
    return kept.window if kept else None


def entries_from(
    log: Log, part: str, position: int, camera: str, at_once: int = _PAGE
) -> Iterator[Entry]:
    """Yield a camera's entries at or after a position."""
    while (page := log.read(part, position, limit=at_once, key=camera)).next > position:
        yield from page
        position = page.next


def windows_from(
    log: Log, part: str, position: int, camera: str, at_once: int = _PAGE
) -> Iterator[KeptWindow]:
    """Yield a camera's windows at or after a position; the analyzer sets aside what is none."""
    for entry in entries_from(log, part, position, camera, at_once):
        with suppress(Unreadable):
            yield KeptWindow(position=entry.position, window=decode_window(entry.value))


def first_since(log: Log, part: str, camera: str, at: datetime) -> KeptWindow | None:
    """Return a camera's first window that covers time after an instant of its host's clock."""
    low, high, step = log.oldest(part), log.next(part), _STEP
    found, is_bracketed = None, False
    while low < high:
        middle = (low + high) // 2 if is_bracketed else max(low, high - step)
        kept = next(windows_from(log, part, middle, camera, at_once=1), None)
        if kept is None or covered_by(kept.window).end > at:
            found, high, step = kept, middle, 2 * step
        else:
            low, is_bracketed = kept.position + 1, True
    return found


def _find(log: Log, finding: Finding, slack: timedelta) -> Found | None:
    part = log.part_of(WINDOWS, finding.camera)
    since = finding.start - (finding.end - finding.start) - slack
    first = first_since(log, part, finding.camera, since)
    if first is None:
        return None
    before: Window | None = None
    for kept in windows_from(log, part, first.position, finding.camera):
        if kept.window.id == finding.window_id:
            return Found(at=kept.window, before=before, part=part, position=kept.position + 1)
        if kept.window.start > finding.end + slack:
            return None
        before = kept.window
    return None
