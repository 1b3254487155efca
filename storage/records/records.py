"""The records that travel between the packages and outlive a process.

Identity comes from the camera and from time, so a replay yields the same ids and every
later write is an upsert. This module imports the standard library alone.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class ClockSource(StrEnum):
    """Where the time of a still came from."""

    CAMERA_NTP = "camera_ntp"
    RECEIVED = "received"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowClock:
    """The clock of a window; `offset` is camera time minus receive time, in seconds."""

    source: ClockSource
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """One JPEG picture and the UTC instant at which the camera saw it."""

    at: datetime
    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSpan:
    """A piece of time or of video, from its first still to its last."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Consecutive stills of one camera; `after_gap` says that the stream broke before them.

    `covers` is the time that it accounts for in the coverage, by the clock of the ingest host; it
    begins at the end of the last claim. Windows of earlier versions have none. `is_set_back` says
    that the clock of its stills went back, so that its time may overlap an earlier window.
    """

    camera: str
    stills: tuple[Still, ...]
    clock: WindowClock
    after_gap: bool
    covers: TimeSpan | None = None
    is_set_back: bool = False

    @property
    def start(self) -> datetime:
        """The instant of the first still."""
        return self.stills[0].at

    @property
    def end(self) -> datetime:
        """The instant of the last still."""
        return self.stills[-1].at

    @property
    def id(self) -> str:
        """`camera@start`, the same for the same stills at every replay."""
        return f"{self.camera}@{self.start.isoformat(timespec='milliseconds')}"


class YesNoAnswer(StrEnum):
    """What the model answered to a yes/no question."""

    YES = "yes"
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the model answered to one question at the end of one window.

    `margin` is logit(yes) - logit(no); `score` maps it to 0..1; `since` is the start of the
    unbroken run of windows with this answer; `memory_span` is how many seconds of video the
    model remembered when it answered; `model` names the exact weights. `second_look` is the
    score when the same stills were read again in full, without the memory; it is taken when a
    run of yes begins. `zone` is the camera's zone that the question names, None for a question
    about the whole picture.
    """

    window_id: str
    camera: str
    question: str
    question_version: str
    start: datetime
    end: datetime
    score: float
    margin: float
    answer: YesNoAnswer
    since: datetime
    model: str
    memory_span: float
    second_look: float | None = None
    zone: str | None = None

    @property
    def id(self) -> str:
        """The same for the same window, question and version of the question."""
        return f"{self.window_id}/{self.question}/{self.question_version}"


class IncidentState(StrEnum):
    """The life of an incident: pending while `for` runs, then open, then resolved.

    `ACKNOWLEDGED` is open, and somebody has taken it on. `DISMISSED` is a pending incident
    whose condition ended before `for` had passed.
    """

    PENDING = "pending"
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    DISMISSED = "dismissed"


LIVE_STATES = (IncidentState.PENDING, IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
"""The states of an incident that has not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A rule that fired on a camera; `evidence` holds the ids of the findings behind it.

    `first_seen_at` is the end of the first finding above the threshold; `opened_at` is the
    end of the finding at which `for` had passed; `last_seen_at` is the end of the latest
    finding that kept it alive. Every change is a new `revision`. `closed_because` says what
    closed it: the rule, its end (`retired`), the clock (`swept`, for nothing was heard any more)
    or a person. `reason` is the latest known cause, in words, of a health incident.
    """

    id: UUID
    camera: str
    rule: str
    rule_version: str
    severity: str
    state: IncidentState
    first_seen_at: datetime
    opened_at: datetime | None
    last_seen_at: datetime
    closed_at: datetime | None
    evidence: tuple[str, ...]
    revision: int
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    closed_because: str | None = None
    summary: str = ""
    reason: str = ""

    @property
    def is_live(self) -> bool:
        """Return whether it is pending, open or acknowledged."""
        return self.closed_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRevision:
    """A change of an incident: the incident after it, who changed it, and their note."""

    incident: Incident
    who: str
    note: str = ""


class EvidenceMoment(StrEnum):
    """Which window of an incident's opening stills belong to."""

    BEFORE = "before"
    AT = "at"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceStill:
    """The stills of one window of an incident: the digest of them, or why they are `missing`."""

    moment: EvidenceMoment
    window_id: str | None = None
    digest: str | None = None
    missing: str | None = None


class CoverageState(StrEnum):
    """The state of one second of a camera, by precedence.

    Of two claims for the same second, the later state in this list wins: a picture over its
    absence, and what a picture shows (nothing) over that the analyzer read it. `WAITING` is not
    final: the pictures are in the log and the analyzer has not read them yet.
    """

    INGEST_DOWN = "ingest_down"
    CAMERA_DOWN = "camera_down"
    STREAM_BROKEN = "stream_broken"
    OVERLOADED = "overloaded"
    WAITING = "waiting"
    ANALYZER_DOWN = "analyzer_down"
    SHED = "shed"
    CORRUPT = "corrupt"
    ANALYSED = "analysed"
    MOVED = "moved"
    FROZEN = "frozen"
    COVERED = "covered"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageInterval:
    """The state of a camera from `start` up to, and without, `end`, and its reason if known."""

    camera: str
    start: datetime
    end: datetime
    state: CoverageState
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A log entry that could not be read: its position, the reason, and its own bytes.

    If the bytes are too many, `value` has the first ones, `size` is the number of all, and
    `sha256` is the digest of all. A `size` of 0 means that `value` is whole.
    """

    topic: str
    offset: int
    key: str
    reason: str
    value: bytes
    size: int = 0
    sha256: str = ""

    @property
    def is_whole(self) -> bool:
        """Return whether all bytes of the entry were kept."""
        return not self.size
