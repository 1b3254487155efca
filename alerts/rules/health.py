"""The states that health rules judge, and the samples that say whether each is active.

No model is involved. Most states come from the coverage ledger: whenever the latest interval of a
camera grows or changes its state, each `health/...` question gets a score of 1 or 0. The sample of
an active state is repeated at the start of the interval, so an incident begins when the camera
went down and not when that was noticed. It carries a reason if one is known: why the camera is
down or, for `unwatched`, which of its causes applies.

To add a state, add a member to `HealthState` and its sentence.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from alerts.rules.rule import RuleSample
from storage.records.records import CoverageState
from storage.records.wire import MAX_REASON
from storage.text import one_line

HEALTH_PREFIX = "health/"
UNREPORTED_AFTER = timedelta(minutes=1)
"""A camera whose coverage ended longer ago than this is unwatched."""
_ROLE = "role/"
_UNREPORTED = "nothing is reported about the camera any more"


class HealthState(StrEnum):
    """A state that a rule may name under `health`."""

    CAMERA_DOWN = "camera_down"
    STREAM_BROKEN = "stream_broken"
    OVERLOADED = "overloaded"
    MOVED = "moved"
    FROZEN = "frozen"
    COVERED = "covered"
    UNWATCHED = "unwatched"
    UNDELIVERED = "undelivered"
    ROLE_DOWN = "role_down"
    LOG_UNREACHABLE = "log_unreachable"
    CLOCK_AHEAD = "clock_ahead"
    CLOCK_BEHIND = "clock_behind"


HEALTH_SENTENCES: Mapping[HealthState, str] = {
    HealthState.CAMERA_DOWN: "no video",
    HealthState.STREAM_BROKEN: "the stream gives no pictures",
    HealthState.OVERLOADED: "the machine is too slow for its cameras",
    HealthState.MOVED: "the camera was turned",
    HealthState.FROZEN: "the picture is frozen",
    HealthState.COVERED: "the camera is covered or dark",
    HealthState.UNWATCHED: "nobody watches this camera",
    HealthState.UNDELIVERED: "messages are not delivered",
    HealthState.ROLE_DOWN: "it cannot run as it is configured",
    HealthState.LOG_UNREACHABLE: "the log does not answer",
    HealthState.CLOCK_AHEAD: "its clock is ahead of ours",
    HealthState.CLOCK_BEHIND: "our own clock seems to be behind",
}
UNWATCHED_CAUSES: Mapping[CoverageState, str] = {
    CoverageState.CAMERA_DOWN: "the camera is down",
    CoverageState.STREAM_BROKEN: "the camera's stream gives no pictures",
    CoverageState.OVERLOADED: "the machine that reads the camera is too slow",
    CoverageState.INGEST_DOWN: "the camera's process was not running",
    CoverageState.ANALYZER_DOWN: "the analyzer was not running",
    CoverageState.SHED: "analysis is slower than the cameras",
    CoverageState.CORRUPT: "windows could not be analysed",
}
COVERAGE_STATES: Mapping[HealthState, Collection[CoverageState]] = {
    **{each: [CoverageState(each)] for each in HealthState if each in set[str](CoverageState)},
    HealthState.UNWATCHED: UNWATCHED_CAUSES.keys(),
    HealthState.CLOCK_AHEAD: [],
}
"""The coverage in which each state is active: for most, the coverage of the same name.

