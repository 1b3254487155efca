"""Durations as people write them in settings: `500ms`, `16s`, `1h30m`."""

import re
from datetime import timedelta

_PATTERN = re.compile(
    r"(?=\d)(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?",
    re.ASCII,
)


def parse_duration(text: object) -> timedelta:
    """Read `1d`, `1h30m`, `16s`, `500ms` or `0s`; raise ValueError for anything else.

    A timedelta is returned as it is.
    """
    if isinstance(text, timedelta):
        return text
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("write a duration as 500ms, 16s, 2m, 1h30m or 7d (units d h m s ms)")
    days, hours, minutes, seconds, milliseconds = (int(group or 0) for group in match.groups())
    return timedelta(
        days=days,
        hours=hours,
        minutes=minutes,
        seconds=seconds,
        milliseconds=milliseconds,
    )


def format_duration(duration: timedelta) -> str:
    """Format a duration as `parse_duration` parses it, to the millisecond."""
    left, text = round(duration / timedelta(milliseconds=1)), ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"
