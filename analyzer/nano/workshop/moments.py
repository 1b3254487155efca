"""When something happened, and what happened meanwhile: questions answered in free text.

A model's text is untrusted: a time that is not within what was shown is no answer. Seconds
count as the timestamps do, from the start of the epoch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.kv.arena.arena import AnyChunk
from analyzer.models.runner import ModelRunner

SPAN_PROMPT = (
    "During which span of the video can this be seen: {event}? Answer with its start and end, "
    'as in "12.0s - 30.5s", or with "never".'
)
SUMMARY_PROMPT = "What happens between {start:.1f} seconds and {end:.1f} seconds of the video?"
SPAN_MAX_TOKENS, SUMMARY_MAX_TOKENS = 32, 256
"""Tokens that an answer may have."""

_TIME = r"(?:(\d{1,3}):([0-5]\d(?:\.\d+)?)|(\d{1,6}(?:\.\d+)?))(?![\d:])"
_UNIT = r"\s*(?:s|sec|secs|second|seconds)?\b"
_SPAN = re.compile(rf"(?<![\d.:-]){_TIME}{_UNIT}\s*(?:-|–|—|to|and|until)\s*{_TIME}", re.IGNORECASE)
_NEVER = re.compile(r"\b(never|not|no|none)\b", re.IGNORECASE)


class UnclearAnswer(Exception):
    """Say that an answer cannot be understood, with its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondsSpan:
    """A span of stream time, in seconds."""

    start: float
    end: float


def ask_when(
    runner: ModelRunner, event: str, context: Sequence[AnyChunk], remembered: SecondsSpan
) -> SecondsSpan | None:
    """Return during which span of what was shown an event can be seen, or None for never.

    Raises Unclear for an answer that is neither, or that lies outside of what was shown.
    """
    return parse_span(
        runner.generate(SPAN_PROMPT.format(event=event), context, SPAN_MAX_TOKENS), remembered
    )


def ask_what_happened(runner: ModelRunner, span: SecondsSpan, context: Sequence[AnyChunk]) -> str:
    """Return what happened during a span, in the model's words."""
    return runner.generate(
        SUMMARY_PROMPT.format(start=span.start, end=span.end), context, SUMMARY_MAX_TOKENS
    )


def parse_span(text: str, remembered: SecondsSpan) -> SecondsSpan | None:
    """Return the first span that a text tells, in seconds or mm:ss, or None where it denies."""
    found = _SPAN.search(text)
    if not found:
        if _NEVER.search(text):
            return None
        raise UnclearAnswer(f"no span of time in the answer: {text[:80]!r}")
    start, end = _seconds(*found.groups()[:3]), _seconds(*found.groups()[3:])
    if not remembered.start <= start <= end <= remembered.end:
        limits = f"{remembered.start:g} s to {remembered.end:g} s"
        raise UnclearAnswer(f"{start:g} s to {end:g} s is no span within {limits}")
    return SecondsSpan(start=start, end=end)


def _seconds(minutes: str | None, rest: str | None, seconds: str | None) -> float:
    if minutes is not None and rest is not None:
        return 60 * int(minutes) + float(rest)
    return float(seconds or 0)
