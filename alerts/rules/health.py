"""The states that health rules judge, and the samples that say whether each is active.

No model is involved. Most states come from the coverage ledger: whenever the latest interval of a
camera grows or changes its state, each `health/...` question gets a score of 1 or 0. The sample of
an active state is repeated at the start of the interval, so an incident begins when the camera
went down and not when that was noticed. It carries a reason if one is known: why the camera is
down or, for `unwatched`, which of its causes applies.

To add a state, add a member to `HealthState` and its line to `HEALTH`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
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


UNWATCHED_CAUSES: Mapping[CoverageState, str] = {
    CoverageState.CAMERA_DOWN: "the camera is down",
    CoverageState.STREAM_BROKEN: "the camera's stream gives no pictures",
    CoverageState.OVERLOADED: "the machine that reads the camera is too slow",
    CoverageState.INGEST_DOWN: "the camera's process was not running",
    CoverageState.ANALYZER_DOWN: "the analyzer was not running",
    CoverageState.SHED: "analysis is slower than the cameras",
    CoverageState.CORRUPT: "windows could not be analysed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthQuestion:
    """How a health state is reported, and what makes it active.

    `coverage` are the ledger's states in which it is active. `is_cleared_by_coverage`: every other
    interval clears it; in one of `unknown` it is unknown. `is_reported_when_over`: its end is
    reported too; a state without that ends when no sample came for long.
    """

    sentence: str
    coverage: Collection[CoverageState] = frozenset()
    unknown: Collection[CoverageState] = frozenset()
    is_cleared_by_coverage: bool = False
    is_reported_when_over: bool = True


def _coverage_question(
    sentence: str,
    *coverage: CoverageState,
    unknown: Collection[CoverageState] = frozenset(),
) -> HealthQuestion:
    return HealthQuestion(
        sentence=sentence, coverage=coverage, unknown=unknown, is_cleared_by_coverage=True
    )


HEALTH: Mapping[HealthState, HealthQuestion] = {
    HealthState.CAMERA_DOWN: _coverage_question("no video", CoverageState.CAMERA_DOWN),
    HealthState.STREAM_BROKEN: _coverage_question(
        "the stream gives no pictures", CoverageState.STREAM_BROKEN
    ),
    HealthState.OVERLOADED: _coverage_question(
        "the machine is too slow for its cameras", CoverageState.OVERLOADED
    ),
    HealthState.MOVED: _coverage_question("the camera was turned", CoverageState.MOVED),
    HealthState.FROZEN: _coverage_question("the picture is frozen", CoverageState.FROZEN),
    HealthState.COVERED: _coverage_question("the camera is covered or dark", CoverageState.COVERED),
    HealthState.UNWATCHED: _coverage_question(
        "nobody watches this camera", *UNWATCHED_CAUSES, unknown={CoverageState.WAITING}
    ),
    HealthState.CLOCK_AHEAD: _coverage_question("its clock is ahead of ours"),
    HealthState.CLOCK_BEHIND: HealthQuestion(sentence="our own clock seems to be behind"),
    HealthState.LOG_UNREACHABLE: HealthQuestion(sentence="the log does not answer"),
    HealthState.ROLE_DOWN: HealthQuestion(
        sentence="it cannot run as it is configured", is_reported_when_over=False
    ),
    HealthState.UNDELIVERED: HealthQuestion(
        sentence="messages are not delivered", is_reported_when_over=False
    ),
}


def is_health(question: str) -> bool:
    """Return whether a question is a health state, and not one for the model."""
    return question.startswith(HEALTH_PREFIX)


def health_sentence(question: str) -> str:
    """Return what is the case while a health question is active."""
    return HEALTH[HealthState(question.removeprefix(HEALTH_PREFIX))].sentence


def health_samples(
    camera: str, state: str, start: datetime, end: datetime, reason: str = ""
) -> Iterator[RuleSample]:
    """Yield the samples of a coverage interval, in order, with its reason."""
    covered = CoverageState(state)
    id = f"{camera}@{start.isoformat(timespec='milliseconds')}/{state}"
    for name, question in HEALTH.items():
        if not question.is_cleared_by_coverage or covered in question.unknown:
            continue
        if covered not in question.coverage:
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
