"""Questions that a person asks once, and their replies; the standard library alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from storage.records.records import TimeSpan, YesNoAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRequest:
    """A question that a person asks once, about the last `look_back` or all that is remembered.

    After `expires_at` nobody waits for the reply. `in_words` asks for an answer in words too.
    `zone` is the zone of the camera that it is about.
    """

    id: UUID
    camera: str
    ask: str
    expires_at: datetime
    in_words: bool = False
    look_back: timedelta | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReply:
    """What the analyzer replied to a request.

    It answered, or it `refused` and says why, or all of it is `forgotten`; an answer with
    `forgotten` goes back less far than was asked. The memory lasts from `remembers_from` to
    `until`, and `dense` is what was read in full. `since` is the start of the unbroken run of
    windows with this answer, as far back as was looked: the run goes on before it where
    `since_or_before`. `seen` is when, as far back as was looked, the answer was yes. `score` is
    the model's own, not calibrated by what is usual.
    """

    request_id: UUID
    camera: str
    model: str
    answer: YesNoAnswer | None = None
    score: float | None = None
    margin: float | None = None
    since: datetime | None = None
    since_or_before: bool = False
    text: str | None = None
    remembers_from: datetime | None = None
    until: datetime | None = None
    forgotten: bool = False
    dense: tuple[TimeSpan, ...] = ()
    seen: tuple[TimeSpan, ...] = ()
    refused: str | None = None
