"""When something happened, and what happened meanwhile: questions answered in free text.

A model's text is untrusted: a time that is not within what was shown is no answer. Seconds
count as the timestamps do, from the start of the epoch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.videoxl2.arena import Form
from analyzer.videoxl2.speaker import Speaker

WHEN = (
    "During which span of the video can this be seen: {event}? Answer with its start and end, "
    'as in "12.0s - 30.5s", or with "never".'
)
WHAT = "What happens between {start:.1f} seconds and {end:.1f} seconds of the video?"
SPAN_ROOM, SUMMARY_ROOM = 32, 256
"""Tokens that an answer may have."""

_TIME = r"(?:(\d{1,3}):([0-5]\d(?:\.\d+)?)|(\d{1,6}(?:\.\d+)?))(?![\d:])"
_UNIT = r"\s*(?:s|sec|secs|second|seconds)?\b"
_SPAN = re.compile(rf"(?<![\d.:-]){_TIME}{_UNIT}\s*(?:-|–|—|to|and|until)\s*{_TIME}", re.IGNORECASE)
_NEVER = re.compile(r"\b(never|not|no|none)\b", re.IGNORECASE)


class Unclear(Exception):
    """Say that an answer cannot be understood, with its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A span of stream time, in seconds."""

    start: float
    end: float


def when(speaker: Speaker, event: str, behind: Sequence[Form], shown: Moment) -> Moment | None:
    """Return during which span of what was shown an event can be seen, or None for never.

    Raises Unclear for an answer that is neither, or that lies outside of what was shown.
    """
    return read_span(speaker.say(WHEN.format(event=event), behind, SPAN_ROOM), shown)


def what(speaker: Speaker, span: Moment, behind: Sequence[Form]) -> str:
    """Return what happened during a span, in the model's words."""
    return speaker.say(WHAT.format(start=span.start, end=span.end), behind, SUMMARY_ROOM)


def read_span(text: str, shown: Moment) -> Moment | None:
    """Return the first span that a text tells, in seconds or mm:ss, or None where it denies."""
    found = _SPAN.search(text)
    if not found:
        if _NEVER.search(text):
            return None
        raise Unclear(f"no span of time in the answer: {text[:80]!r}")
    start, end = _seconds(*found.groups()[:3]), _seconds(*found.groups()[3:])
    if not shown.start <= start <= end <= shown.end:
        raise Unclear(
            f"{start:g} s to {end:g} s is no span within {shown.start:g} s to {shown.end:g} s"
        )
    return Moment(start=start, end=end)


def _seconds(minutes: str | None, rest: str | None, seconds: str | None) -> float:
    if minutes is not None and rest is not None:
        return 60 * int(minutes) + float(rest)
    return float(seconds or 0)
