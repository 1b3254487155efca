"""Active hours: weekly spans of local time in a time zone.

`Mon-Fri 18:00-06:00 Europe/Berlin`: days (`Mon,Wed`, `Fri-Sun`; none means all), begin and end
(exclusive; `24:00` is the end of the day), and an IANA time zone. A span over midnight belongs to
the day on which it begins: the one above ends on Saturday morning.

When the clocks change, each span stays in one piece:

| local time                        | as the begin of a span | as the end of a span |
|-----------------------------------|------------------------|----------------------|
| that does not exist (spring)      | the clocks' change     | the clocks' change   |
| that comes twice (autumn)         | the first              | the second           |

So a span within the hour that spring skips is empty on that day, a span that begins or ends in
the hour that autumn repeats includes both, and all other spans change with the night.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import PlainValidator

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_PATTERN = re.compile(r"(?:([A-Za-z,-]+) +)?(\d\d):(\d\d)-(\d\d):(\d\d) +(\S+)", re.ASCII)
_SYNTAX_HINT = "write it as Mon-Fri 18:00-06:00 Europe/Berlin"
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeeklySpan:
    """A span of local time; `begin` and `end` count from midnight of its day."""

    days: frozenset[int]
    begin: timedelta
    end: timedelta
    zone: ZoneInfo

    def interval_on(self, day: date) -> tuple[datetime, datetime] | None:
        """Return the span of a local day in UTC, None if that day has none."""
        if day.weekday() not in self.days:
            return None
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001  (local, zone follows)
        begin = _utc_instant(midnight + self.begin, self.zone, fold=0)
        end = _utc_instant(midnight + self.end, self.zone, fold=1)
        return (begin, end) if begin < end else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """The union of spans; `text` is their notation."""

    text: tuple[str, ...]
    spans: tuple[WeeklySpan, ...]

    @classmethod
    def parse(cls, *texts: str) -> "Hours":
        """Parse spans; raises ValueError with what to write."""
        return cls(text=texts, spans=tuple(map(_parse_span, texts)))

    def is_active_at(self, at: datetime) -> bool:
        """Return whether an instant is within a span."""
        day = at.astimezone(UTC).date()
        return any(begin <= at < end for begin, end in _intervals_around(self.spans, day))


def _parse_hours(value: object) -> Hours:
    if isinstance(value, Hours):
        return value
    if not isinstance(value, str):
        raise ValueError(_SYNTAX_HINT)
    return Hours.parse(value)


ActiveHours = Annotated[Hours, PlainValidator(_parse_hours)]
"""Hours as they are written in the settings."""


@lru_cache(maxsize=4096)
def _intervals_around(
    spans: tuple[WeeklySpan, ...], day: date
) -> tuple[tuple[datetime, datetime], ...]:
    """Return the spans that may overlap a day of UTC, in UTC."""
    local_days = [day + n * _DAY for n in (-2, -1, 0, 1)]
    found = [span.interval_on(local) for span in spans for local in local_days]
    return tuple(each for each in found if each is not None)


def _utc_instant(local: datetime, zone: ZoneInfo, fold: int) -> datetime:
    """Return the instant of a local time; the clock change if that time is skipped."""
    first, second = (
        local.replace(tzinfo=zone, fold=each).astimezone(UTC).replace(microsecond=0)
        for each in (0, 1)
    )
    if first <= second:
        return second if fold else first
    return _clock_change(second, first, zone)


def _clock_change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the first second between two instants with the zone's new UTC offset."""
    old = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after


def _parse_span(text: str) -> WeeklySpan:
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(_SYNTAX_HINT)
    days, *clock, zone = match.groups()
    hours = [int(part) for part in clock]
    begin, end = _parse_time(*hours[:2]), _parse_time(*hours[2:])
    if begin in (_DAY, end):
        raise ValueError("it never begins: write 00:00-24:00 for whole days")
    return WeeklySpan(
        days=frozenset(_parse_days(days)) if days else frozenset(range(7)),
        begin=begin,
        end=end if end > begin else end + _DAY,
        zone=_parse_zone(zone),
    )


def _parse_time(hour: int, minute: int) -> timedelta:
    if minute > 59 or (hour, minute) > (24, 0):
        raise ValueError(f"no clock shows {hour:02}:{minute:02}: write 00:00 to 24:00")
    return timedelta(hours=hour, minutes=minute)


def _parse_days(text: str) -> set[int]:
    found = set[int]()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin, end = _parse_day(first), _parse_day(last if dash else first)
        found |= {n % 7 for n in range(begin, end + 1 if end >= begin else end + 8)}
    return found


def _parse_day(text: str) -> int:
    if text.title() not in DAYS:
        raise ValueError(f"no day is called {text!r}: write {', '.join(DAYS)}")
    return DAYS.index(text.title())


def _parse_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # missing, outside the folder, or a folder
        known = {zone.lower(): zone for zone in available_timezones()}
    word = name.lower()
    cities = [zone for zone in sorted(known) if zone.endswith(f"/{word}")]
    near = cities[:3] or get_close_matches(word, known, n=3)
    suggestions = ", ".join(known[zone] for zone in near)
    hint = (
        f"did you mean {suggestions}?" if suggestions else "write one such as Europe/Berlin or UTC"
    )
    raise ValueError(f"no time zone is called {name!r}: {hint}")
