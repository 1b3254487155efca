"""The reply of the analyzer to a question, as text."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime

from deploy.cli.common import format_instant
from storage.records.queries import QueryReply
from storage.records.records import TimeSpan


def reply_lines(reply: QueryReply) -> Iterator[str]:
    """Yield the answer, since when it is so, the spans read in full, and the memory's start."""
    if reply.answer is None or reply.since is None or reply.until is None:
        yield f"I no longer remember anything of {reply.camera}."
        return
    day = reply.until.date()
    or_before = " or before" if reply.since_or_before else ""
    since = f"{_format_hour(reply.since, day)}{or_before}"
    until = format_instant(reply.until)
    yield f"{reply.answer} ({reply.score:.2f}), since {since}, seen until {until}"
    if reply.text is not None:
        yield reply.text
    if reply.seen:
        yield f"yes: {_format_spans(reply.seen, day)}"
    yield f"read in full: {_format_spans(reply.dense, day)}"
    if reply.remembers_from is not None:
        rest = "; what was before that I no longer remember." if reply.forgotten else "."
        yield f"I remember since {_format_hour(reply.remembers_from, day)}{rest}"


def _format_spans(spans: Sequence[TimeSpan], day: date) -> str:
    return ", ".join(
        f"{_format_hour(span.start, day)} to {_format_hour(span.end, day)}" for span in spans
    )


def _format_hour(at: datetime, day: date) -> str:
    """Write an instant, without its date if that is `day`."""
    return at.strftime("%H:%M:%SZ") if at.date() == day else format_instant(at)