All other coverage clears it, except that `waiting` says nothing about `unwatched`.
"""
_UNKNOWN = {(HealthState.UNWATCHED, CoverageState.WAITING)}
NEVER_CLEARED = {HealthState.ROLE_DOWN, HealthState.UNDELIVERED}
"""No sample says that these are over: they end when none came for long."""


def is_health(question: str) -> bool:
    """Return whether a question is a health state, and not one for the model."""
    return question.startswith(HEALTH_PREFIX)


def health_sentence(question: str) -> str:
    """Return what is the case while a health question is active."""
    return HEALTH_SENTENCES[HealthState(question.removeprefix(HEALTH_PREFIX))]


def health_samples(
    camera: str, state: str, start: datetime, end: datetime, reason: str = ""
) -> Iterator[RuleSample]:
    """Yield the samples of a coverage interval, in order, with its reason."""
    covered = CoverageState(state)
    id = f"{camera}@{start.isoformat(timespec='milliseconds')}/{state}"
    for name, active_in in COVERAGE_STATES.items():
        if (name, covered) in _UNKNOWN:
            continue
        if covered not in active_in:
            yield _sample(camera, name, end, f"{id}/{end.isoformat()}", is_active=False)
            continue
        default = UNWATCHED_CAUSES[covered] if name is HealthState.UNWATCHED else ""
        for at in (start, end):
            sample_id = f"{id}/{at.isoformat()}"
            yield _sample(camera, name, at, sample_id, is_active=True, reason=reason or default)


def unreported_samples(camera: str, end: datetime, now: datetime) -> Iterator[RuleSample]:
    """Yield that nobody watches a camera whose coverage ended before `UNREPORTED_AFTER`.

    Call it only if the ledger has all claims of the log, or if the log cannot be read.
    """
    if now - end > UNREPORTED_AFTER:
        for at in (end + UNREPORTED_AFTER, now):
            id = f"{camera}@{at.isoformat()}/unheard"
            state = HealthState.UNWATCHED
            yield _sample(camera, state, at, id, is_active=True, reason=_UNREPORTED)


def undelivered_sample(receiver: str, at: datetime, id: str, reason: str = "") -> RuleSample:
    """Return that a receiver did not get a message; `id` is that of the delivery."""
    camera, id = f"receiver/{receiver}", id or at.isoformat()
    reason = one_line(reason, MAX_REASON)
    return _sample(camera, HealthState.UNDELIVERED, at, id, is_active=True, reason=reason)


def role_from_camera(camera: str) -> str | None:
    """Return the role that an incident is about; None if it is about something else."""
    return camera.removeprefix(_ROLE) if camera.startswith(_ROLE) else None


def role_sample(role: str, at: datetime, *, is_active: bool, reason: str = "") -> RuleSample:
    """Return whether a role cannot run as it is configured, and why."""
    id, state = f"{role}@{at.isoformat()}", HealthState.ROLE_DOWN
    return _sample(_ROLE + role, state, at, id, is_active=is_active, reason=reason)


def ahead_sample(camera: str, at: datetime) -> RuleSample:
    """Return that a camera's clock is ahead of ours; its next coverage interval clears it."""
    id = f"{camera}@{at.isoformat()}"
    return _sample(camera, HealthState.CLOCK_AHEAD, at, id, is_active=True)


def behind_sample(reader: str, at: datetime, *, is_active: bool) -> RuleSample:
    """Return whether the clock of a reader of the log is in doubt."""
    return _reader_sample(reader, HealthState.CLOCK_BEHIND, at, is_active=is_active)


def unreachable_sample(
    reader: str, at: datetime, *, is_active: bool, reason: str = ""
) -> RuleSample:
    """Return whether the log does not answer a reader, and why."""
    state, reason = HealthState.LOG_UNREACHABLE, one_line(reason, MAX_REASON)
    return _reader_sample(reader, state, at, is_active=is_active, reason=reason)


def reader_camera(reader: str) -> str:
    """Return the `camera` of incidents about a reader of the log."""
    return f"reader/{reader}"


def _reader_sample(
    reader: str, state: HealthState, at: datetime, *, is_active: bool, reason: str = ""
) -> RuleSample:
    camera = reader_camera(reader)
    id = f"{camera}@{at.isoformat()}"
    return _sample(camera, state, at, id, is_active=is_active, reason=reason)


def _sample(
    camera: str, state: HealthState, at: datetime, id: str, *, is_active: bool, reason: str = ""
) -> RuleSample:
    return RuleSample(
        id=f"{id}/{state}",
        camera=camera,
        question=HEALTH_PREFIX + state,
        at=at,
        score=1.0 if is_active else 0.0,
        reason=reason,
    )
