"""What `longwatch backtest` prints: JSON for machines, tables and lines for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from deploy.cli.common import format_instant
from ingest.files.coverage import FileCoverage, SkipReason
from storage.records.wire import incident_fields

if TYPE_CHECKING:
    from deploy.backtest.video import BacktestResult

_SKIP_TEXTS = {
    SkipReason.PAUSE: "a pause in the recording",
    SkipReason.DAMAGED: "damaged video",
    SkipReason.TOO_SHORT: "too short, fewer than 4 pictures",
    SkipReason.NO_PICTURE: "no picture at the beginning or the end, as in a file that is cut off",
}


def backtest_fields(result: "BacktestResult") -> dict[str, Any]:
    """Return what would have fired, and what was looked at; times in seconds."""
    rate = result.framerate
    return {
        "camera": result.camera,
        "windows": result.windows,
        "findings": result.findings,
        "unanswered": result.unanswered,
        "seconds": round(result.coverage.seconds, 3),
        "looked_at": round(result.coverage.watched_seconds, 3),
        "skipped": [
            {
                "start": each.start.isoformat(),
                "end": each.end.isoformat(),
                "seconds": round(each.seconds, 3),
                "reason": each.reason,
            }
            for each in result.coverage.skipped
        ],
        "joins": result.coverage.joins,
        "notes": result.notes,
        "framerate": rate and {"fps": rate.fps, "is_guess": rate.is_guess},
        "speed": result.speed,
        "incidents": [
            incident_fields(fired.incident) | {"peak_score": fired.peak_score}
            for fired in result.fired_incidents
        ],
    }


def backtest_table(result: "BacktestResult") -> Table:
    """Return what would have fired, for a person."""
    table = Table("rule", "camera", "opened", "closed", "peak score")
    for fired in result.fired_incidents:
        incident = fired.incident
        times = (format_instant(incident.opened_at), format_instant(incident.closed_at))
        table.add_row(incident.rule, incident.camera, *times, f"{fired.peak_score:.2f}")
    return table


def coverage_table(coverage: "FileCoverage") -> Table:
    """Return what of a recording was looked at, and what not and why."""
    table = Table("video", "seconds", "times")
    table.add_row("looked at", f"{coverage.watched_seconds:.1f}", "")
    for reason, words in _SKIP_TEXTS.items():
        parts = [each.seconds for each in coverage.skipped if each.reason == reason]
        if parts:
            table.add_row(f"skipped: {words}", f"{sum(parts):.1f}", str(len(parts)))
    if coverage.joins:
        words = "unknown: the timestamps jump back, or ahead by more than 12 h"
        table.add_row(words, "?", str(coverage.joins))
    return table


def backtest_notes(result: "BacktestResult") -> Iterator[str]:
    """Yield, one line each, what else a person should know of a backtest."""
    if result.framerate is not None:
        message = f"the video has no timestamps: read at {result.framerate.fps:g} frames a second"
        hint = ", which is a guess: name its rate with --framerate"
        yield message + (hint if result.framerate.is_guess else "")
    yield from (f"of the file: {note}" for note in result.notes)
    if result.unanswered:
        yield f"{result.unanswered} questions got no answer: the model's answer was no number"
    yield (
        f"{result.windows} windows, {result.findings} findings; looked at"
        f" {result.coverage.watched_seconds:.0f} of {result.coverage.seconds:.0f} s of video"
        f" in {result.elapsed:.1f} s, {result.speed:.1f} x real time"
    )


def no_coverage_message(video: str, coverage: "FileCoverage") -> str:
    """Return, in one line, that and why a video was not looked at, and what to do."""
    reasons = {each.reason for each in coverage.skipped}
    why = "; ".join(words for reason, words in _SKIP_TEXTS.items() if reason in reasons)
    return (
        f"{video}: nothing of its {coverage.seconds:.1f} s was looked at ({why or 'no picture'}):"
        " choose a recording with four pictures or more, one after the other"
    )
