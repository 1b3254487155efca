"""What rules see of the ledger of coverage: samples that say whether a camera is watched.

No model is needed for them. The ledger tells of a camera's latest interval whenever that grows
or changes its state; each `health/...` question is then answered by 1, where the state is one of
its own, or 0. An interval that answers 1 is told from its begin on, so that an incident begins
when the camera went down and not when that was noticed.

A sample of 1 carries a reason where one is known: why the camera is down, or, of `unwatched`,
which of its causes it is.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from alerts.rules.rule import RuleSample
from storage.records.wire import MAX_REASON
from storage.text import one_line

HEALTH_PREFIX = "health/"
HEALTH_STATES = {
    "camera_down": frozenset({"camera_down"}),
    "stream_broken": frozenset({"stream_broken"}),
    "overloaded": frozenset({"overloaded"}),
    "moved": frozenset({"moved"}),
    "frozen": frozenset({"frozen"}),
    "covered": frozenset({"covered"}),
    "unwatched": frozenset(
        {
            "camera_down",
            "stream_broken",
            "overloaded",
            "ingest_down",
            "analyzer_down",
            "shed",
            "corrupt",
        }
    ),
    "clock_ahead": frozenset[str](),
}
"""The states of the ledger in which each answer is yes; in `waiting` nobody knows of the last."""
_UNANSWERED = {("unwatched", "waiting")}
UNREPORTED_AFTER = timedelta(minutes=1)
"""A ledger that ends longer ago than this says by its silence that nobody watches."""
UNDELIVERED = "undelivered"
"""Answered for a receiver, not for a camera, and only by yes: somebody was not told."""
CLOCK_AHEAD, CLOCK_BEHIND = "clock_ahead", "clock_behind"
"""A camera writes instants that are ahead of our clock; a reader doubts its own clock."""

LOG_UNREACHABLE = "log_unreachable"
"""Answered for a reader of the log, which does not answer it."""
ROLE_DOWN = "role_down"
"""Answered for a role of this machine: its supervisor holds it back, or no longer does."""
_ROLE = "role/"
_CAUSES = {
    "camera_down": "the camera is down",
    "stream_broken": "the camera's stream gives no pictures",
    "overloaded": "the machine that reads the camera is too slow",
    "ingest_down": "the camera's process was not running",
    "analyzer_down": "the analyzer was not running",
    "shed": "analysis is slower than the cameras",
    "corrupt": "windows could not be analysed",
}
_UNREPORTED = "nothing is reported about the camera any more"


def health_samples(
    camera: str, state: str, start: datetime, end: datetime, reason: str = ""
) -> Iterator[RuleSample]:
    """Yield what an interval of the ledger says, in order, with the reason that it gives."""
    id = f"{camera}@{start.isoformat(timespec='milliseconds')}/{state}"
    for name, states in HEALTH_STATES.items():
        if (name, state) in _UNANSWERED:
            continue
        if state not in states:
            yield _sample(camera, name, end, f"{id}/{end.isoformat()}", is_active=False)
            continue
        cause = reason or (_CAUSES[state] if name == "unwatched" else "")
        for at in (start, end):
            yield _sample(camera, name, at, f"{id}/{at.isoformat()}", is_active=True, reason=cause)


def unreported_samples(camera: str, end: datetime, now: datetime) -> Iterator[RuleSample]:
    """Yield that nobody watches a camera whose ledger ended longer ago than `UNREPORTED_AFTER`.

    Ask only while all claims that are in the log are in the ledger, or none can be read.
    """
    if now - end > UNREPORTED_AFTER:
        for at in (end + UNREPORTED_AFTER, now):
            id = f"{camera}@{at.isoformat()}/unheard"
            yield _sample(camera, "unwatched", at, id, is_active=True, reason=_UNREPORTED)


def undelivered_sample(receiver: str, at: datetime, id: str, reason: str = "") -> RuleSample:
    """Return that a receiver was not told of something; `id` is that of the delivery."""
    id = id or at.isoformat()
    reason = one_line(reason, MAX_REASON)
    return _sample(f"receiver/{receiver}", UNDELIVERED, at, id, is_active=True, reason=reason)


def role_from_camera(camera: str) -> str | None:
    """Return the role that an incident is about; None where it is about something else."""
    return camera.removeprefix(_ROLE) if camera.startswith(_ROLE) else None


def role_sample(role: str, at: datetime, *, is_active: bool, reason: str = "") -> RuleSample:
    """Return whether a role cannot run as it is configured, and why."""
    id = f"{role}@{at.isoformat()}"
    return _sample(_ROLE + role, ROLE_DOWN, at, id, is_active=is_active, reason=reason)


def ahead_sample(camera: str, at: datetime) -> RuleSample:
    """Return that a camera's clock is ahead; any interval in its ledger says that it is not."""
    return _sample(camera, CLOCK_AHEAD, at, f"{camera}@{at.isoformat()}", is_active=True)


def behind_sample(reader: str, at: datetime, *, is_active: bool) -> RuleSample:
    """Return whether a reader of the log doubts its own clock."""
    return _reader_sample(reader, CLOCK_BEHIND, at, is_active=is_active)


def unreachable_sample(
    reader: str, at: datetime, *, is_active: bool, reason: str = ""
) -> RuleSample:
    """Return whether the log does not answer a reader, and why."""
    reason = one_line(reason, MAX_REASON)
    return _reader_sample(reader, LOG_UNREACHABLE, at, is_active=is_active, reason=reason)


def reader_camera(reader: str) -> str:
    """Return what incidents about a reader of the log have for a camera."""
    return f"reader/{reader}"


def _reader_sample(
    reader: str, name: str, at: datetime, *, is_active: bool, reason: str = ""
) -> RuleSample:
    camera = reader_camera(reader)
    return _sample(
        camera, name, at, f"{camera}@{at.isoformat()}", is_active=is_active, reason=reason
    )


def _sample(
    camera: str, name: str, at: datetime, id: str, *, is_active: bool, reason: str = ""
) -> RuleSample:
    return RuleSample(
        id=f"{id}/{name}",
        camera=camera,
        question=HEALTH_PREFIX + name,
        at=at,
        score=1.0 if is_active else 0.0,
        reason=reason,
    )
